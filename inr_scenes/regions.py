"""Grow a field's domain on one side: which axis a side means, and where the new samples lie."""

import torch

from .errors import InrError, suggestion
from .field import Field
from .signal import GridSignal
from .spec import Box, Spec

SIDES = {                           # side → (axis in tensor order, +1 at its end or -1 at its start)
    "image": {"right": (1, 1), "left": (1, -1), "below": (0, 1), "above": (0, -1)},
    "video": {"after": (0, 1), "before": (0, -1), "right": (2, 1), "left": (2, -1), "below": (1, 1), "above": (1, -1)},
    "audio": {"after": (0, 1), "before": (0, -1)},
    "shape": {"+x": (2, 1), "-x": (2, -1), "+y": (1, 1), "-y": (1, -1), "+z": (0, 1), "-z": (0, -1),
              "right": (2, 1), "left": (2, -1), "behind": (1, 1), "front": (1, -1), "above": (0, 1), "below": (0, -1)},
}


def side_of(spec: Spec, side: str) -> tuple[int, int]:
    """Return the axis a side lies on, and +1 for its end or -1 for its start."""
    known = SIDES.get(spec.kind, {})
    if side not in known:
        raise InrError(f"A {spec.kind} has no side {side!r}.{suggestion(side, known)} "
                       f"Known: {' '.join(known) or 'none'}.")
    return known[side]


def grown(spec: Spec, side: str, count: int) -> tuple[Spec, Box]:
    """Return the spec with `count` more samples on a side, and the box of the new ones."""
    axis, direction = side_of(spec, side)
    old = spec.axes[axis]
    low, high = (old.stop, old.stop + count) if direction > 0 else (old.first - count, old.first)
    box = tuple((low, high) if i == axis else ends for i, ends in enumerate(spec.box))
    axes = tuple(old.cropped(min(low, old.first), max(high, old.stop)) if i == axis else a
                 for i, a in enumerate(spec.axes))
    return spec.replace(axes=axes), box


def new_part(field: Field, signal: GridSignal, side: str, contains: str = "auto") -> tuple[Spec, GridSignal, str]:
    """Place a loaded signal beside what a field holds: (the larger spec, the new part as a signal, how it was read).

    contains: "new" (the file holds the new part alone), "whole" (it holds the old part too), or "auto": whole where it
    is longer and the field already knows what overlaps (20 dB or more).
    """
    spec = field.spec
    axis, direction = side_of(spec, side)
    for i, (mine, theirs) in enumerate(zip(spec.shape, signal.spec.shape)):
        if i != axis and mine != theirs:
            raise InrError(f"The signal has shape {signal.spec.shape}; beside {spec.shape} on side {side!r} all axes "
                           f"but number {axis} must agree.")
    if signal.spec.out_features != spec.out_features:
        raise InrError(f"The signal has {signal.spec.out_features} channels, the archive {spec.out_features}.")
    have, got = spec.shape[axis], signal.spec.shape[axis]
    if contains == "auto":
        contains = "whole" if got > have and _overlap_psnr(field, signal, axis, direction) > 20 else "new"
    if contains == "whole":
        if got <= have:
            raise InrError(f"The signal has {got} samples along that axis, the archive has {have} already.")
        larger, box = grown(spec, side, got - have)
        part = slice(have, got) if direction > 0 else slice(0, got - have)
    elif contains == "new":
        larger, box = grown(spec, side, got)
        part = slice(0, got)
    else:
        raise InrError(f"--contains {contains!r} is not known: auto, new or whole.")
    return larger, signal.part(larger.cropped(box), axis, part), contains


@torch.no_grad()
def _overlap_psnr(field: Field, signal: GridSignal, axis: int, direction: int) -> float:
    """PSNR of the field against the part of `signal` that would be the old region."""
    have, got = field.spec.shape[axis], signal.spec.shape[axis]
    part = slice(0, have) if direction > 0 else slice(got - have, got)
    return signal.part(field.spec, axis, part).probe(field)["psnr"]
