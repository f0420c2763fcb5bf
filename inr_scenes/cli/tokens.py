"""inr tokens ARCHIVE OUT.png: which region each latent token governs."""

import math
from dataclasses import dataclass
from typing import Any

from ..errors import InrError
from .common import Output, parse


@dataclass(frozen=True)
class Tokens:
    """What to look at."""

    archive: str
    """Archive of a signal encoded by a generalizable model."""
    output: str
    """Picture of one map a token, brightest where the token matters most."""
    model: str | None = None
    """The model that latents stored alone need."""
    view: int = 0
    """Light fields: the view that is mapped."""
    window: int | None = None
    """Signals encoded in windows: the one that is mapped; default: the middle one."""
    resolution: int = 64
    """Longest side of a map."""
    device: str = "auto"
    """auto or a torch device."""


def run(arguments: list[str]) -> dict[str, Any]:
    """Replace each latent token by zero and map the change; say how concentrated the maps are."""
    from ..archive import open
    from ..files import atomic
    from ..generalizable import BoundField, concentration, token_maps
    from ..media import write_image
    from ..windows import WindowedField

    options = parse((Tokens, Output), arguments, prog="tokens", description=run.__doc__ or "",
                    positional=("archive", "output"))[Tokens]
    if options.resolution < 1:
        raise InrError("--resolution must be at least 1.")
    field = open(options.archive, device=options.device, model=options.model)
    if not isinstance(field, BoundField):
        raise InrError(f"{options.archive} has no latent tokens; inr encode makes archives that have.")
    if options.window is not None and not isinstance(field, WindowedField):
        raise InrError(f"--window chooses one of several; {options.archive} was encoded in one piece.")
    window = _window(field.windows, options.window) if isinstance(field, WindowedField) else None
    field = field if window is None else field.window(window)
    coords, shape = _places(field.spec, options)
    maps = token_maps(field, coords.to(field.device)).cpu()
    with atomic(options.output) as temporary:
        write_image(temporary, _montage(maps.reshape(-1, *shape).numpy()))
    return {"output": options.output, "tokens": len(maps), "concentration": concentration(maps),
            **({} if window is None else {"window": window})}


def _window(windows, chosen: int | None) -> int:
    """Return the number of the chosen window, or of the one nearest to the middle of all."""
    if chosen is None:
        middle = [sum(along) / len(windows) for along in zip(*windows.corners)]
        return min(range(len(windows)), key=lambda i: math.dist(windows.corners[i], middle))
    if not 0 <= chosen < len(windows):
        raise InrError(f"--window {chosen} is not among the {len(windows)} windows.")
    return chosen


def _places(spec, options: Tokens):
    """Return coordinates (n, in) of a picture, and its height and width."""
    import torch

    from ..rays import in_frame

    if spec.cameras is not None:
        if not 0 <= options.view < len(spec.cameras):
            raise InrError(f"--view {options.view} is not among the {len(spec.cameras)} views.")
        height, width = spec.cameras.size[options.view].tolist()
        scale = min(1.0, options.resolution / max(height, width))
        shape = max(1, round(height * scale)), max(1, round(width * scale))
        cameras = in_frame(spec.cameras[[options.view]], spec.frame).resized(*shape)
        return cameras.pluecker(0), shape
    if options.view:
        raise InrError(f"--view chooses a view of a light field; this is of kind {spec.kind!r}.")
    if len(spec.shape) != 2:
        raise InrError(f"Tokens are mapped for images and light fields, not for signals of kind {spec.kind!r}.")
    scale = min(1.0, options.resolution / max(spec.shape))
    small = spec.resampled([max(1, round(n * scale)) for n in spec.shape])
    return small.coords(torch.arange(small.size)), small.shape


def _montage(maps):
    """Lay maps (k, h, w) in [0, 1] out in rows, with thin white lines between them."""
    import numpy as np

    columns = math.ceil(math.sqrt(len(maps)))
    rows = -(-len(maps) // columns)
    framed = np.pad(maps, ((0, rows * columns - len(maps)), (0, 1), (0, 1)), constant_values=1.0)
    height, width = framed.shape[1:]
    return framed.reshape(rows, columns, height, width).transpose(0, 2, 1, 3).reshape(rows * height, columns * width)
