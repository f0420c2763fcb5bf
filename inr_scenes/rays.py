"""Rays: cameras in a light field's frame, what a network sees of a ray, and the colours a field gives to rays.

A light field is four-dimensional, but most of what it shows lies on surfaces. Where the training views tell the scene's
rough surface, a network that sees the point a ray meets there, and only a little of the ray's direction, keeps its
colours from view to view: it interpolates where one that sees bare Plücker coordinates blends ghosts.
"""

import base64
import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from .camera import Cameras
from .device import precision_type, rounded_to
from .errors import InrError, suggestion
from .kernels.choice import serves
from .kernels.native import MARCH, call, library
from .spec import Frame, Spec

if TYPE_CHECKING:
    from .field import Field

RAYS = ("auto", "pluecker", "points", "surface")
LARGEST = 1 << 26                   # bytes of an unpacked surface


def in_frame(cameras: Cameras, frame: Frame | None) -> Cameras:
    """Return cameras as they stand in a frame's unit coordinates, whose rays a light field is trained on."""
    if frame is None:
        return cameras
    rotation = (frame.tensor[:3, :3] / frame.scale).T
    poses = cameras.poses.double()
    origins = (poses[:, :, 3] - frame.centre) @ rotation.T / frame.scale
    return dataclasses.replace(cameras, poses=torch.cat([rotation @ poses[:, :, :3], origins[:, :, None]], -1).float())


def colours(field: "Field", rays: Tensor, quick: bool = False) -> Tensor:
    """Return the stored values (n, out) a field gives to Plücker rays (n, 6) of its frame, on the CPU.

    quick: in half precision where the device is faster at it; pictures of 8 bits change by three steps at most.
    """
    device = next(field.parameters()).device
    with rounded_to(precision_type("auto" if quick else "32", device), device):
        return field.stored_at(rays, parts=4)           # many pass by what there is to see


class Rays(nn.Module):
    """How a network sees coordinates: as they are. in: (..., in) · features: how many numbers the network gets."""

    def __init__(self, features: int):
        super().__init__()
        self.features = features

    def see(self, rays: Tensor) -> Tensor:
        """Return what the network gets, (..., features)."""
        return rays

    def forward(self, rays: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the network's values (..., out) of rays."""
        return network(self.see(rays))


class PointRays(Rays):
    """A ray as n points spread over its chord through the unit ball, from its Plücker coordinates alone.

    All points of a ray that misses the ball are the one where it passes nearest to the centre.
    """

    def __init__(self, points: int):
        super().__init__(3 * points)
        self.register_buffer("at", torch.linspace(-1.0, 1.0, points + 2)[1:-1], persistent=False)

    def see(self, rays: Tensor) -> Tensor:
        """Map Plücker rays to points, (..., 3n)."""
        nearest, half = _chord(rays)
        along = (half * self.at)[..., None] * rays[..., None, :3]
        return (nearest[..., None, :] + along).flatten(-2)


class HullRays(Rays):
    """A ray as the point where it first meets the object's visual hull, and its direction scaled down.

    A ray that passes the hull by meets the point where it comes nearest. One that passes it by far shows the
    background, without asking the network. surface: {"cells": n, "data": bits of n³ voxels of the unit ball's cube}.
    """

    STEPS = 24
    FAR = 2.5                       # voxels from the hull: beyond, there is only background

    def __init__(self, surface: Mapping[str, Any], background: Tensor, turn: float):
        super().__init__(6)
        self.voxel, self.turn = 2 / surface["cells"], turn
        grid = torch.from_numpy(_distances(surface["data"], surface["cells"]))
        self.register_buffer("grid", grid[None, None], persistent=False)
        self.register_buffer("background", background, persistent=False)

    def distance(self, points: Tensor) -> Tensor:
        """Return the distance (n,) of points (n, 3), x y z, from the hull; below zero inside."""
        return grid_sample(self.grid, points[None, None, None], align_corners=False, padding_mode="border")[0, 0, 0, 0]

    @torch.no_grad()
    def meet(self, rays: Tensor) -> tuple[Tensor, Tensor]:
        """Return how far along from the point nearest to the centre rays (n, 6) meet or pass the hull, and how near."""
        native = _in_c(rays)
        if native and min(self.grid.shape[2:]) > 1:
            best, least = rays.new_empty(2, len(rays))
            sizes = torch.tensor([0.3 * self.voxel])
            call(native.meet_hull, len(rays), self.grid.shape[-1], self.STEPS, self.grid, sizes, rays.contiguous(),
                 best, least)
            return best, least
        nearest, half = _chord(rays)
        half, direction = half[:, 0], rays[:, :3]
        along = -half
        best, least = along, torch.full_like(along, 9.0)
        for _ in range(self.STEPS):
            distance = self.distance(nearest + along[:, None] * direction)
            nearer = (distance < least) & (least > 0)
            best, least = torch.where(nearer, along, best), torch.where(nearer, distance, least)
            along = torch.minimum(along + distance.clamp_min(0.3 * self.voxel), half)
        return best, least

    def forward(self, rays: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the network's values where rays come near the hull, the background elsewhere."""
        flat = rays.reshape(-1, 6)
        along, least = self.meet(flat)
        near = least < self.FAR * self.voxel
        if _asked(rays):
            there = near.nonzero()[:, 0]
            values = network(self._seen(flat[there], along[there]))
            shown = self.background.to(values.dtype).expand(len(least), -1).index_copy(0, there, values)
        else:                           # how many rays come near is known to the device alone
            values = network(self._seen(flat, along))
            shown = torch.where(near[:, None], values, self.background.to(values.dtype))
        return shown.reshape(*rays.shape[:-1], shown.shape[-1])

    def _seen(self, rays: Tensor, along: Tensor) -> Tensor:
        point = torch.linalg.cross(rays[:, :3], rays[:, 3:]) + along[:, None] * rays[:, :3]
        return torch.cat([point, self.turn * rays[:, :3]], -1)


class ReliefRays(Rays):
    """A ray as the point it meets on a relief, and where it crosses the cameras' plane, scaled down.

    The relief is a map of parallax over the unit plane z = 0, as seen from the middle of the cameras at z = distance: a
    camera s aside sees its place u at u - parallax·s. The point met is given by the place u from where the middle sees
    it, so that all that a picture shows is spread as evenly as in the picture.
    surface: {"rows", "columns", "reach": half the map's height, "low", "high": the parallax of 0 and 255, "distance",
    "spread": how far cameras stand from the middle, "data": rows × columns bytes, top row first}.
    """

    STEPS = 24

    def __init__(self, surface: Mapping[str, Any], turn: float):
        super().__init__(4)
        self.low, self.high, self.distance = surface["low"], surface["high"], surface["distance"]
        self.turn = turn / surface["spread"]
        shape = surface["rows"], surface["columns"]
        levels = torch.from_numpy(_unpacked(surface["data"], np.prod(shape)).astype(np.float32)).reshape(1, 1, *shape)
        self.register_buffer("map", self.low + levels * ((self.high - self.low) / 255), persistent=False)
        self.register_buffer("scale", torch.tensor([1.0, -1.0 / surface["reach"]]), persistent=False)

    @torch.no_grad()
    def meet(self, scene: Tensor, camera: Tensor) -> Tensor:
        """Return the parallax (n,) of the nearest place of the relief on rays through points (n, 2) of both planes."""
        levels = torch.linspace(self.high, self.low, self.STEPS).tolist()
        found = torch.full_like(scene[:, 0], self.low)
        searching = torch.ones_like(found, dtype=torch.bool)
        before = None
        for level in levels:
            place = (scene + level * camera) * self.scale
            height = grid_sample(self.map, place[None, None], align_corners=False, padding_mode="border")[0, 0, 0]
            above = height - level
            hit = searching & (above >= 0)
            if before is None:
                at = torch.full_like(found, level)
            else:                               # between the last level, above the relief, and this one
                share = before / (before - above).clamp_max(-1e-6)
                at = level + (levels[0] - levels[1]) * (1 - share.clamp(0, 1))
            found = torch.where(hit, at, found)
            searching, before = searching & ~hit, above
        return found

    def see(self, rays: Tensor) -> Tensor:
        """Map Plücker rays to places of the relief and of the cameras' plane, (..., 4)."""
        native = _in_c(rays)
        if native and min(self.map.shape[2:]) > 1:
            seen = rays.new_empty(*rays.shape[:-1], 4)
            sizes = torch.tensor([self.high, self.low, *self.scale.tolist(), self.distance, self.turn])
            call(native.see_relief, seen[..., 0].numel(), *self.map.shape[2:], self.STEPS, self.map, sizes,
                 rays.contiguous(), seen)
            return seen
        direction = rays[..., :3]
        nearest = torch.linalg.cross(direction, rays[..., 3:])
        slope = direction[..., :2] / direction[..., 2:].clamp_max(-0.05)    # rays that look back cross no plane
        scene = nearest[..., :2] - slope * nearest[..., 2:]
        camera = scene + slope * self.distance
        parallax = self.meet(scene.reshape(-1, 2), camera.reshape(-1, 2)).reshape(*scene.shape[:-1], 1)
        return torch.cat([scene + parallax * camera, camera * self.turn], -1)


def rays_for(spec: Spec, kind: str, points: int, turn: float) -> Rays:
    """Return how a network sees a light field's rays; every other kind's coordinates are seen as they are.

    kind: "pluecker" coordinates; `points` on the ray inside the scene's ball; the point met on the scene's rough
    "surface", with `turn` times the viewing direction; or "auto": the surface where the spec has one, else points
    around a scene, else Plücker coordinates.
    """
    if kind not in RAYS:
        raise InrError(f"--rays {kind!r} is not known.{suggestion(kind, RAYS)} Known: {', '.join(RAYS)}.")
    if spec.kind != "lightfield":
        return Rays(spec.in_features)
    around, surface = spec.meta.get("around", True), spec.meta.get("surface")
    if kind == "auto":
        kind = "surface" if surface else "points" if around else "pluecker"
    if kind == "pluecker":
        return Rays(spec.in_features)
    if kind == "points":
        return PointRays(points)
    if not surface:
        raise InrError("--rays surface needs a scene whose surface is known: views side by side, or views around an "
                       "object that have an alpha channel. Use --rays points.")
    try:
        if around:
            background = spec.values.to_net(torch.tensor(spec.meta["background"], dtype=torch.float32))
            return HullRays(surface, background, turn)
        return ReliefRays(surface, turn)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise InrError(f"The light field's surface does not make sense ({error}).") from None


def packed(values: np.ndarray) -> str:
    """Return bytes (uint8) as compressed text, for a spec's meta."""
    return base64.b64encode(zlib.compress(values.tobytes(), 9)).decode()


def _unpacked(text: str, count: int) -> np.ndarray:
    """Return the `count` bytes that `packed` made a text of; ValueError when they are not that many."""
    if not 0 < count <= LARGEST:
        raise ValueError(f"{count} values")
    try:
        data = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), int(count) + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if len(data) != count:
        raise ValueError(f"{len(data)} of {count} values")
    return np.frombuffer(data, np.uint8)


@functools.lru_cache(4)
def _distances(text: str, cells: int) -> np.ndarray:
    """Return the distances (z, y, x) float32, in units, of places from packed voxels; below zero inside them."""
    from scipy.ndimage import distance_transform_edt

    inside = np.unpackbits(_unpacked(text, -(-cells**3 // 8)), count=cells**3).reshape(cells, cells, cells).astype(bool)
    distance = np.where(inside, -0.5, distance_transform_edt(~inside) - 0.5)    # rays end where it first is negative
    return (distance * (2 / cells)).astype(np.float32)


def _in_c(points: Tensor):
    """Return the C functions that march on the CPU, where they serve; else none."""
    return library(MARCH, torch.float32) if points.device.type == "cpu" and serves(points) else None


def _asked(rays: Tensor) -> bool:
    """Say whether what a device computed may be asked for: not within a training step, which waits for nothing."""
    return rays.device.type == "cpu" or not torch.is_grad_enabled()


def _chord(rays: Tensor) -> tuple[Tensor, Tensor]:
    """Return rays' points (..., 3) nearest to the centre, and half their chords (..., 1) through the unit ball."""
    nearest = torch.linalg.cross(rays[..., :3], rays[..., 3:])
    return nearest, (1 - nearest.square().sum(-1, keepdim=True)).clamp_min(1e-6).sqrt()
