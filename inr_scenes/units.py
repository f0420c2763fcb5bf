"""Boxes in a signal's own units: pixels, frames, seconds; world units for shapes."""

import math
from collections.abc import Sequence

import torch

from .errors import InrError
from .spec import Box, Spec

NAMES = {"image": "rows and columns", "video": "frames, rows and columns", "audio": "seconds", "shape": "world x, y, z"}


def index_box(spec: Spec, numbers: Sequence[float], inside: bool = True) -> Box:
    """Return the index ranges of a half-open box LOW… HIGH…, in tensor order (world x, y, z for shapes).

    inside: clip to the samples there are, and refuse a box that holds none.
    """
    d = len(spec.axes)
    if d == 0:
        raise InrError(f"A {spec.kind} has no box to cut.")
    if len(numbers) != 2 * d or not all(math.isfinite(n) for n in numbers):
        raise InrError(f"--box takes {d} lower and {d} upper numbers ({NAMES.get(spec.kind, 'indices')}).")
    low, high = torch.tensor(numbers[:d], dtype=torch.float64), torch.tensor(numbers[d:], dtype=torch.float64)
    if spec.kind == "shape":
        corners = torch.stack([spec.to_coords(low), spec.to_coords(high)])
        low, high = corners.amin(0), corners.amax(0)
        steps = [(axis.index(a) + 0.5, axis.index(b) + 0.5) for axis, a, b in zip(spec.axes, low, high)]
        ranges = [(math.floor(float(a) + 1e-4), math.ceil(float(b) - 1e-4)) for a, b in steps]
    elif spec.kind == "audio":
        rate = spec.meta["sample_rate"]
        ranges = [(round(float(low[0]) * rate), round(float(high[0]) * rate))]
    else:
        ranges = [(math.floor(a), math.ceil(b)) for a, b in zip(low.tolist(), high.tolist())]
    if inside:
        ranges = [(max(a, axis.first), min(b, axis.stop)) for axis, (a, b) in zip(spec.axes, ranges)]
    if any(a >= b for a, b in ranges):
        raise InrError(f"--box {' '.join(f'{n:g}' for n in numbers)} holds no sample of this {spec.kind}, whose box is "
                       f"{' '.join(f'{n:g}' for n in own_box(spec))}.")
    return tuple(ranges)


def own_box(spec: Spec) -> list[float]:
    """Return the box of all samples in the signal's own units, LOW… HIGH…."""
    if spec.kind == "shape":
        half = [axis.step / 2 for axis in spec.axes]
        low = torch.tensor([axis.start + axis.first * axis.step - h for axis, h in zip(spec.axes, half)])
        high = torch.tensor([axis.start + (axis.stop - 1) * axis.step + h for axis, h in zip(spec.axes, half)])
        return [*spec.to_world(low).tolist(), *spec.to_world(high).tolist()]
    scale = 1 / spec.meta["sample_rate"] if spec.kind == "audio" else 1
    return [axis.first * scale for axis in spec.axes] + [axis.stop * scale for axis in spec.axes]
