"""Lightning Fabric, and the one repair its import needs where torchvision was built for another torch."""

import importlib
import sys

from .errors import InrError, need


def ensure_torchvision() -> None:
    """Make `import torchvision` work with a CPU build of torch, whose wheel lacks what torchvision's operators link to.

    torchvision registers fake versions of two operators when it is imported, which fails where the operators
    themselves did not load. Declaring them first lets everything but the compiled operators import. Does nothing where
    torchvision imports, or is not installed.
    """
    import torch

    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        ensure_torchvision.library = library        # operators live as long as their library
        importlib.import_module("torchvision")
    except ImportError:
        return


def fabric(device: str, devices: int, nodes: int = 1):
    """Return a Fabric of data-parallel processes, not yet launched."""
    ensure_torchvision()
    need("lightning", extra="fabric", why="for --devices and --nodes")
    from lightning.fabric import Fabric

    if device not in ("cpu", "cuda", "mps"):
        raise InrError(f"Several processes on {device!r} are not supported: use cpu or cuda.")
    return Fabric(accelerator=device, devices=devices, num_nodes=nodes, strategy="ddp")
