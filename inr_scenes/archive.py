"""Archives: one .safetensors file with weights and a JSON header. Opening needs no data set and runs no code."""

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import InrError, suggestion
from .files import atomic, readable
from .settings import from_dict, to_dict

if TYPE_CHECKING:
    from .field import Field
    from .generalizable import GeneralizableField

FORMAT = 1                          # raised when an older program could misread a newer file
KEY = "inr_scenes"                  # of safetensors' string-to-string metadata
LARGEST_HEADER = 1 << 26
CAMERA_TENSORS = ("poses", "focal", "centre", "size")
ARCHIVE_NAME = "field.safetensors"  # of a run folder


def save(field: "Field | GeneralizableField", path, *, metrics: dict[str, float] | None = None,
         fit: dict[str, Any] | None = None, dtype: str = "float32", share: int | None = None) -> Path:
    """Write a field's archive, whole or not at all; returns the path.

    dtype: "float32", or "float16" and "bfloat16" for half the bytes. metrics, fit: facts kept in the header. share:
    of a signal encoded by a generalizable model, only the latents in this many bits, with the hash of that model.
    """
    import torch
    from safetensors.torch import save as to_bytes

    from . import plugins

    path = Path(path).expanduser()
    kinds = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if dtype not in kinds:
        raise InrError(f"--dtype {dtype!r} is not known: {', '.join(kinds)}.")
    field = field.baked()
    tensors, weights = {}, {name for name, _ in field.named_parameters(remove_duplicate=False)}
    for name, value in (field.state_dict() if share is None else {}).items():
        value = value.detach().cpu()        # constants keep their precision: rounded frequencies are other frequencies
        tensors[f"field.{name}"] = (value.to(kinds[dtype]) if name in weights else value).contiguous()
    if field.spec.cameras is not None:
        for name in CAMERA_TENSORS:
            tensors[f"cameras.{name}"] = getattr(field.spec.cameras, name).detach().cpu().contiguous()
    owner = _owner(plugins, getattr(field, "model", type(field)))
    head = {
        "format": FORMAT, "field": field.name, "plugin": owner.distribution, "plugin_version": owner.version,
        "config": to_dict(field.config), "spec": field.spec.to_json(), "parameters": field.parameter_count,
        "dtype": dtype, "metrics": _finite(metrics or {}), "fit": fit or {},
    }
    if field.spec.cameras is not None:
        sizes = field.spec.cameras.size.tolist()
        head["views"] = [len(sizes), *(sizes[0] if sizes.count(sizes[0]) == len(sizes) else [])]
        head["samples"] = sum(height * width for height, width in sizes)
    head |= field.facts()
    if share is not None:
        head |= _share(field, share, tensors)
    path = Path(path)
    with atomic(path) as temporary:
        temporary.write_bytes(to_bytes({k: v.clone() for k, v in tensors.items()},
                                       metadata={KEY: json.dumps(head, sort_keys=True)}))
    return path


def header(path) -> dict[str, Any]:
    """Read an archive's header alone: field, plugin, config, spec, parameters, metrics, fit, and "tensors".

    Loads neither torch nor any weight. Raises InrError with one line for a truncated, foreign or newer file.
    """
    path = locate(path)
    total = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if total < 8 or length > min(total - 8, LARGEST_HEADER):
            raise InrError(f"{path} is no archive of inr_scenes, or it is truncated.")
        raw = file.read(length)
    try:
        tensors = json.loads(raw)
        metadata = tensors.pop("__metadata__", {})
        end = max((int(t["data_offsets"][1]) for t in tensors.values()), default=0)
        shapes = {name: tuple(int(n) for n in t["shape"]) for name, t in tensors.items()}
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        raise InrError(f"{path} is no archive of inr_scenes (its header is not readable).") from None
    if not isinstance(metadata, dict) or KEY not in metadata:
        raise InrError(f"{path} is a safetensors file, but not one of inr_scenes.")
    if 8 + length + end != total:
        raise InrError(f"{path} is truncated: {total} of {8 + length + end} bytes are there.")
    try:
        head = json.loads(metadata[KEY])
        version = int(head["format"])
        if version > FORMAT:
            raise InrError(f"{path} has format {version}; this inr_scenes reads up to {FORMAT}. "
                           f"Upgrade with: pip install -U inr-scenes")
        for name, kind in (("field", str), ("config", dict), ("spec", dict), ("parameters", int), ("metrics", dict)):
            if not isinstance(head[name], kind):
                raise TypeError(name)
        spec = head["spec"]
        if not (isinstance(spec["kind"], str) and isinstance(spec["meta"], dict)
                and all(isinstance(n, int) for n in (spec["out_features"], *(axis["count"] for axis in spec["axes"])))):
            raise TypeError("spec")
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        raise InrError(f"{path} is damaged: its header lacks what an archive needs.") from None
    head["tensors"] = shapes
    head["bytes"] = total
    return head


def open(path, *, device: str = "cpu", model=None) -> "Field | GeneralizableField":
    """Open an archive as a field, or as a generalizable model, in evaluation mode.

    device: "auto" or a torch device. model: the generalizable model that shared latents need, or its archive. Raises
    InrError when the file is damaged, its plugin is missing, its weights do not fit what the header says, or its model
    is not given or another one.
    """
    import safetensors
    import torch
    from safetensors.torch import load_file

    from .device import resolve_device
    from .spec import Spec

    head = header(path)
    path = locate(path)
    try:
        spec = Spec.from_json(head["spec"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InrError(f"{path} is damaged: its spec does not make sense ({error}).") from None
    make, configs = _maker(path, head, spec)
    if head.get("share") is None:
        _check_shapes(path, make, configs, spec, head["tensors"])
    try:
        tensors = load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise InrError(f"{path} is damaged ({error}).") from None
    spec = spec.replace(cameras=_cameras(path, tensors))
    if head.get("share") is not None:
        field = _open_shared(path, head, tensors, model, functools.partial(make, spec))
        return field.to(resolve_device(device)).eval().requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        field = make(spec)
    state = {name.removeprefix("field."): value for name, value in tensors.items() if name.startswith("field.")}
    _load(path, field, state)
    if field.parameter_count != head["parameters"]:
        raise InrError(f"{path} is damaged: it says {head['parameters']} parameters and holds {field.parameter_count}.")
    return field.to(resolve_device(device)).eval().requires_grad_(False)


def _maker(path, head: dict[str, Any], spec) -> tuple[Callable[[Any], Any], list[Any]]:
    """Return what builds the archive's object from a spec, and the configs it is built of."""
    from .generalizable import BoundField
    from .plugins import find_field, find_model, find_prior
    from .windows import WindowedField, Windows

    role = head.get("role")
    try:
        windows = Windows.from_json(head["windows"], spec) if "windows" in head else None
        drawn = head["prior"] if role == "prior" else {"model": head["field"], "config": {}, "classes": []}
        model_name, model_config = str(drawn["model"]), dict(drawn["config"])
        classes = tuple(str(name) for name in drawn["classes"])
        if role not in (None, "model", "signal", "prior"):
            raise ValueError(f"nobody knows the role {role!r}")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InrError(f"{path} is damaged: its header does not make sense ({error}).") from None
    try:
        if role is None:
            cls = find_field(head["field"])
        else:
            model = find_model(model_name)
            cls = find_prior(head["field"]) if role == "prior" else model
    except InrError as error:
        raise InrError(f"{path} needs the field {head['field']!r} of plugin {head.get('plugin')} "
                       f"{head.get('plugin_version', '')}. {error}") from None
    config = from_dict(cls.Config, head["config"], f"{path} is damaged")
    if role in (None, "model"):
        return functools.partial(cls, config), [config]
    bound = functools.partial(WindowedField, model, windows) if windows else functools.partial(BoundField, model)
    if role == "signal":
        return functools.partial(bound, config), [config]
    inner = from_dict(model.Config, model_config, f"{path} is damaged")
    return (lambda spec: cls(config, bound(inner, spec), classes)), [config, inner]


def locate(path) -> Path:
    """Return the archive file a user means: the file itself, the one in a run folder, or a plugin's by its name."""
    given, path = str(path), Path(path).expanduser()
    if not path.exists() and not path.suffix and path.name == given:
        from .plugins import host
        known = {item.name: item.path for item, _ in host().collect("inr_weights")}
        if given not in known and (hint := suggestion(given, known)):
            raise InrError(f"{path} does not exist.{hint}")
        path = known.get(given, path)
    if path.is_dir():
        if not (path / ARCHIVE_NAME).is_file():
            raise InrError(f"{path} is a folder without {ARCHIVE_NAME}.")
        path = path / ARCHIVE_NAME
    return readable(path)


def _share(field, bits: int, tensors: dict) -> dict[str, Any]:
    """Add a bound field's latents in `bits` to `tensors`; return what the header says of them."""
    from .generalizable import digest, pack

    if getattr(field, "role", "") != "signal":
        raise InrError("Only a signal encoded by a generalizable model can be shared as latents alone.")
    for name, value in field.latents.items():
        tensors[f"share.{name}.codes"], tensors[f"share.{name}.scales"] = pack(value, bits)
    return {"share": {"bits": bits, "model": digest(field.decoder)},
            "parameters": sum(value.numel() for value in field.latents.values())}


def _open_shared(path, head, tensors, model, make) -> "Field":
    """Bind shared latents to the model they were made with, and no other. make: builds the field."""
    import torch

    from .generalizable import GeneralizableField, digest, unpack

    if model is None:
        raise InrError(f"{path} holds latents alone; give the model that encoded it: inr.open(path, model=…), or "
                       f"--model.")
    if not isinstance(model, GeneralizableField):
        place, model = model, open(model)
        if not isinstance(model, GeneralizableField):
            raise InrError(f"{place} holds no generalizable model; inr train makes them.")
    try:
        bits, wanted = int(head["share"]["bits"]), str(head["share"]["model"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise InrError(f"{path} is damaged: its header does not say which model it needs.") from None
    if digest(model.decoder) != wanted:
        raise InrError(f"{path} was encoded by another model than the one given ({wanted[:12]} is needed, "
                       f"{digest(model.decoder)[:12]} was given).")
    try:
        with torch.device("meta"):              # before memory is taken for what the header says
            empty = make()
        if {k: v.shape for k, v in empty.decoder.state_dict().items()} != \
                {k: v.shape for k, v in model.decoder.state_dict().items()}:
            raise ValueError("its config is not its model's")
        latents = {name: unpack(tensors[f"share.{name}.codes"], tensors[f"share.{name}.scales"], value.shape, bits)
                   for name, value in empty.latents.items()}
        with torch.random.fork_rng(devices=[]):
            field = make()
        return field.filled(model.decoder, latents)
    except (KeyError, ValueError, RuntimeError, TypeError, OverflowError, MemoryError) as error:
        reason = str(error).splitlines()[0]
        raise InrError(f"{path} is damaged: its latents are not whole ({reason}).") from None


def _check_shapes(path, make, configs, spec, shapes) -> None:
    """Compare the file's tensors with what the header's configs need, before any memory is taken for them."""
    import torch

    elements = sum(math.prod(shape) for shape in shapes.values())
    samples = max([spec.size, *(2 * max(abs(axis.first), axis.stop) for axis in spec.axes)])
    counted = [(name, value) for config in configs for name, value in to_dict(config).items()
               if name not in getattr(config, "may_be_zero", ())]          # those count samples, of which 0 means all
    for name, value in counted:
        largest = max(elements, 4096, samples if isinstance(value, list) else 0)    # a list may hold sample indices
        if any(abs(v) > largest for v in _integers(value)):
            raise InrError(f"{path} is damaged: {name} = {value} cannot be, with {elements} numbers in the file.")
    try:
        with torch.device("meta"):
            expected = {f"field.{k}": tuple(v.shape) for k, v in make(spec).state_dict().items()}
    except InrError:
        raise
    except (RuntimeError, ValueError, TypeError, ZeroDivisionError, OverflowError, MemoryError) as error:
        raise InrError(f"{path} is damaged: no such field can have this config ({error}).") from None
    found = {name: shape for name, shape in shapes.items() if name.startswith("field.")}
    if found != expected:
        wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise InrError(f"{path} is damaged: {wrong[0].removeprefix('field.')} has shape {found.get(wrong[0])}, "
                       f"its config needs {expected.get(wrong[0])}.")


def _integers(value):
    if isinstance(value, list):
        for item in value:
            yield from _integers(item)
    elif isinstance(value, int):
        yield value


def _cameras(path, tensors):
    from .camera import Cameras

    found = [name for name in CAMERA_TENSORS if f"cameras.{name}" in tensors]
    if not found:
        return None
    cameras = Cameras(*(tensors.get(f"cameras.{name}") for name in CAMERA_TENSORS)) if len(found) == 4 else None
    n = len(tensors.get("cameras.poses", ()))
    shapes = {"poses": (n, 3, 4), "focal": (n, 2), "centre": (n, 2), "size": (n, 2)}
    if cameras is None or any(tuple(getattr(cameras, k).shape) != v for k, v in shapes.items()):
        raise InrError(f"{path} is damaged: its cameras are not complete.")
    return cameras


def _load(path, field, state) -> None:
    try:
        field.load_state_dict(state)
    except RuntimeError as error:
        raise InrError(f"{path} is damaged: {str(error).splitlines()[-1].strip()}") from None


def _owner(plugins, cls):
    hooks = ("inr_fields", "inr_models", "inr_priors")
    for item, owner in (pair for hook in hooks for pair in plugins.host().collect(hook)):
        if item is cls:
            return owner
    return plugins.Plugin(cls.__module__, "-", "-")


def _finite(metrics: dict[str, float]) -> dict[str, float | None]:
    return {name: value if not isinstance(value, float) or math.isfinite(value) else None
            for name, value in metrics.items()}
