"""Voxel shapes: occupancy or truncated signed distance, from grids (.npy .npz .binvox) and from meshes."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import geometry, surface
from ..camera import Cameras, look_at
from ..errors import InrError, suggestion
from ..field import decode, decode_all
from ..files import readable
from ..metrics import iou
from ..signal import GridSignal
from ..spec import UNIT_RANGE, Axis, Frame, Spec, ValueMap
from . import voxels
from .voxels import LARGEST, read_grid, to_bytes, voxelize

QUANTITIES = ("auto", "occupancy", "sdf")
EXACT = 512**3                      # voxels up to which metrics look at every one
FINE = 1 << 17                      # points between the voxels at which `iou_fine` is taken


class ShapeSignal(GridSignal):
    """A solid on a grid of voxels; axes (z, y, x), one value each.

    occupancy: 1 inside, 0 outside, kept in 8 bits. Of a mesh it passes from one to the other over `blend` voxels, so
    that the grid says where in a voxel the surface lies; 1/2 is exactly the surface, and a voxel is inside when its
    centre is. · sdf: signed distance in world units, negative inside, cut off at ±truncation.
    mesh: the surface the voxels were taken from, a trimesh.Trimesh, or none.
    """

    kind = "shape"
    one_size = "--resolution N"
    suffixes = (*voxels.SUFFIXES, *geometry.SUFFIXES)
    main_metric = "iou"

    @dataclass(frozen=True)
    class Options:
        """How to read a shape."""

        resolution: int = 128
        """Meshes: voxels along each side of the cube around the shape."""
        quantity: str = "auto"
        """occupancy, sdf (signed distance, negative inside), or auto: what a grid file says, else occupancy."""
        truncation: float | None = None
        """Signed distances are cut off here, half the cube's side being 1; default: 0.1, or as a grid file has it."""
        padding: float = 0.05
        """Meshes: how much larger than the shape's longest side the cube is, as a share of it."""
        blend: float = 1.0
        """Meshes: voxels over which occupancy passes from 0 to 1 at the surface; 0: hard steps."""
        repair: bool = False
        """Meshes: close the holes of the surface."""
        grid: str = "centers"
        """Samples at cell "centers", or a grid that includes both "ends" of [-1, 1]."""

    def __init__(self, spec: Spec, data: Tensor, gain: float = 1.0, name: str = "shape", mesh=None):
        super().__init__(spec, data, gain, name)
        self.mesh = mesh
        self._find_surface()
        if self.focus is None:
            raise InrError(f"{name} has no surface on its grid of {'×'.join(map(str, spec.shape))} voxels: "
                           f"all of it is {'inside' if self.inside().any() else 'outside'}.")

    @classmethod
    def load(cls, path, *, like: Spec | None = None, resolution: int = 128, quantity: str = "auto",
             truncation: float | None = None, padding: float = 0.05, blend: float = 1.0, repair: bool = False,
             grid: str = "centers"):
        """Read a grid or a mesh. Raises InrError for damaged files, NaN, and meshes with holes."""
        path = readable(path)
        if path.suffix.lower() in voxels.SUFFIXES:
            signal = cls._of_grid(path, like, quantity, truncation)
        else:
            signal = cls.from_mesh(geometry.read_mesh(path), resolution, like=like, quantity=quantity,
                                   truncation=truncation, padding=padding, blend=blend, repair=repair, name=path.stem)
        return signal.regrid(grid) if like is None and grid != "centers" else signal      # the same voxels on any grid

    @classmethod
    def _of_grid(cls, path, like: Spec | None, quantity: str, truncation: float | None) -> "ShapeSignal":
        """Read a grid file, on the spec of an archive, on the one it carries, or at cell centres."""
        values, spec = read_grid(path)
        if like is not None and values.shape != like.shape:
            where = like.part_of(grid_spec(values.shape))
            if where is None:
                raise InrError(f"{path} has {values.shape} voxels (z, y, x); the archive holds {like.shape}.")
            values = values[where]
        holds, target = quantity, like or spec
        if spec is not None:
            holds = spec.meta["quantity"]
            if like is None and holds == "sdf" and quantity == "occupancy":
                target = spec.replace(values=UNIT_RANGE, meta={**spec.meta, "quantity": "occupancy", "level": 0.5})
        elif quantity == "auto" and like is not None:
            holds = like.meta["quantity"]
        if holds != "sdf" and "sdf" in (quantity, target and target.meta["quantity"]):
            raise InrError(f"{path} holds occupancy, from which signed distances cannot be told.")
        return cls.from_array(values, like=target, quantity=holds, truncation=truncation, name=path.stem)

    @classmethod
    def from_array(cls, array, *, like: Spec | None = None, frame: Frame | None = None, quantity: str = "auto",
                   truncation: float | None = None, name: str = "shape") -> "ShapeSignal":
        """Make a signal of voxels (z, y, x): booleans or integers (above 0: inside), occupancies, or signed distances.

        quantity: what the array holds; distances are in world units. Voxels are cubes; the longest side spans [-1, 1]
        and `frame` maps that cube to the world. like: the spec to take instead; an occupancy's can be had of distances.
        """
        array = np.asarray(array)
        if array.ndim != 3 or not array.size:
            raise InrError(f"A shape needs a grid of voxels (z, y, x), not an array of shape {array.shape}.")
        if array.dtype.kind not in "biuf":
            raise InrError(f"A shape needs a grid of numbers, not of {array.dtype}.")
        real = array.dtype.kind == "f"
        if real and not np.isfinite(array).all():
            bad = np.argwhere(~np.isfinite(array))
            raise InrError(f"{name} holds {len(bad)} values that are not finite numbers, the first at voxel "
                           f"{tuple(bad[0].tolist())} (z, y, x).")
        _check(quantity, truncation)
        if quantity == "sdf" and not (real and array.min() < 0):
            raise InrError(f"{name} holds no signed distances (floats, negative inside). Leave --quantity sdf out.")
        if quantity == "auto" and real and array.min() < 0:
            raise InrError(f"{name} holds values down to {array.min():.3g}: add --quantity sdf if they are signed "
                           f"distances, negative inside, or --quantity occupancy.")
        if like is None:
            like = grid_spec(array.shape, frame)
            if quantity == "sdf":
                limit = float(np.abs(array).max())
                limit = limit if truncation is None else min(limit, truncation * (frame.scale if frame else 1.0))
                like = _as_sdf(like, limit)
        if like.meta["quantity"] == "sdf":
            data = torch.from_numpy(array.astype(np.float32)).clamp(-like.values.scale, like.values.scale)
            return cls(like, data.reshape(-1, 1), 1.0, name)
        share = array if real else (array > 0).astype(np.float32)
        share = (array < 0).astype(np.float32) if quantity == "sdf" else share
        return cls(like, torch.from_numpy(to_bytes(share, share > 0.5)).reshape(-1, 1), 1 / 255, name)

    @classmethod
    def from_mesh(cls, mesh, resolution: int = 128, *, like: Spec | None = None, quantity: str = "auto",
                  truncation: float | None = None, padding: float = 0.05, blend: float = 1.0, repair: bool = False,
                  name: str = "shape") -> "ShapeSignal":
        """Make a signal of a trimesh.Trimesh: resolution³ voxels in a cube around its bounding box.

        At least one voxel on every side stays empty. The spec's frame maps the cube back to the mesh's own units.
        """
        _check(quantity, truncation)
        if not 4 <= resolution <= LARGEST:
            raise InrError(f"--resolution {resolution} must be between 4 and {LARGEST}.")
        if padding < 0 or blend < 0:
            raise InrError("--padding and --blend must be 0 or more.")
        if like is None:
            low, high = mesh.bounds
            margin = max(1 + padding, resolution / (resolution - 2))
            frame = Frame.of((low + high) / 2, float((high - low).max()) / 2 * margin)
            like = Spec("shape", (Axis.regular(resolution),) * 3, 3, 1, UNIT_RANGE, frame,
                        {"quantity": "occupancy", "level": 0.5, "blend": float(blend), "grid": "centers"})
            if quantity == "sdf":
                like = _as_sdf(like, (0.1 if truncation is None else truncation) * frame.scale)
        if repair or like.meta.get("repaired"):
            mesh = geometry.repair(mesh)
            like = like.replace(meta={**like.meta, "repaired": True})
        holes = geometry.open_edges(mesh)
        if holes and like.meta["quantity"] != "sdf":
            raise InrError(f"{name} is not closed: {holes} edges of its surface are open, so it has no inside. Add "
                           f"--repair to fill the holes, or --quantity sdf to judge by winding number.")
        values = torch.from_numpy(voxelize(mesh, like))[:, None]
        return cls(like, values, 1.0 if values.is_floating_point() else 1 / 255, name, mesh)

    @property
    def has_whole_mesh(self) -> bool:
        """Say whether there is a mesh and all of it lies on the grid: that of a crop reaches beyond it."""
        return self.mesh is not None and all(
            axis.first - 0.5 <= low and high <= axis.stop - 0.5
            for (low, high), axis in zip(self.spec.reach(self.mesh.bounds), self.spec.axes))

    def _find_surface(self) -> None:
        """Set the focus: the voxels near the surface, None where there is no surface."""
        inside = self.inside()
        both = 0 < int(inside.sum()) < self.spec.size
        self.focus = _near_surface(inside.reshape(self.spec.shape)) if both else None

    def part(self, spec: Spec, where: tuple[slice, ...]) -> "ShapeSignal":
        """Return the voxels at slices of the axes, surface or not."""
        found = super().part(spec, where)
        found._find_surface()
        return found

    def regrid(self, grid: str) -> "ShapeSignal":
        """Put the samples at cell "centers" or at both "ends"; the frame follows, so no voxel moves in the world."""
        old = self.spec
        super().regrid(grid)
        if self.spec.axes == old.axes:
            return self
        stretch = torch.eye(4, dtype=torch.float64)
        for i, (a, b) in enumerate(zip(old.axes[::-1], self.spec.axes[::-1])):
            stretch[i, i] = a.step / b.step
            stretch[i, 3] = a.start + a.first * a.step - (b.start + b.first * b.step) * a.step / b.step
        matrix = (old.frame.tensor if old.frame else torch.eye(4, dtype=torch.float64)) @ stretch
        self.spec = self.spec.replace(frame=Frame(tuple(map(tuple, matrix.tolist()))))
        return self

    def metrics(self, field) -> dict[str, float]:
        """Intersection over union of every voxel; with a mesh also `iou_fine`, at points between the voxels.

        Beyond 512³ voxels a sample stands for all, and `iou_samples` says how many. `iou_fine` is the same on a grid of
        twice the resolution, estimated from 2^17 of its points, half of them near the surface. A signed distance also
        has `mae`, the mean absolute error in world units.
        """
        result: dict[str, float] = {}
        sdf = self.spec.meta["quantity"] == "sdf"
        if len(self) <= EXACT:
            guess, error = torch.empty(len(self), dtype=torch.bool), 0.0
            for part, values in decode(field, self.spec, level=None if sdf else self.spec.meta["level"]):
                guess[part] = self._solid(values[:, 0])
                error += (values - self.stored(part).cpu()).abs().double().sum().item() if sdf else 0.0
            result["iou"] = iou(self.inside().cpu().numpy(), guess.numpy())
            error /= len(self)
        else:
            index, weight = self._strata(16 * FINE)
            truth = self.stored(index.to(self.device))[:, 0].cpu()
            values = field.stored_at(self.spec.coords(index))[:, 0]
            result |= {"iou": _weighted_iou(self._solid(truth), self._solid(values), weight), "iou_samples": len(index)}
            error = float(((values - truth).abs() * weight).sum() / weight.sum())
        if sdf:
            result["mae"] = error
        if self.mesh is not None:
            result["iou_fine"] = self._iou_fine(field)
        return result

    @torch.no_grad()
    def probe(self, field, samples: int = 1 << 15) -> dict[str, float]:
        """Estimate the IoU from at most `samples` voxels, half of them near the surface, the same at every call."""
        index, weight = self._strata(samples)
        truth = self._solid(self.stored(index.to(self.device))[:, 0]).cpu()
        return {"iou": _weighted_iou(truth, self._solid(field.stored_at(self.spec.coords(index))[:, 0]), weight)}

    def pictures(self, field) -> list[tuple[np.ndarray, np.ndarray]]:
        """Two shaded views of the shape and of the field's surface on the same grid (at most 128 voxels a side)."""
        share = min(1.0, 128 / max(self.spec.shape))
        spec = self.spec.resampled([max(2, round(n * share)) for n in self.spec.shape])
        truth = self.mesh if self.has_whole_mesh else None
        if truth is None:
            truth = surface.level_set(self._signed(self.array()[..., 0].cpu().numpy()), self.spec)
        values = self._signed(decode_all(field, spec)[..., 0].numpy())
        cameras = _two_views(truth.bounds)
        blank = np.ones((*cameras.size[0].tolist(), 3), np.float32)
        views = [blank] * 2 if values.max() <= 0 else geometry.cast_views(surface.level_set(values, spec), cameras)
        return [(np.asarray(a), np.asarray(b)) for a, b in zip(geometry.cast_views(truth, cameras), views)]

    def inside(self) -> Tensor:
        """Say which voxels are inside, (n,) bool."""
        return self._solid(self.data[:, 0], self.spec.meta["level"] / self.gain)

    def _solid(self, stored: Tensor, level: float | None = None) -> Tensor:
        """Say which stored values are inside."""
        level = self.spec.meta["level"] if level is None else level
        return stored < level if self.spec.meta["quantity"] == "sdf" else stored > level

    def _signed(self, stored: np.ndarray) -> np.ndarray:
        """Return stored values as a function above zero inside."""
        level = self.spec.meta["level"]
        return level - stored if self.spec.meta["quantity"] == "sdf" else stored - level

    def _strata(self, samples: int) -> tuple[Tensor, Tensor]:
        """Sample voxel indices, half of them near the surface, with the number of voxels that each stands for.

        Errors sit near the surface, which is a few percent of all voxels: so the same samples say much more.
        """
        if len(self) <= samples:
            return torch.arange(len(self)), torch.ones(len(self))
        generator = torch.Generator().manual_seed(0)
        if self.focus is None:
            index = torch.randint(len(self), (samples,), generator=generator)
            return index, torch.full((samples,), len(self) / samples)
        focus = self.focus.cpu()
        near = focus[torch.randint(len(focus), (samples // 2,), generator=generator)]
        far = torch.randint(len(self), (samples // 2,), generator=generator)
        at = torch.searchsorted(focus, far).clamp_max(len(focus) - 1)       # the focus is sorted
        far = far[focus[at] != far]
        share = [len(focus) / len(near), (len(self) - len(focus)) / max(1, len(far))]
        return torch.cat([near, far]), torch.tensor(share).repeat_interleave(torch.tensor([len(near), len(far)]))

    def _iou_fine(self, field) -> float:
        """IoU at points of the grid of twice the resolution: each sampled voxel gives one of its eight parts."""
        index, weight = self._strata(FINE)
        part = torch.randint(8, (len(index),), generator=torch.Generator().manual_seed(1))
        side = (part[:, None] >> torch.arange(3)) & 1
        coords = self.spec.coords(index) + (side - 0.5) * torch.tensor([axis.step / 2 for axis in self.spec.axes])
        truth = geometry.occupancy(self.mesh, self.spec.to_world(coords).numpy())
        return _weighted_iou(torch.from_numpy(truth), self._solid(field.stored_at(coords)[:, 0]), weight)


def _check(quantity: str, truncation: float | None) -> None:
    if quantity not in QUANTITIES:
        raise InrError(f"--quantity {quantity!r} is not known.{suggestion(quantity, QUANTITIES)} "
                       f"Known: {', '.join(QUANTITIES)}.")
    if truncation is not None and not 0 < truncation < math.inf:
        raise InrError(f"--truncation {truncation:g} must be above 0.")


def _as_sdf(spec: Spec, limit: float) -> Spec:
    """The spec of signed distances cut off at ±limit, in world units."""
    meta: dict[str, Any] = {**spec.meta, "quantity": "sdf", "level": 0.0}
    return spec.replace(values=ValueMap(limit, 0.0), meta=meta)


def _near_surface(inside: Tensor) -> Tensor:
    """Flat, sorted indices of voxels within about two of the surface."""
    solid = inside.numpy()
    near = np.zeros(solid.shape, bool)
    for axis in range(3):
        low, high = _ends(axis)
        changed = solid[low] != solid[high]
        near[low] |= changed
        near[high] |= changed
    for axis in range(3):
        low, high = _ends(axis)
        grown = near.copy()
        grown[low] |= near[high]
        grown[high] |= near[low]
        near = grown
    return torch.from_numpy(np.flatnonzero(near))


def grid_spec(shape: tuple[int, ...], frame: Frame | None = None) -> Spec:
    """Return the spec of an occupancy grid (z, y, x) of cubes at cell centres, whose longest side spans [-1, 1]."""
    axes = tuple(Axis.regular(n, half=n / max(shape)) for n in shape)
    return Spec("shape", axes, 3, 1, UNIT_RANGE, frame, {"quantity": "occupancy", "level": 0.5, "grid": "centers"})


def _ends(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """All but the last, and all but the first, along an axis."""
    before = (slice(None),) * axis
    return (*before, slice(None, -1)), (*before, slice(1, None))


def _weighted_iou(truth: Tensor, guess: Tensor, weight: Tensor) -> float:
    union = float(weight[truth | guess].double().sum())
    return float(weight[truth & guess].double().sum()) / union if union else 1.0


def _two_views(bounds: np.ndarray, size: int = 256) -> Cameras:
    """Two cameras that see a whole bounding box, from opposite sides."""
    low, high = torch.from_numpy(np.array(bounds)).float()
    target, radius = (low + high) / 2, float((high - low).norm()) / 2
    away = torch.nn.functional.normalize(torch.tensor([[1.0, -1.6, 0.8], [-1.0, 1.6, 0.8]]), dim=-1)
    poses = look_at(target + 3 * radius * away, target, torch.tensor([0.0, 0.0, 1.0]))
    focal = size / 2 * 8**0.5           # a sphere seen from three radii away just fits
    return Cameras(poses, torch.full((2, 2), focal), torch.full((2, 2), size / 2), torch.full((2, 2), size))
