"""inr crop ARCHIVE OUT: keep part of the signal and of the weights."""

from dataclasses import dataclass
from typing import Any

from ..errors import InrError
from .common import Output, parse


@dataclass(frozen=True)
class Crop:
    """What to keep."""

    archive: str
    """Archive, or the run folder that holds one."""
    output: str
    """Archive to write."""
    box: tuple[float, ...] | None = None
    """Half-open box LOW… HIGH… in tensor order and the signal's own units (shapes: world x y z)."""
    keep: tuple[int, ...] | None = None
    """Blocks to keep, counted row by row; of an encoded signal tokens."""
    drop: tuple[int, ...] | None = None
    """Blocks to drop, counted row by row; of an encoded signal tokens."""
    model: str | None = None
    """The generalizable model that latents stored alone need; what is written again holds latents alone."""


def run(arguments: list[str]) -> dict[str, Any]:
    """Keep part of the signal: the weights of all other parts are removed, what is kept stays exactly as it is.

    Of a signal encoded by lainr, the tokens go that no sample in the box needs, which moves what is kept by at most
    half an 8-bit step.
    """
    from ..archive import header, open, save
    from ..units import index_box, own_box

    options = parse((Crop, Output), arguments, prog="crop", description=run.__doc__,
                    positional=("archive", "output"))[Crop]
    if options.box is None and options.keep is None and options.drop is None:
        raise InrError("say what to keep: --box LOW… HIGH…, or --keep or --drop with numbers of blocks or tokens.")
    field = open(options.archive, model=options.model)
    before = header(options.archive)
    box = index_box(field.spec, options.box) if options.box is not None else None
    small = field.crop(box, keep=options.keep, drop=options.drop)
    path = save(small, options.output, fit=before.get("fit"), dtype=before.get("dtype", "float32"),
                share=before.get("share", {}).get("bits"))
    return {"output": str(path), "parameters": small.parameter_count, "bytes": path.stat().st_size,
            "shape": [*small.spec.shape, small.spec.out_features], "box": own_box(small.spec),
            "kept": path.stat().st_size / before["bytes"]}
