"""mesh: the surface of a shape's field as triangles in world units, evaluated only where the surface is."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from . import surface
from .derivatives import gradient
from .device import quick_half
from .errors import InrError
from .field import Field, sides
from .spec import Axis, Spec

if TYPE_CHECKING:
    from trimesh import Trimesh

LARGEST = 2048                      # cells along a side: beyond this the grid alone takes 32 GiB
COARSE = 128                        # cells along the longest side from which the search for the surface may start
CAUTION, DOUBT, UNSURE = 2.0, 0.5, 0.25     # how far a value may overshoot its neighbours' range, as a share of that
                                    # range: in cells twice the size of the fit's voxels, of about their size, smaller
FULL = 0.9                          # of the half range of values: occupancy that is told apart from full or empty
HALF, EXACT = 1, 2                  # how well a sample is known: in half precision, as well as the field tells


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
    samples = _sample(field, grid, levels, level)
    if samples.values.max() <= 0:
        raise InrError(f"The field has no surface at level {level:g} here: there is nothing to mesh.")
    found, evaluated = surface.level_set(samples.values, samples.spec), samples.evaluated
    del samples
    removed = surface.remove_specks(found) if specks else 0
    found.vertex_normals = _normals(field, found.vertices)
    found.metadata.update(evaluated=evaluated, dense=grid.size, specks_removed=removed)
    return found


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


def _sample(field: Field, grid: Spec, levels: int, level: float, whole: bool = False) -> "_Samples":
    """Sample the field on `grid`, or, unless `whole`, on the part of it around its surface.

    A coarse grid is evaluated whole, then halved `levels` times, the new points interpolated. The first time all around
    the surface are evaluated, later those whose side of it is in doubt, then both ends of every edge that crosses the
    surface, until no end is left: wherever the surface is met at all it is followed to its end. Evaluations may be in
    half precision but for the ends on the finest grid, between which the vertices will lie: they are those of a dense
    grid.
    A large coarse grid is itself halved from one twice as coarse, with more caution: a part that is thinner than a
    voxel, apart from all others, and between its samples everywhere is not found.
    """
    counts = np.array([axis.count for axis in grid.axes])
    cautious = int(levels > 0 and counts.max() >> levels >= COARSE)
    levels += cautious
    stride = 1 << levels
    samples = _Samples(field, grid, level, stride, -(-(counts - 1) // stride) + 1)      # the last beyond the region
    samples.evaluate(np.arange(samples.values.size), half=levels > 0)
    for halving in range(levels):
        surely = halving <= cautious
        near = samples.near_surface(halving < cautious) if surely else surface.crossed_cells(samples.values)
        if halving == 0 and not whole and near.any():
            near = samples.cut(near)
        share = math.inf if halving == 0 else DOUBT if surely else UNSURE
        doubtful = _doubtful(samples.values, np.argwhere(near), share)
        samples.halve()
        samples.evaluate(samples.lacking(doubtful, HALF), half=True)
        samples.follow(EXACT if samples.stride == 1 else HALF)
    if samples.left():                          # the surface went where nothing had hinted at it
        again = _sample(field, grid, levels - cautious, level, whole=True)
        again.evaluated += samples.evaluated
        return again
    samples.values = samples.values[tuple(map(slice, counts - samples.origin))]
    return samples


class _Samples:
    """Values of a field, above zero inside, on every `stride`-th corner of a grid, and how each is known.

    They begin at corner `origin` of the grid; `evaluated` counts the field's own values.
    """

    def __init__(self, field: Field, grid: Spec, level: float, stride: int, shape: np.ndarray):
        self.field, self.grid, self.level, self.stride, self.evaluated = field, grid, level, stride, 0
        self.origin, self.ends = np.zeros(3, int), np.array([(True, True)] * 3)     # which ends are those of the grid
        self.sign = -1.0 if grid.meta.get("quantity") == "sdf" else 1.0
        self.device = next(field.parameters()).device
        self.values = np.empty(shape, np.float32)
        self.known = np.zeros(shape, np.uint8)

    @property
    def spec(self) -> Spec:
        """Where the samples are."""
        return self.grid.replace(axes=tuple(Axis(axis.start + int(low) * axis.step, axis.step * self.stride, n)
                                            for axis, low, n in zip(self.grid.axes, self.origin, self.values.shape)))

    def cut(self, cells: np.ndarray) -> np.ndarray:
        """Keep what is around some cells, with one more on every side; return what is kept of them."""
        part = surface.around(cells)
        low, high = (np.array([getattr(p, end) for p in part]) for end in ("start", "stop"))
        self.ends &= np.stack([low == 0, high == cells.shape], 1)
        self.origin += low * self.stride
        samples = tuple(slice(p.start, p.stop + 1) for p in part)
        self.values, self.known = self.values[samples].copy(), self.known[samples].copy()
        return cells[part]

    def left(self) -> bool:
        """Say whether the surface goes on where it was cut."""
        sides = ((axis, end) for axis in range(3) for end in (0, 1) if not self.ends[axis, end])
        return any((self.values.take(-end, axis) > 0).any() for axis, end in sides)

    @torch.inference_mode()
    def evaluate(self, index: np.ndarray, half: bool) -> None:
        """Take the field's own values at flat indices.

        half: in half precision where the device is faster at it, then again in full where the surface is near.
        """
        spec, values, known = self.spec, self.values.reshape(-1), self.known.reshape(-1)
        for low in range(0, len(index), rows := self.field.rows_at_once(self.device)):
            part = index[low:low + rows]
            coords = spec.coords(torch.from_numpy(part)).to(self.device)
            if half:
                found, exact = sides(self.field, coords, self.level)
                known[part] = np.where(exact.cpu().numpy(), EXACT, HALF)
            else:
                found, known[part] = self.field.stored(coords), EXACT
            values[part] = (self.sign * (found[:, 0] - self.level)).cpu().numpy()
        self.evaluated += len(index)

    def lacking(self, index: np.ndarray, least: int) -> np.ndarray:
        """Return those of flat indices whose values are not known so well yet, each once."""
        return np.unique(index[self.known.reshape(-1)[index] < least])

    def halve(self) -> None:
        """Halve the distance between samples, those between the old ones interpolated."""
        known = np.zeros(2 * np.array(self.known.shape) - 1, np.uint8)
        known[::2, ::2, ::2] = self.known
        values = self.values
        for axis in (2, 1, 0):
            values = _doubled(values, axis)
        self.values, self.known, self.stride = values, known, self.stride // 2

    def near_surface(self, cautious: bool) -> np.ndarray:
        """Say which cells may meet the surface: those where the values of their corners and the next ones around, their
        range widened by a share of it on both sides, pass zero; with caution, where any is neither full nor empty."""
        from scipy.ndimage import maximum_filter, minimum_filter
        cells = (slice(-1),) * 3
        high = maximum_filter(self.values, 4, origin=-1, mode="nearest")[cells]
        low = minimum_filter(self.values, 4, origin=-1, mode="nearest")[cells]
        spread = (CAUTION if cautious else DOUBT) * (high - low)
        near = (low - spread <= 0) & (high + spread >= 0)
        if cautious and self.grid.meta.get("quantity") != "sdf":
            least = FULL * self.grid.values.scale
            near |= (high > -least) & (low < least)
        return near

    def follow(self, least: int) -> None:
        """Evaluate both ends of every edge that crosses the surface, as far as that leads."""
        inside, wanted = self.values > 0, np.zeros(self.values.shape, bool)
        for axis in range(3):
            step = math.prod(inside.shape[axis + 1:])
            crossing = np.zeros(inside.shape, bool)
            np.not_equal(inside.reshape(-1)[:-step], inside.reshape(-1)[step:], out=crossing.reshape(-1)[:-step])
            crossing[(slice(None),) * axis + (-1,)] = False             # from the end of a row to the next one's start
            wanted |= crossing
            wanted.reshape(-1)[step:] |= crossing.reshape(-1)[:-step]
        index = self.lacking(np.flatnonzero(wanted), least)
        flat = self.values.reshape(-1)
        while len(index):
            self.evaluate(index, half=least == HALF)
            ends = [other[(flat[other] > 0) != (flat[here] > 0)] for other, here in self._neighbours(index)]
            index = self.lacking(np.concatenate(ends), least)

    def _neighbours(self, index: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield, for every direction, the next samples there and the samples they are next to, as flat indices."""
        places = np.unravel_index(index, self.values.shape)
        for axis, place in enumerate(places):
            step = math.prod(self.values.shape[axis + 1:])
            for there, stays in ((step, place < self.values.shape[axis] - 1), (-step, place > 0)):
                yield index[stays] + there, index[stays]


def _doubled(values: np.ndarray, axis: int) -> np.ndarray:
    """Return samples with those halfway between them along an axis, interpolated."""
    shape = list(values.shape)
    shape[axis] = 2 * shape[axis] - 1
    out = np.empty(shape, values.dtype)
    old, new = np.moveaxis(values, axis, 0), np.moveaxis(out, axis, 0)
    new[::2] = old
    np.add(old[:-1], old[1:], out=new[1::2])
    new[1::2] *= 0.5
    return out


def _doubtful(values: np.ndarray, cells: np.ndarray, share: float) -> np.ndarray:
    """Return which samples of cells (n, 3), on the grid of half the distance, may lie on either side of the surface.

    Those whose interpolated value is within a share of the range in the cell; infinity: all. Flat indices.
    """
    corners = np.array(list(np.ndindex(2, 2, 2)))
    inner = np.array(list(np.ndindex(3, 3, 3)))
    shape = 2 * np.array(values.shape) - 1
    index = np.ravel_multi_index(tuple((2 * cells[:, None] + inner).reshape(-1, 3).T), shape)
    if share == math.inf:
        return index
    known = values[tuple((cells[:, None] + corners).reshape(-1, 3).T)].reshape(-1, 8)
    weights = np.prod(np.where(corners, inner[:, None] / 2, 1 - inner[:, None] / 2), -1).astype(np.float32)
    unsure = np.abs(known @ weights.T) < share * np.ptp(known, axis=1)[:, None]
    return index[unsure.reshape(-1)]


def _normals(field: Field, vertices: np.ndarray) -> np.ndarray:
    """Unit normals (n, 3) in the world: down the gradient of what is above zero inside.

    Half precision turns them by fractions of a degree.
    """
    device = next(field.parameters()).device
    frame = torch.eye(3, dtype=torch.float64) if field.spec.frame is None else field.spec.frame.tensor[:3, :3]
    sign = 1.0 if field.spec.meta.get("quantity") == "sdf" else -1.0
    normals = []
    for part in torch.from_numpy(vertices).split(field.rows_at_once(device)):
        with torch.no_grad():
            slope = gradient(field.stored, field.spec.to_coords(part).to(device), half=quick_half(device))
        normals.append(sign * slope.cpu().double().flip(-1) @ torch.linalg.inv(frame))
    return torch.nn.functional.normalize(torch.cat(normals), dim=-1, eps=1e-30).numpy()
