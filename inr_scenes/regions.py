"""Grow a field's domain on one side: which axis a side means, and where the new samples lie."""

import math
import warnings

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
    """Return the spec with `count` more samples on a side, and the box of the new ones.

    Its meta says where the "whole" now ends along each axis, so that parts of it are found in a file of the whole.
    """
    axis, direction = side_of(spec, side)
    old = spec.axes[axis]
    low, high = (old.stop, old.stop + count) if direction > 0 else (old.first - count, old.first)
    box = tuple((low, high) if i == axis else ends for i, ends in enumerate(spec.box))
    axes = tuple(old.cropped(min(low, old.first), max(high, old.stop)) if i == axis else a
                 for i, a in enumerate(spec.axes))
    ends = [[min(low, axis.first), max(high, axis.stop)] for (low, high), axis in zip(spec.whole, axes)]
    return spec.replace(axes=axes, meta={**spec.meta, "whole": ends}), box


def new_part(field: Field, signal: GridSignal, side: str, contains: str = "auto") -> tuple[Spec, GridSignal, str]:
    """Place a loaded signal beside what a field holds: (the larger spec, the new part as a signal, how it was read).

    contains: "new" (the file holds the new part alone), "whole" (it holds the old part too), or "auto": whole where it
    is longer and the field already knows what overlaps (it explains at least half of its variance).
    """
    spec = field.spec
    axis, direction = side_of(spec, side)
    for name in ("sample_rate", "fps", "quantity"):
        mine, theirs = spec.meta.get(name), signal.spec.meta.get(name)
        if mine != theirs and None not in (mine, theirs):
            raise InrError(f"The signal's {name.replace('_', ' ')} is {theirs}, the archive's {mine}: "
                           f"they do not go on from one another.")
    cells = [s.axes[0].step * s.frame.scale if s.frame else None for s in (spec, signal.spec)]
    if None not in cells and not math.isclose(*cells, rel_tol=1e-3):
        raise InrError(f"The signal's voxels are {cells[1]:.4g} wide, the archive's {cells[0]:.4g}: they do not go on "
                       f"from one another.")
    for i, (mine, theirs) in enumerate(zip(spec.shape, signal.spec.shape)):
        if i != axis and mine != theirs:
            raise InrError(f"The signal has shape {signal.spec.shape}; beside {spec.shape} on side {side!r} all axes "
                           f"but number {axis} must agree.")
    if signal.spec.out_features != spec.out_features:
        raise InrError(f"The signal has {signal.spec.out_features} channels, the archive {spec.out_features}.")
    have, got = spec.shape[axis], signal.spec.shape[axis]
    if contains == "auto":
        contains = "whole" if got > have and _explained(field, signal, axis, direction) > 0.5 else "new"
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
    return larger, signal.part(larger.cropped(box), _along(axis, part)), contains


def around_mesh(spec: Spec, side: str, bounds) -> tuple[Spec, Box]:
    """Return the spec grown on a side until it holds a mesh of these world bounds (2, 3), one voxel stays empty; and
    the box of the new voxels. Warns where the mesh reaches beyond the archive on other sides."""
    axis, direction = side_of(spec, side)
    reach = spec.reach(bounds)
    (low, high), old = reach[axis], spec.axes[axis]
    count = math.ceil(high) + 2 - old.stop if direction > 0 else old.first - math.floor(low) + 1
    if count < 1:
        raise InrError(f"The mesh does not reach beyond the archive on side {side!r}.")
    lost = [name for name, (i, end) in SIDES["shape"].items() if name[0] in "+-" and (i, end) != (axis, direction)
            and (reach[i][1] >= spec.axes[i].stop if end > 0 else reach[i][0] <= spec.axes[i].first - 1)]
    if lost:
        warnings.warn(f"The mesh also reaches beyond the archive on side {', '.join(lost)}: what lies there is left "
                      f"out. Extend the result there next.", stacklevel=2)
    return grown(spec, side, count)


@torch.no_grad()
def _explained(field: Field, signal: GridSignal, axis: int, direction: int) -> float:
    """Share of the variance of what would be the old region of `signal` that the field explains; 1: all."""
    have, got = field.spec.shape[axis], signal.spec.shape[axis]
    part = slice(0, have) if direction > 0 else slice(got - have, got)
    old = signal.part(field.spec, _along(axis, part))
    index = torch.randint(len(old), (min(len(old), 1 << 15),), generator=torch.Generator().manual_seed(0))
    truth = old.stored(index.to(old.device)).cpu()
    error = (field.stored_at(old.coords(index.to(old.device))) - truth).square().mean()
    return 1 - float(error / truth.var(0).mean().clamp_min(1e-12))


def _along(axis: int, part: slice) -> tuple[slice, ...]:
    return (slice(None),) * axis + (part,)
