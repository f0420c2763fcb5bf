"""mesh: the surface of a shape's field as triangles in world units, evaluated only where the surface is."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from . import geometry
from .derivatives import gradient
from .device import quick_half, rows_at_once
from .errors import InrError
from .field import Field
from .spec import Axis, Spec

if TYPE_CHECKING:
    from trimesh import Trimesh

LARGEST = 2048                      # cells along a side: beyond this the grid alone takes 32 GiB
COARSE = 128                        # cells along the longest side from which the search for the surface may start
DOUBT = 0.5                         # how far a value may overshoot its neighbours' range, as a share of that range
SURE = 0.1                          # half precision tells on which side of the surface a value beyond this is; half the
                                    # range of values is 1


def mesh(field: Field, resolution: int = 256, *, box: Sequence[float] | None = None, level: float | None = None,
         specks: bool = True) -> "Trimesh":
    """Return the surface of a shape's field as one closed trimesh.Trimesh in world units.

    resolution: cells along the longest side of the region · box: only this part, x y z low then x y z high in world
    units, closed at its border · level: the stored value at the surface; default: the spec's · specks: remove separate
    parts with less than 0.2 % of the largest one's area.
    Vertex normals come from the field's own gradient. The mesh's metadata say how many points were "evaluated", of how
    many a "dense" grid has, and how many "specks_removed". Raises InrError where there is no surface.
    """
    spec = field.spec
    if spec.kind != "shape" or spec.out_features != 1 or len(spec.axes) != 3:
        raise InrError(f"Only shapes can be meshed; this is a field of kind {spec.kind!r}.")
    if not 2 <= resolution <= LARGEST:
        raise InrError(f"--resolution {resolution} must be between 2 and {LARGEST}.")
    level = spec.meta.get("level", 0.5) if level is None else level
    grid, levels = _grid(spec, resolution, box)
    values, evaluated = _sample(field, grid, levels, level)
    if values.max() <= 0:
        raise InrError(f"The field has no surface at level {level:g} here: there is nothing to mesh.")
    surface = geometry.level_set(values, grid)
    dense = values.size
    del values
    removed = geometry.remove_specks(surface) if specks else 0
    surface.vertex_normals = _normals(field, surface.vertices)
    surface.metadata.update(evaluated=evaluated, dense=dense, specks_removed=removed)
    return surface


def _grid(spec: Spec, resolution: int, box: Sequence[float] | None) -> tuple[Spec, int]:
    """Return the finest grid as a spec whose samples are corners of cells, and how often a coarse one is halved.

    The coarse grid has cells about as large as the voxels of the fit, which is the size of what the field was shown,
    but starts at `COARSE` cells, or at quarters of a finer grid, where the fit was finer.
    """
    low, high = _region(spec, box)
    sides = high - low
    longest = float(sides.max())
    voxels = longest / min(axis.step for axis in spec.axes)
    start = min(voxels, max(COARSE, resolution / 4))
    levels = max(0, math.floor(math.log2(resolution / (0.75 * start)))) if resolution > COARSE else 0
    cells = [max(1, round(resolution * side / longest)) for side in sides.tolist()]
    axes = tuple(Axis(float(a), float(side) / n, n + 1) for a, side, n in zip(low, sides, cells))
    return spec.replace(axes=axes), levels


def _region(spec: Spec, box: Sequence[float] | None) -> tuple[Tensor, Tensor]:
    """Lowest and highest coordinates (3,) float64, tensor order, of the whole domain or of a box in world units."""
    margin = 0.0 if spec.meta.get("grid") == "ends" else 0.5
    low = torch.tensor([axis.start + (axis.first - margin) * axis.step for axis in spec.axes], dtype=torch.float64)
    high = torch.tensor([axis.start + (axis.stop - 1 + margin) * axis.step for axis in spec.axes], dtype=torch.float64)
    if box is None:
        return low, high
    if len(box) != 6 or not all(math.isfinite(v) for v in box) or any(a >= b for a, b in zip(box[:3], box[3:])):
        raise InrError("--box takes x y z low, then x y z high, in world units, each high above its low.")
    ends = torch.tensor(box, dtype=torch.float64).reshape(2, 3)
    corners = torch.stack(torch.meshgrid(*ends.T, indexing="ij"), -1).reshape(-1, 3)
    inner = spec.to_coords(corners).double()
    low, high = torch.maximum(low, inner.amin(0)), torch.minimum(high, inner.amax(0))
    if not (low < high).all():
        raise InrError(f"--box {' '.join(f'{v:g}' for v in box)} lies outside the shape's domain.")
    return low, high


def _sample(field: Field, grid: Spec, levels: int, level: float) -> tuple[np.ndarray, int]:
    """Sample the field, above zero inside, on `grid`; return the values (z, y, x) and how many points were evaluated.

    A coarse grid is evaluated whole, then halved `levels` times. Each time the new points of cells that the surface
    passes are evaluated (the first time, of cells near it), and of every cell into which it then turns out to lead;
    others take a neighbour's value. So wherever the surface is met at all it is followed to its end, and the values
    around it are those of a dense grid. Until the last halving, values far from the surface may be in half precision.
    """
    stride = 1 << levels
    counts = np.array([axis.count for axis in grid.axes])
    shape = -(-(counts - 1) // stride) + 1                  # corners of the coarse cells, the last beyond the region
    values = np.empty(shape, np.float32)
    evaluated = _evaluate(field, grid, stride, level, values, np.arange(values.size), quick=levels > 0)
    for halving in range(levels):
        stride //= 2
        active = _near_surface(values) if halving == 0 else _passed(values)
        fine = np.empty(2 * shape - 1, np.float32)
        known = np.zeros(fine.shape, bool)
        for corner in np.ndindex(2, 2, 2):
            every_other = tuple(slice(c, None, 2) for c in corner)
            fine[every_other] = values[tuple(slice(None, n - c) for n, c in zip(shape, corner))]
        known[::2, ::2, ::2] = True
        values, shape = fine, np.array(fine.shape)
        new = active
        while new.any():
            cells = 2 * np.argwhere(new)
            wanted = np.zeros(values.shape, bool)
            for corner in np.ndindex(3, 3, 3):
                wanted[tuple((cells + corner).T)] = True
            index = np.flatnonzero(wanted & ~known)
            evaluated += _evaluate(field, grid, stride, level, values, index, quick=stride > 1)
            known |= wanted
            new = _crossed(values > 0) & ~active
            active |= new
    return values[tuple(map(slice, counts))], evaluated


@torch.inference_mode()
def _evaluate(field: Field, grid: Spec, stride: int, level: float, values: np.ndarray, index: np.ndarray,
              quick: bool) -> int:
    """Write the field, above zero inside, into `values`, a grid with every `stride`-th sample, at flat indices.

    quick: in half precision where the device is faster at it, then again in full where the surface is near.
    """
    coarse = grid.replace(axes=tuple(Axis(axis.start, axis.step * stride, n)
                                     for axis, n in zip(grid.axes, values.shape)))
    sign = -1.0 if grid.meta.get("quantity") == "sdf" else 1.0
    device = next(field.parameters()).device
    flat = values.reshape(-1)
    half = quick_half(device) if quick else None
    near = SURE * grid.values.scale
    for low in range(0, len(index), rows := rows_at_once(device)):
        part = index[low:low + rows]
        coords = coarse.coords(torch.from_numpy(part)).to(device)
        with torch.autocast(device.type, dtype=half, enabled=half is not None):
            found = field.stored(coords)[:, 0] - level
        if half is not None:
            unsure = found.abs() < near
            found[unsure] = field.stored(coords[unsure])[:, 0] - level
        flat[part] = (sign * found).cpu().numpy()
    return len(index)


def _passed(values: np.ndarray) -> np.ndarray:
    """Say which cells have corners on both sides of the surface."""
    some, every = values > 0, values > 0
    for axis in range(3):
        low, high = (tuple([slice(None)] * axis + [part]) for part in (slice(None, -1), slice(1, None)))
        some, every = some[low] | some[high], every[low] & every[high]
    return some & ~every


def _near_surface(values: np.ndarray) -> np.ndarray:
    """Say which cells may meet the surface: those where the values of their corners and the next ones around, their
    range widened by `DOUBT` of it on both sides, pass zero."""
    around = torch.from_numpy(values)[None, None]
    high = torch.nn.functional.max_pool3d(around, 4, stride=1, padding=1)[0, 0]
    low = -torch.nn.functional.max_pool3d(-around, 4, stride=1, padding=1)[0, 0]
    spread = DOUBT * (high - low)
    return ((low - spread <= 0) & (high + spread >= 0)).numpy()


def _crossed(inside: np.ndarray) -> np.ndarray:
    """Say which cells of two by two by two have samples (three by three by three) on both sides of the surface."""
    some, every = inside, inside
    for axis in range(3):
        low, middle, high = (tuple([slice(None)] * axis + [slice(start, stop, 2)])
                             for start, stop in ((None, -1), (1, None), (2, None)))
        some = some[low] | some[middle] | some[high]
        every = every[low] & every[middle] & every[high]
    return some & ~every


def _normals(field: Field, vertices: np.ndarray) -> np.ndarray:
    """Unit normals (n, 3) in the world: down the gradient of what is above zero inside."""
    device = next(field.parameters()).device
    frame = torch.eye(3, dtype=torch.float64) if field.spec.frame is None else field.spec.frame.tensor[:3, :3]
    sign = 1.0 if field.spec.meta.get("quantity") == "sdf" else -1.0
    normals = []
    for part in torch.from_numpy(vertices).split(rows_at_once(device)):
        with torch.no_grad():
            slope = gradient(field.stored, field.spec.to_coords(part).to(device))
        normals.append(sign * slope.cpu().double().flip(-1) @ torch.linalg.inv(frame))
    return torch.nn.functional.normalize(torch.cat(normals), dim=-1, eps=1e-30).numpy()
