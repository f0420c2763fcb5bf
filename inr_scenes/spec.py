"""What a signal's domain is: axes, features, the value map, the frame back to the world, and the cameras."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .camera import Cameras
from .device import wide
from .errors import InrError

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Box = tuple[tuple[int, int], ...]          # half-open index ranges, one per axis, counted from the original's sample 0


@dataclass(frozen=True)
class Axis:
    """A regular axis: sample i sits at start + i·step, for first ≤ i < first + count.

    A crop or an extension changes `first` and `count` alone, so coordinates are never renormalised.
    """

    start: float
    step: float
    count: int
    first: int = 0

    @classmethod
    def regular(cls, count: int, grid: str = "centers", half: float = 1.0) -> "Axis":
        """Return the axis of `count` samples over [-half, half], at cell "centers" or including both "ends".

        Raises InrError for another grid.
        """
        if grid not in ("centers", "ends"):
            raise InrError(f"--grid {grid!r} is not known: centers or ends.")
        if grid == "ends":
            return cls(-half, 2 * half / max(count - 1, 1), count)
        step = 2 * half / count
        return cls(-half + step / 2, step, count)

    @property
    def stop(self) -> int:
        """One past the last index."""
        return self.first + self.count

    @property
    def original(self) -> int:
        """How many samples the axis had when it was made, before crops and extensions."""
        if (self.start, self.step, self.count, self.first) == (-1.0, 2.0, 1, 0):
            return 1                    # on both "ends": of two samples the first would look the same
        return round(-2 * self.start / self.step) + 1

    def at(self, index: Tensor) -> Tensor:
        """Return the coordinates of (possibly fractional) original indices, computed in float64, as float32."""
        return (self.start + wide(index) * self.step).float()

    def index(self, coords: Tensor) -> Tensor:
        """Return the fractional original indices of coordinates, in float64."""
        return (wide(coords) - self.start) / self.step

    def cropped(self, low: int, high: int) -> "Axis":
        """Return the part of the axis with original indices low ≤ i < high."""
        return dataclasses.replace(self, first=low, count=high - low)

    def resampled(self, count: int) -> "Axis":
        """Return an axis with `count` samples covering the same cells."""
        ratio = self.count / count
        step = self.step * ratio
        low = self.start + (self.first - 0.5) * self.step
        return Axis(low + step / 2, step, count)


@dataclass(frozen=True)
class ValueMap:
    """Affine map from a network's range (about [-1, 1]) to the signal's stored one: stored = net·scale + shift."""

    scale: float = 1.0
    shift: float = 0.0

    def to_net(self, stored: Tensor) -> Tensor:
        """Map stored values to the network's range."""
        return (stored - self.shift) / self.scale

    def to_stored(self, net: Tensor) -> Tensor:
        """Map a network's output to stored values."""
        return net * self.scale + self.shift


UNIT_RANGE = ValueMap(0.5, 0.5)            # stored [0, 1]: colours and occupancy


@dataclass(frozen=True)
class Frame:
    """A similarity or affine map from the unit cube (x, y, z) to world units, as a 4×4 row-major matrix."""

    matrix: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, centre, scale: float) -> "Frame":
        """Return the frame world = scale·unit + centre."""
        x, y, z = (float(c) for c in centre)
        s = float(scale)
        return cls(((s, 0.0, 0.0, x), (0.0, s, 0.0, y), (0.0, 0.0, s, z), (0.0, 0.0, 0.0, 1.0)))

    @property
    def tensor(self) -> Tensor:
        """The matrix, (4, 4) float64."""
        return torch.tensor(self.matrix, dtype=torch.float64)

    @property
    def scale(self) -> float:
        """World length of one unit (the geometric mean over the axes)."""
        return float(torch.linalg.det(self.tensor[:3, :3]).abs()) ** (1 / 3)

    @property
    def centre(self) -> Tensor:
        """World position of the unit cube's centre, (3,) float64."""
        return self.tensor[:3, 3]

    def to_world(self, points: Tensor) -> Tensor:
        """Map unit-cube points (..., 3) to the world, float64."""
        m = self.tensor
        return points.double() @ m[:3, :3].T + m[:3, 3]

    def to_unit(self, points: Tensor) -> Tensor:
        """Map world points (..., 3) to the unit cube, float64."""
        m = torch.linalg.inv(self.tensor)
        return points.double() @ m[:3, :3].T + m[:3, 3]


@dataclass(frozen=True)
class Spec:
    """The domain of a signal: all that an archive needs beside the weights.

    kind: "image" | "video" | "audio" | "shape" | "lightfield", or a plugin's own
    axes: regular axes in tensor order: (y, x), (t, y, x), (t,), (z, y, x); none for light fields, whose rays come from
        `cameras`
    values: between the network's range and the stored one · frame: unit cube to world, undone on export
    meta: JSON-able facts of the medium: fps, sample_rate, quantity ("occupancy" | "sdf"), level, bits, background
    """

    kind: str
    axes: tuple[Axis, ...]
    in_features: int
    out_features: int
    values: ValueMap = UNIT_RANGE
    frame: Frame | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    cameras: Cameras | None = field(default=None, compare=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of samples along each axis."""
        return tuple(axis.count for axis in self.axes)

    @property
    def size(self) -> int:
        """Number of samples (pixels, frames × pixels, voxels; rays of all cameras for a light field)."""
        if self.cameras is not None:
            return int(self.cameras.size.prod(-1).sum())
        return math.prod(self.shape)

    @property
    def box(self) -> Box:
        """Original index range of each axis."""
        return tuple((axis.first, axis.stop) for axis in self.axes)

    def replace(self, **changes) -> "Spec":
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    @property
    def grid(self) -> str:
        """Where the samples lie: at cell "centers", or on a grid that includes both "ends" of [-1, 1].

        The axes say it, cropped or not; the meta of archives from before it was kept there may say otherwise.
        """
        return "ends" if self.axes and all(axis.start == -1.0 for axis in self.axes) else "centers"

    def regrid(self, grid: str) -> "Spec":
        """Return the spec with every axis at cell "centers" or including both "ends" of [-1, 1]; its meta says which.

        On the grid that they have, the axes stay as they are; on another they are numbered anew, from 0.
        """
        if grid == self.grid:
            return self.replace(meta={**self.meta, "grid": grid})
        meta = {name: value for name, value in self.meta.items() if name != "whole"}
        return self.replace(axes=tuple(Axis.regular(axis.count, grid) for axis in self.axes),
                            meta={**meta, "grid": grid})

    def cropped(self, box: Box) -> "Spec":
        """Return the spec of the samples in `box`."""
        return self.replace(axes=tuple(axis.cropped(low, high) for axis, (low, high) in zip(self.axes, box)))

    def along(self, low: int, high: int) -> "Spec":
        """Return the spec of the samples low ≤ i < high of the first axis, in the indices of the uncropped signal."""
        return self.replace(axes=(self.axes[0].cropped(low, high), *self.axes[1:]))

    def resampled(self, shape) -> "Spec":
        """Return the spec with another number of samples along each axis, covering the same region."""
        return self.replace(axes=tuple(axis.resampled(n) for axis, n in zip(self.axes, shape)))

    def coords(self, index: Tensor) -> Tensor:
        """Return the coordinates (n, in) of flat, row-major sample indices (n,)."""
        columns = []
        for axis, count in zip(reversed(self.axes), reversed(self.shape)):
            columns.append(axis.at(index % count + axis.first))
            index = torch.div(index, count, rounding_mode="floor")
        return torch.stack(columns[::-1], -1)

    def to_world(self, coords: Tensor) -> Tensor:
        """Map coordinates (..., 3) in tensor order (z, y, x) to world points (x, y, z), float64."""
        points = coords.flip(-1)
        return self.frame.to_world(points) if self.frame else points.double()

    def to_coords(self, world: Tensor) -> Tensor:
        """Map world points (x, y, z) to coordinates (..., 3) in tensor order (z, y, x), float32."""
        points = self.frame.to_unit(world) if self.frame else world.double()
        return points.flip(-1).float()

    def reach(self, bounds) -> list[tuple[float, float]]:
        """Return for each axis the least and the largest (fractional) index in a box of world bounds (2, 3)."""
        corners = torch.cartesian_prod(*torch.tensor(bounds, dtype=torch.float64).T)
        return [(float(index.amin()), float(index.amax()))
                for index in map(Axis.index, self.axes, self.to_coords(corners).unbind(-1))]

    @property
    def whole(self) -> Box:
        """Where what these samples are part of begins and ends: the original, or what it was extended to."""
        try:
            ends = tuple((int(low), int(high)) for low, high in self.meta.get("whole", ()))
        except (TypeError, ValueError):
            ends = ()
        return ends if ends and len(ends) == len(self.axes) else tuple((0, axis.original) for axis in self.axes)

    def part_of(self, whole: "Spec") -> tuple[slice, ...] | None:
        """Return where these samples lie in the array of `whole`: all of it where the shapes agree, or the box that
        was cropped from it; None where neither fits."""
        if self.out_features != whole.out_features or len(self.axes) != len(whole.axes):
            return None
        if self.shape == whole.shape:
            return tuple(slice(0, count) for count in self.shape)
        if "whole" in self.meta and whole.shape == tuple(high - low for low, high in self.whole) \
                and all(low <= axis.first and axis.stop <= high for (low, high), axis in zip(self.whole, self.axes)):
            return tuple(slice(axis.first - low, axis.stop - low) for (low, _), axis in zip(self.whole, self.axes))
        grid = whole.regrid(self.grid)
        fits = all(math.isclose(mine.start, its.start) and math.isclose(mine.step, its.step)
                   and its.first <= mine.first and mine.stop <= its.stop for mine, its in zip(self.axes, grid.axes))
        return tuple(slice(mine.first - its.first, mine.stop - its.first)
                     for mine, its in zip(self.axes, grid.axes)) if fits else None

    def to_json(self) -> dict[str, Any]:
        """Return everything but the cameras' tensors as JSON-able values."""
        return {
            "kind": self.kind, "axes": [dataclasses.asdict(axis) for axis in self.axes],
            "in_features": self.in_features, "out_features": self.out_features,
            "values": dataclasses.asdict(self.values), "frame": self.frame and [list(row) for row in self.frame.matrix],
            "meta": dict(self.meta),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], cameras: Cameras | None = None) -> "Spec":
        """Rebuild a spec; raises KeyError, TypeError or ValueError when `data` is not one."""
        frame = data["frame"]
        return cls(
            kind=str(data["kind"]), axes=tuple(_axis(axis) for axis in data["axes"]),
            in_features=_count(data["in_features"]), out_features=_count(data["out_features"]),
            values=ValueMap(float(data["values"]["scale"]), float(data["values"]["shift"])),
            frame=frame and _frame(frame),
            meta=dict(data["meta"]), cameras=cameras,
        )


def _frame(rows) -> Frame:
    frame = Frame(tuple(tuple(float(v) for v in row) for row in rows))
    if frame.tensor.shape != (4, 4) or not frame.tensor.det().abs() > 0:
        raise ValueError("its frame is singular")
    return frame


def _axis(data) -> Axis:
    axis = Axis(float(data["start"]), float(data["step"]), _count(data["count"]), int(data.get("first", 0)))
    if not (math.isfinite(axis.start) and math.isfinite(axis.step) and axis.step > 0):
        raise ValueError(f"axis {data} is not regular")
    return axis


def _count(value) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**40:
        raise ValueError(f"{value!r} is not a sensible count")
    return value
