"""mesh: the surface of a shape's field as triangles in world units, evaluated only where the surface is."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from . import surface
from .bricks import SIDE, Bricks
from .derivatives import gradient
from .device import quick_half
from .errors import InrError
from .field import Field, sides
from .spec import Axis, Spec

if TYPE_CHECKING:
    from trimesh import Trimesh

LARGEST = 2048                      # cells along a side: beyond this the triangles take more memory than most have
COARSE = 128                        # cells along the longest side from which the search for the surface may start
CAUTION, DOUBT, UNSURE = 2.0, 0.5, 0.25     # how far a value may overshoot its neighbours' range, as a share of that
                                    # range: in cells twice the size of the fit's voxels, of about their size, smaller
FULL = 0.9                          # of the half range of values: occupancy that is told apart from full or empty
HALF, EXACT = 1, 2                  # how well a sample is known: in half precision, as well as the field tells
CORNERS = np.array(list(np.ndindex(2, 2, 2)))       # of a cell
INNER = np.array(list(np.ndindex(3, 3, 3)))         # the samples in a cell on the grid of half the distance


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
    samples, evaluated = _sample(field, grid, levels, level)
    if not len(samples) or samples.values.max() <= 0:
        raise InrError(f"The field has no surface at level {level:g} here: there is nothing to mesh.")
    found = surface.level_set(samples, grid)
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
    margin = 0.0 if spec.grid == "ends" else 0.5
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


def _sample(field: Field, grid: Spec, levels: int, level: float) -> tuple[Bricks, int]:
    """Sample the field on the part of `grid` around its surface; return that and how many values were taken for it.

    A coarse grid is evaluated whole, then halved `levels` times around the surface, the new points interpolated. The
    first time all around the surface are evaluated, later those whose side of it is in doubt, then both ends of every
    edge that crosses the surface, until no end is left: wherever the surface is met at all it is followed to its end.
    Evaluations may be in half precision but for the ends on the finest grid, between which the vertices will lie: they
    are those of a dense grid.
    A large coarse grid is itself halved from one twice as coarse, with more caution: a part that is thinner than a
    voxel, apart from all others, and between its samples everywhere is not found.
    """
    sampler = _Sampler(field, grid, level)
    cautious = int(levels > 0 and max(grid.shape) >> levels >= COARSE)
    levels += cautious
    samples = sampler.coarsest(1 << levels)
    for halving in range(levels):
        surely = halving <= cautious
        caution = CAUTION if halving < cautious else DOUBT if surely else None
        share = math.inf if halving == 0 else DOUBT if surely else UNSURE
        samples = sampler.halved(samples, caution, share)
    return samples, sampler.evaluated


class _Sampler:
    """Takes a field's values, above zero inside, on every so many-th corner of a grid; `evaluated` counts them."""

    def __init__(self, field: Field, grid: Spec, level: float):
        self.field, self.grid, self.level, self.evaluated = field, grid, level, 0
        self.sign = -1.0 if grid.meta.get("quantity") == "sdf" else 1.0
        self.device = next(field.parameters()).device

    def coarsest(self, stride: int) -> Bricks:
        """Return the values on the whole of the grid's every `stride`-th corner."""
        samples = Bricks(self._counts(stride), stride)
        self._evaluate(samples, samples.all(), half=stride > 1)
        return samples

    def halved(self, coarse: Bricks, caution: float | None, share: float) -> Bricks:
        """Return the samples at half the distance around the surface, evaluated where it matters.

        caution: as `_near`; none: only cells that the surface crosses · share: of the range of values in a cell, within
        which the side of an interpolated one is in doubt (infinity: all are).
        """
        fine = Bricks(self._counts(coarse.stride // 2), coarse.stride // 2, coarse)
        parts = coarse.looked_at(lambda slots: self._searched(coarse, fine, slots, caution, share))
        wanted, doubtful = (np.concatenate(column) for column in zip(*parts))
        fine.ensure(np.unique(wanted))
        index = fine.find(np.stack(np.unravel_index(doubtful, fine.counts), 1))
        self._evaluate(fine, fine.lacking(index, HALF), half=True)
        self._follow(fine, EXACT if fine.stride == 1 else HALF)
        return fine

    def _searched(self, coarse: Bricks, fine: Bricks, slots: np.ndarray, caution: float | None,
                  share: float) -> tuple[np.ndarray, np.ndarray]:
        """Look for the surface in some cubes; return the finer cubes around it and the finer samples in doubt there.

        Both as flat indices, the samples' into the whole grid. caution, share: as `halved`.
        """
        before = 0 if caution is None else 1            # samples in a block before those of the cube
        blocks = coarse.blocks(slots) if caution is None else coarse.blocks(slots, low=before, high=2)
        near = surface.crossed(blocks) if caution is None else self._near(blocks, caution)
        cube, *place = np.nonzero(near)
        place = np.stack(place, 1)
        cells = coarse.places[slots[cube]] * SIDE + place
        there = (cells < coarse.counts - 1).all(1)
        cube, place, cells = cube[there], place[there], cells[there]
        ends = (2 * cells[:, None] + 2 * CORNERS).reshape(-1, 3)
        wanted = [fine.cubes(ends), fine.cubes(np.minimum(2 * coarse.rim(slots), fine.counts - 1))]
        inside = 2 * cells[:, None] + INNER
        if share < math.inf:
            corners = place[:, None] + before + CORNERS
            inside = inside[_doubtful(blocks[(cube[:, None], *np.moveaxis(corners, -1, 0))], share)]
        inside = inside.reshape(-1, 3)
        inside = inside[(inside < fine.counts).all(1)]
        return np.concatenate(wanted), np.unique(np.ravel_multi_index(tuple(inside.T), tuple(fine.counts)))

    def _counts(self, stride: int) -> np.ndarray:
        """Samples along the axes, the last at the grid's end or beyond."""
        return -(-(np.array(self.grid.shape) - 1) // stride) + 1

    @torch.inference_mode()
    def _evaluate(self, samples: Bricks, index: np.ndarray, half: bool) -> np.ndarray:
        """Take the field's own values at flat indices; return the slots around those that turn to the other side.

        half: in half precision where the device is faster at it, then again in full where the surface is near.
        """
        values, known = samples.values.reshape(-1), samples.known.reshape(-1)
        before = values[index] > 0
        for low in range(0, len(index), rows := self.field.rows_at_once(self.device)):
            part = index[low:low + rows]
            places = torch.from_numpy(samples.grid(part) * samples.stride)
            coords = torch.stack([axis.at(place) for axis, place in zip(self.grid.axes, places.T)], 1).to(self.device)
            if half:
                found, exact = sides(self.field, coords, self.level)
                known[part] = np.where(exact.cpu().numpy(), EXACT, HALF)
            else:
                found, known[part] = self.field.stored(coords), EXACT
            values[part] = (self.sign * (found[:, 0] - self.level)).cpu().numpy()
        self.evaluated += len(index)
        return samples.around(index[before != (values[index] > 0)])

    def _follow(self, samples: Bricks, least: int) -> None:
        """Evaluate both ends of every edge that crosses the surface, as far as that leads."""
        slots = np.arange(len(samples))
        while len(slots):
            index = samples.lacking(samples.crossings(slots), least)
            slots = self._evaluate(samples, index, half=least == HALF)

    def _near(self, blocks: np.ndarray, caution: float) -> np.ndarray:
        """Say which cells, (n, SIDE, SIDE, SIDE), may meet the surface: those where the values of their corners and the
        next ones around, their range widened by a share of it on both sides, pass zero; with caution beyond `DOUBT`,
        where any is neither full nor empty. blocks: with one sample before the cubes and two after."""
        low, high = (_windowed(blocks, extreme) for extreme in (np.minimum, np.maximum))
        spread = caution * (high - low)
        near = (low - spread <= 0) & (high + spread >= 0)
        if caution > DOUBT and self.grid.meta.get("quantity") != "sdf":
            least = FULL * self.grid.values.scale
            near |= (high > -least) & (low < least)
        return near


def _windowed(blocks: np.ndarray, extreme: np.ufunc) -> np.ndarray:
    """Return the extremes of blocks (n, a, b, c) over all cubes of four samples, (n, a - 3, b - 3, c - 3)."""
    for axis in (1, 2, 3):
        blocks = extreme.reduce(np.lib.stride_tricks.sliding_window_view(blocks, 4, axis), -1)
    return blocks


def _doubtful(corners: np.ndarray, share: float) -> np.ndarray:
    """Say which of the samples `INNER` in cells, (n, 27), may lie on either side of the surface.

    Those whose interpolated value is within a share of the range of the cell's corners, (n, 8).
    """
    weights = np.prod(np.where(CORNERS, INNER[:, None] / 2, 1 - INNER[:, None] / 2), -1).astype(np.float32)
    return np.abs(corners @ weights.T) < share * np.ptp(corners, axis=1)[:, None]


def _normals(field: Field, vertices: np.ndarray) -> np.ndarray:
    """Unit normals (n, 3) in the world: down the gradient of what is above zero inside.

    Half precision turns them by fractions of a degree.
    """
    device = next(field.parameters()).device
    frame = torch.eye(3, dtype=torch.float64) if field.spec.frame is None else field.spec.frame.tensor[:3, :3]
    sign = 1.0 if field.spec.meta.get("quantity") == "sdf" else -1.0
    normals = []
    for part in torch.from_numpy(vertices).split(field.rows_at_once(device, derivatives=True)):
        with torch.no_grad():
            slope = gradient(field.stored, field.spec.to_coords(part).to(device), half=quick_half(device))
        normals.append(sign * slope.cpu().double().flip(-1) @ torch.linalg.inv(frame))
    return torch.nn.functional.normalize(torch.cat(normals), dim=-1, eps=1e-30).numpy()
