"""Where the scene of a light field is and what its rough surface looks like, from the training views alone."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate, pad

from ..camera import Cameras, average_pose, focus, is_around
from ..rays import packed
from ..spec import Frame

CELLS = 96                          # voxels along a side of the largest visual hull
EMPTY = 0.5                         # a place that some view sees through with less than this alpha is empty
SWEEP_VIEWS = 25                    # views that a plane sweep compares
SWEEP_WIDTH, RELIEF_WIDTH = 96, 160  # pixels across the sweep that finds the depths, and at most across a relief
SWEEP_LEVELS = 64
CHANGE = 0.15                       # colour difference from which views just disagree: occlusion, gloss
WINDOWS = ((2, 1.0), (7, 0.3), (15, 0.1))   # (half width, weight) over which a place's depth is decided


@dataclass(frozen=True)
class Scene:
    """A frame, and what fields may know of the scene, JSON-able.

    around: the views stand around an object, which the unit ball holds. Otherwise they stand side by side: unit z = 0
    is the plane in the middle of the scene's depths, seen from +z and crossed by every ray within [-1, 1] of x.
    surface: what `rays.HullRays` or `rays.ReliefRays` takes.
    """

    frame: Frame
    meta: dict[str, Any]


def find(views, surface: bool = True) -> Scene:
    """Choose the frame for training views (lightfield.Views); surface: also look for the scene's rough surface."""
    surface = surface and not views.wide                # a lens that sees to its side has no flat picture
    if len(views) < 2 or is_around(views.cameras):
        return _around(views, surface)
    return _side_by_side(views, surface)


def _around(views, surface: bool) -> Scene:
    """The ball about the point the cameras look at that holds every foreground ray, or what all cameras see."""
    cameras = views.cameras
    centre = focus(cameras)
    if views.alpha is None:
        angle = torch.atan(cameras.size.min(1).values / 2 / cameras.focal.max(1).values)
        radius = float(((cameras.poses[:, :, 3] - centre).norm(dim=-1) * torch.sin(angle)).median())
    else:
        views.place(Frame.of(centre, 1.0))              # a moment's length is the ray's distance from the centre
        index = (views.alpha > 0).nonzero()[:, 0]
        radius = 1.01 * max((float(views.rays(part)[:, 3:].norm(dim=-1).max()) for part in index.split(1 << 20)),
                            default=1.0)
    frame = Frame.of(centre, max(radius, 1e-6))
    meta: dict[str, Any] = {"around": True}
    if surface and views.alpha is not None and (hull := visual_hull(views, frame)):
        meta["surface"] = hull
    return Scene(frame, meta)


def visual_hull(views, frame: Frame) -> dict[str, Any] | None:
    """Return the voxels of the unit ball that no training view sees through; None where none are left."""
    cells = min(CELLS, max(16, int(views.cameras.size.max())))
    middle = (torch.arange(cells) + 0.5) * (2 / cells) - 1
    points = torch.cartesian_prod(middle, middle, middle).flip(1)              # z, y, x order, as x y z
    left = (points.norm(dim=1) < 1).nonzero()[:, 0]
    for i in range(len(views)):
        solid, inside = _Eye.of(views, i, alpha=True).look_up(frame.to_world(points[left]).float())
        left = left[(solid[0] >= EMPTY) | ~inside]
    if not len(left):
        return None
    voxels = np.zeros(cells**3, bool)
    voxels[left.numpy()] = True
    return {"cells": cells, "data": packed(np.packbits(voxels))}


def _side_by_side(views, surface: bool) -> Scene:
    cameras = views.cameras
    mean = average_pose(cameras.poses)
    chosen = torch.linspace(0, len(views) - 1, min(SWEEP_VIEWS, len(views))).round().int().tolist()
    low, high = _inverse_depths(cameras, [_Eye.of(views, i, SWEEP_WIDTH) for i in chosen[::2]], mean)
    depth = 2 / (low + high)                            # the middle of the inverse depths: parallax is linear in them
    centre = mean[:, 3] - depth * mean[:, 2]
    length, height = _reach(cameras, mean, depth)
    matrix = torch.eye(4)
    matrix[:3, :3], matrix[:3, 3] = mean[:, :3] * length, centre
    meta: dict[str, Any] = {"around": False}
    if surface:
        offset = (cameras.poses[:, :, 3] - mean[:, 3]) @ mean[:, :3]
        columns = min(RELIEF_WIDTH, max(8, int(cameras.size[:, 1].max()) // 2))
        rows = max(8, round(columns * height / length))
        levels = torch.linspace(low, high, SWEEP_LEVELS)
        tangent = length / depth, height / depth
        cost = _sweep([_Eye.of(views, i, columns) for i in chosen], mean, levels, tangent, rows, columns)
        share = (_deepest(cost) / (SWEEP_LEVELS - 1)).clamp(0, 1)
        parallax = (high - low) / (high + low)
        meta["surface"] = {
            "rows": rows, "columns": columns, "reach": height / length, "low": -parallax, "high": parallax,
            "distance": depth / length, "spread": max(float(offset[:, :2].norm(dim=-1).max()) / length, 1e-6),
            "data": packed((share * 255).round().byte().numpy())}
    return Scene(Frame(tuple(tuple(row) for row in matrix.tolist())), meta)


def _inverse_depths(cameras: Cameras, eyes: list["_Eye"], mean: Tensor) -> tuple[float, float]:
    """Return the least and the greatest inverse depth of textured places, along the mean view."""
    origins = cameras.poses[:, :, 3]
    between = torch.cdist(origins, origins).fill_diagonal_(math.inf)
    baseline = max(float(between.min(1).values.median()), 1e-9)
    camera = eyes[0].camera
    rows, columns = camera.size[0].tolist()
    tangent = (camera.size[0].flip(0) / 2 / camera.focal[0]).tolist()
    most = 0.25 * columns / (float(camera.focal[0, 0]) * baseline)     # a quarter of the picture between neighbours
    levels = torch.linspace(0, most, SWEEP_LEVELS + 1)[1:]
    cost = _sweep(eyes, mean, levels, tangent, rows, columns)
    best = cost.min(0)
    weight = (cost.median(0).values - best.values).clamp_min(0).flatten()  # where depth matters
    found = levels[best.indices].flatten()
    order = found.argsort()
    share = weight[order].cumsum(0) / weight.sum().clamp_min(1e-12)
    low, high = (float(found[order][min(int((share < q).sum()), len(order) - 1)]) for q in (0.02, 0.98))
    step = float(levels[0])
    return max(low - step, 0.25 * low), high + step


def _reach(cameras: Cameras, mean: Tensor, depth: float) -> tuple[float, float]:
    """Return how far, across and up, rays cross the plane `depth` in front of the mean camera."""
    reach = torch.zeros(2)
    for i in range(len(cameras)):
        # the middles of four quarters, twice as far out, are the corners
        origins, directions = cameras[i:i + 1].resized(2, 2).rays(0)
        start, ahead = (origins - mean[:, 3]) @ mean[:, :3], directions @ mean[:, :3]
        middle = ahead.mean(0)
        ahead = (middle + 2 * (ahead / -ahead[:, 2:] * -middle[2] - middle))
        crossing = start + ahead * ((depth + start[:, 2:]) / (-ahead[:, 2:]).clamp_min(0.05))
        reach = torch.maximum(reach, crossing[:, :2].abs().amax(0))
    return max(float(reach[0]), 1e-6), max(float(reach[1]), 1e-6)


class _Eye:
    """One view to look places up in. bend: (1, 2, h, w) where a lens that is no pinhole looks, right and down."""

    def __init__(self, camera: Cameras, picture: Tensor, bend: Tensor | None):
        self.camera, self.picture, self.bend = camera, picture, bend

    @classmethod
    def of(cls, views, i: int, columns: int | None = None, alpha: bool = False) -> "_Eye":
        """Take view i, at most `columns` wide, or its alpha."""
        camera = views.cameras[i:i + 1]
        height, width = camera.size[0].tolist()
        picture = torch.from_numpy(views.image(i)).permute(2, 0, 1)[None]
        if alpha:
            picture = views.alpha[views.pixel_range(i)].reshape(1, 1, height, width).float() / 255
        bend = views.bend(i)
        scale = min(1.0, (columns or width) / width)
        if scale < 1:
            height, width = (max(2, round(n * scale)) for n in (height, width))
            camera = camera.resized(height, width)
            picture, bend = (part if part is None else interpolate(part, size=(height, width), mode="area")
                             for part in (picture, bend))
        return cls(camera, picture, bend)

    def look_up(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the picture shows at world points (n, 3), as (c, n), and which are inside it, (n,)."""
        camera = self.camera
        size = camera.size[0].flip(0)
        seen = (points - camera.poses[0, :, 3]) @ camera.poses[0, :, :3]
        tangent = seen[:, :2] * torch.tensor([1.0, -1.0]) / seen[:, 2:].neg().clamp_min(1e-6)
        pixels = tangent * camera.focal[0] + camera.centre[0]
        if self.bend is not None:
            for _ in range(5):                  # lenses bend little: each round corrects most of what is left
                looks = _at(self.bend, 2 * pixels / size - 1).T
                pixels = pixels + (tangent - looks) * camera.focal[0]
        place = 2 * pixels / size - 1
        return _at(self.picture, place), (place.abs() <= 1).all(-1) & (seen[:, 2] < 0)


def _at(picture: Tensor, place: Tensor) -> Tensor:
    """Return the values (c, n) of a picture (1, c, h, w) at places (n, 2) in [-1, 1]."""
    return grid_sample(picture, place[None, None], align_corners=False, padding_mode="border")[0, :, 0]


def _sweep(eyes: list[_Eye], mean: Tensor, levels: Tensor, tangent, rows: int, columns: int) -> Tensor:
    """Return how much views disagree (levels, rows, columns) about places seen by the mean camera, by inverse depth.

    tangent: of half the mean camera's field of view, across and up.
    """
    x = tangent[0] * ((torch.arange(columns) + 0.5) * (2 / columns) - 1)
    y = -tangent[1] * ((torch.arange(rows) + 0.5) * (2 / rows) - 1)
    y, x = torch.meshgrid(y, x, indexing="ij")
    directions = torch.stack([x, y, -torch.ones_like(x)], -1).reshape(-1, 3) @ mean[:, :3].T
    costs = []
    for level in levels.tolist():
        looks = [eye.look_up(mean[:, 3] + directions / level) for eye in eyes]
        colours, inside = (torch.stack(part) for part in zip(*looks))
        weight = inside[:, None].float()
        count = weight.sum(0).clamp_min(1)
        average = (colours * weight).sum(0) / count
        change = (colours - average).abs().mean(1).clamp_max(CHANGE)
        costs.append(torch.where(count[0] > 1, (change * weight[:, 0]).sum(0) / count[0], CHANGE / 2))
    cost = torch.stack(costs).reshape(1, len(levels), rows, columns)
    return sum(weight * _smooth(cost, half) for half, weight in WINDOWS)[0]


def _smooth(cost: Tensor, half: int) -> Tensor:
    """Average (1, levels, rows, columns) over square windows, one direction after the other."""
    down = avg_pool2d(cost, (2 * half + 1, 1), 1, (half, 0), count_include_pad=False)
    return avg_pool2d(down, (1, 2 * half + 1), 1, (0, half), count_include_pad=False)


def _deepest(cost: Tensor) -> Tensor:
    """Return the level (rows, columns), with fractions, at which views agree best; outliers are levelled."""
    at = cost.argmin(0).clamp(1, len(cost) - 2)
    before, here, after = (cost.gather(0, (at + k)[None])[0] for k in (-1, 0, 1))
    at = at + ((before - after) / (2 * (before - 2 * here + after)).clamp_min(1e-6)).clamp(-0.5, 0.5)
    window = pad(at[None, None], (2, 2, 2, 2), mode="replicate").unfold(2, 5, 1).unfold(3, 5, 1)
    return window.flatten(-2).median(-1).values[0, 0]
