"""Where the scene of a light field is: the frame its Plücker coordinates are taken in, from training views alone."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..camera import Cameras, average_pose, focus, is_around
from ..spec import Frame

SWEEP_WIDTH = 96                    # pixels across the pictures of a plane sweep
SWEEP_PLANES = 48
SWEEP_VIEWS = 9                     # training views that are predicted from their neighbours


@dataclass(frozen=True)
class Scene:
    """A frame, and what fields may know of it.

    around: the views stand around an object, which the unit ball holds. Otherwise they stand side by side: unit z = 0
    is the plane in the middle of the scene's depths, seen from +z and crossed by every ray within [-1, 1]; the cameras
    stand about z = distance, and moving one by s there moves what it sees on z = 0 by at most parallax·s.
    """

    frame: Frame
    meta: dict[str, bool | float]


def find(views) -> Scene:
    """Choose the frame for training views (lightfield.Views)."""
    if len(views) < 2 or is_around(views.cameras):
        return _around(views)
    return _side_by_side(views.cameras, [torch.from_numpy(views.image(i)) for i in range(len(views))])


def _around(views) -> Scene:
    """The ball about the point the cameras look at that holds every foreground ray, or what all cameras see."""
    cameras = views.cameras
    centre = focus(cameras)
    if views.foreground.all():
        angle = torch.atan(cameras.size.min(1).values / 2 / cameras.focal.max(1).values)
        radius = float(((cameras.poses[:, :, 3] - centre).norm(dim=-1) * torch.sin(angle)).median())
    else:
        views.place(Frame.of(centre, 1.0))              # a moment's length is the ray's distance from the centre
        index = views.foreground.nonzero()[:, 0]
        radius = 1.01 * max(float(views.rays(part)[:, 3:].norm(dim=-1).max()) for part in index.split(1 << 20))
    return Scene(Frame.of(centre, max(radius, 1e-6)), {"around": True})


def _side_by_side(cameras: Cameras, images: list[Tensor]) -> Scene:
    mean = average_pose(cameras.poses)
    low, high = depth_range(cameras, images, mean)
    depth = 2 / (1 / low + 1 / high)                    # the middle of the inverse depths: parallax is linear in them
    parallax = max(depth / low - 1, 1 - depth / high)
    axes, origin = mean[:, :3], mean[:, 3]
    centre = origin - depth * axes[:, 2]
    reach = 0.0
    for i in range(len(cameras)):
        height, width = cameras.size[i].tolist()
        corners = cameras[i:i + 1].resized(2, 2).rays(0) if min(height, width) > 1 else cameras.rays(i)
        start, direction = [(part - shift) @ axes for part, shift in zip(corners, (centre, torch.zeros(3)))]
        ahead = direction[:, 2] < -0.05
        crossing = start - direction * (start[:, 2:] / direction[:, 2:])
        reach = max(reach, float(crossing[ahead, :2].abs().max())) if ahead.any() else reach
    length = 2 * reach if reach else depth              # the 2×2 rays pass half way to the picture's corners
    matrix = torch.eye(4)
    matrix[:3, :3], matrix[:3, 3] = axes * length, centre
    return Scene(Frame(tuple(tuple(row) for row in matrix.tolist())),
                 {"around": False, "distance": depth / length, "parallax": parallax})


def depth_range(cameras: Cameras, images: list[Tensor], mean: Tensor) -> tuple[float, float]:
    """Return the nearest and farthest depth (5 % and 95 %) along the mean view, by a plane sweep over training views.

    Each of some views is predicted from its four nearest neighbours through planes of equal inverse depth; at every
    textured pixel the plane that predicts best is its depth.
    """
    origins = cameras.poses[:, :, 3]
    between = torch.cdist(origins, origins).fill_diagonal_(math.inf)
    baseline = float(between.min(1).values.median())
    scale = min(1.0, SWEEP_WIDTH / int(cameras.size[:, 1].max()))
    sizes = (cameras.size * scale).round().int().clamp_min(2)
    small = [cameras[i:i + 1].resized(*sizes[i].tolist()) for i in range(len(cameras))]
    pictures = [torch.nn.functional.interpolate(image.permute(2, 0, 1)[None], size=size.tolist(),
                                                mode="area") for image, size in zip(images, sizes)]
    focal = float(small[0].focal[0, 0])
    nearest = focal * baseline / (0.25 * float(sizes[0, 1]))            # a quarter of the picture between neighbours
    inverse = torch.linspace(0, 1, SWEEP_PLANES + 1)[1:] / nearest
    chosen = torch.linspace(0, len(cameras) - 1, min(SWEEP_VIEWS, len(cameras))).round().int().tolist()
    found, weight = [], []
    for i in chosen:
        neighbours = between[i].topk(min(4, len(cameras) - 1), largest=False).indices.tolist()
        start, direction = small[i].rays(0)
        along = direction @ -mean[:, 2]
        lift = (start - mean[:, 3]) @ -mean[:, 2]
        errors = []
        for value in inverse:
            points = start + direction * ((1 / value - lift) / along)[:, None]
            guess = torch.stack([_look_up(small[j], pictures[j], points) for j in neighbours]).mean(0)
            errors.append((guess.reshape(pictures[i].shape) - pictures[i]).square().mean(1, keepdim=True))
        errors = torch.nn.functional.avg_pool2d(torch.cat(errors, 1), 5, 1, 2, count_include_pad=False)[0]
        best = errors.min(0)
        gain = (errors.median(0).values - best.values).clamp_min(0)     # where depth matters
        found.append(inverse[best.indices].flatten())
        weight.append(gain.flatten())
    found, weight = torch.cat(found), torch.cat(weight)
    order = found.argsort()
    share = weight[order].cumsum(0) / weight.sum().clamp_min(1e-12)
    low, high = (float(found[order][(share >= q).nonzero()[0, 0]]) if weight.sum() > 0 else float(inverse[10])
                 for q in (0.05, 0.95))
    step = float(inverse[0])
    return 1 / (high + step / 2), 1 / (low - step / 2)


def _look_up(camera: Cameras, picture: Tensor, points: Tensor) -> Tensor:
    """Return the colours (3, n) a picture (1, 3, h, w) shows at world points (n, 3)."""
    height, width = camera.size[0].tolist()
    seen = (points - camera.poses[0, :, 3]) @ camera.poses[0, :, :3]
    ahead = seen[:, 2:].neg().clamp_min(1e-6)
    pixels = seen[:, :2] * torch.tensor([1.0, -1.0]) / ahead * camera.focal[0] + camera.centre[0]
    grid = 2 * pixels / torch.tensor([width, height]) - 1
    return torch.nn.functional.grid_sample(picture, grid[None, None], align_corners=False,
                                           padding_mode="border")[0, :, 0]
