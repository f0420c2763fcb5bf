"""inr doctor: is every part of this installation in order, and what mends it."""

import sys
from collections.abc import Callable
from typing import Any

from .common import Output, parse


def run(arguments: list[str]) -> dict[str, Any]:
    """Check torch and its device, open3d, nerfstudio, codecs and plugins: ok, or the command that mends it."""
    parse((Output,), arguments, prog="doctor", description=run.__doc__)
    checks = {"python": _python, "torch": _torch, "compile": _compile, "kernels": _kernels, "open3d": _open3d,
              "embreex": _embreex, "nerfstudio": _nerfstudio, "video": _video, "sound": _sound,
              "viewer": _module("viser", "viewer"), "tensorboard": _module("tensorboard", "tensorboard"),
              "plugins": _plugins}
    return {"checks": {name: _report(check) for name, check in checks.items()}}


def _report(check: Callable[[], str]) -> str:
    try:
        return f"ok: {check()}"
    except Exception as error:          # whatever a broken library raises is what the user wants to read
        return f"FAIL: {error}"


def _python() -> str:
    return sys.version.split()[0]


def _torch() -> str:
    import torch

    from ..device import resolve_device
    return f"{torch.__version__}, device {resolve_device('auto')}, {torch.get_num_threads()} threads"


def _compile() -> str:
    import shutil

    found = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    return f"{found} (torch.compile can be used)" if found else "no C++ compiler; plain torch is used"


def _kernels() -> str:
    import warnings

    from .. import muon
    from ..device import precision_type, resolve_device
    from ..kernels import products
    from ..kernels.choice import set_aside, triton_obstacle
    from ..kernels.recorded import recordable
    from ..plugins import host

    device = resolve_device("auto")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")         # what is set aside is said below
        paths = {field.name: field.fast_path(device) for field in (*host().fields(), *host().models())}
        steps = recordable(device) and muon.fast_path(device)
    quick = [f"{name} {path}" for name, path in sorted(paths.items()) if path]
    why = "; ".join([*filter(None, [triton_obstacle(device)]), *(f"set aside: {reason}" for reason in set_aside())])
    return (f"on {device}: {', '.join(quick) or 'none'}; the other fields plain torch"
            f"{' (half precision: ' + str(precision_type('auto', device)).removeprefix('torch.') + ')'}"
            f"{'; steps are recorded as CUDA graphs' if recordable(device) else ''}"
            f"{', Muon ' + steps if steps else ''}"
            f"{'; float32 products by oneDNN' if device.type == 'cpu' and products.available() else ''}"
            f"{'. ' + why if why else ''}")


def _open3d() -> str:
    from ..geometry import open3d
    return open3d().__version__


def _embreex() -> str:
    from importlib.metadata import version

    from ..errors import need
    need("embreex")
    return f"{version('embreex')} (fall-back for open3d)"


def _nerfstudio() -> str:
    from importlib.metadata import version

    from ..errors import need
    need("nerfstudio.data.dataparsers.nerfstudio_dataparser", extra="nerfstudio", why="to read posed images")
    return f"{version('nerfstudio')} (dataparsers)"


def _video() -> str:
    import av

    missing = [name for name in ("libx264", "libvpx-vp9") if name not in av.codecs_available]
    return f"PyAV {av.__version__}" + (f", without {', '.join(missing)}" if missing else "")


def _sound() -> str:
    import soundfile
    return f"soundfile {soundfile.__version__}, {soundfile.__libsndfile_version__}"


def _module(name: str, extra: str) -> Callable[[], str]:
    def check() -> str:
        from importlib.metadata import version

        from ..errors import need
        need(name, extra=extra)
        return version(name)
    return check


def _plugins() -> str:
    from ..errors import InrError
    from ..plugins import conflicts, host

    twice = conflicts()                 # calls every hook: a plugin may break in one
    broken = [f"{p.name}: {p.error}" for p in host().plugins if p.error]
    if broken or twice:
        raise InrError("; ".join(broken + twice))
    return f"{len(host().plugins)} loaded"
