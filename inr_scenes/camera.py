"""Pinhole cameras, their rays, and camera paths. OpenGL axes: +X right, +Y up, −Z forward; world +Z up."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .errors import InrError


@dataclass(frozen=True)
class Cameras:
    """A batch of n pinhole cameras in world units; sizes and intrinsics may differ from camera to camera.

    poses: (n, 3, 4) camera-to-world · focal: (n, 2) fx, fy · centre: (n, 2) cx, cy · size: (n, 2) int height, width;
    all intrinsics in pixels, with the centre of the first pixel at (0.5, 0.5).
    """

    poses: Tensor
    focal: Tensor
    centre: Tensor
    size: Tensor

    def __len__(self) -> int:
        return len(self.poses)

    def __getitem__(self, index) -> "Cameras":
        """Return the cameras at `index` (a slice, or a list or tensor of indices), as a batch."""
        return Cameras(self.poses[index], self.focal[index], self.centre[index], self.size[index])

    def to(self, device) -> "Cameras":
        """Return the cameras on a device."""
        return Cameras(*(part.to(device) for part in (self.poses, self.focal, self.centre, self.size)))

    def resized(self, height: int, width: int) -> "Cameras":
        """Return the same cameras with images of another size, the field of view kept."""
        scale = torch.tensor([width, height]) / self.size.flip(-1)
        size = torch.tensor([height, width]).expand_as(self.size).contiguous()
        return Cameras(self.poses, self.focal * scale, self.centre * scale, size)

    def framed(self, height: int, width: int) -> "Cameras":
        """Return the same cameras with images of another size and shape: scaled alike both ways, the middle kept."""
        size = torch.tensor([height, width]).expand_as(self.size).contiguous()
        scale = (size / self.size).amax(-1, keepdim=True)               # as much as fills the new shape
        beyond = (self.size * scale - size).flip(-1)
        return Cameras(self.poses, self.focal * scale, self.centre * scale - beyond / 2, size)

    def to_json(self) -> dict[str, list]:
        """Return the cameras as JSON-able lists; a lens or a size that all have is there once."""
        lists = {"poses": [[float(f"{value:.7g}") for value in pose] for pose in self.poses.flatten(1).tolist()]}
        for name in ("focal", "centre", "size"):
            part = getattr(self, name)
            lists[name] = (part[:1] if (part == part[:1]).all() else part).tolist()
        return lists

    @classmethod
    def from_json(cls, data) -> "Cameras":
        """Rebuild cameras; raises KeyError, TypeError or ValueError when `data` is not some."""
        poses = torch.tensor(data["poses"], dtype=torch.float32).reshape(-1, 3, 4)
        parts = [torch.tensor(data[name], dtype=kind).reshape(-1, 2)
                 for name, kind in (("focal", torch.float32), ("centre", torch.float32), ("size", torch.int64))]
        if any(len(part) not in (1, len(poses)) for part in parts):
            raise ValueError("cameras of different numbers")
        return cls(poses, *(part.expand(len(poses), 2).contiguous() for part in parts))

    def directions(self, i: int) -> Tensor:
        """Return the camera-space viewing directions of camera i, (height·width, 3), not normalised."""
        height, width = self.size[i].tolist()
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        x = (x - self.centre[i, 0]) / self.focal[i, 0]
        y = (y - self.centre[i, 1]) / self.focal[i, 1]
        return torch.stack([x, -y, -torch.ones_like(x)], -1).reshape(-1, 3)

    def rays(self, i: int) -> tuple[Tensor, Tensor]:
        """Return the origins and unit directions of camera i's pixels, each (height·width, 3), row-major."""
        rotation, origin = self.poses[i, :, :3], self.poses[i, :, 3]
        directions = torch.nn.functional.normalize(self.directions(i) @ rotation.T, dim=-1)
        return origin.expand_as(directions), directions

    def pluecker(self, i: int) -> Tensor:
        """Return the Plücker coordinates of camera i's rays, (height·width, 6), as `pluecker(*rays(i))` does.

        From one origin they are linear in the direction: one small product for a view.
        """
        axes, origin = self.poses[i, :, :3].T, self.poses[i, :, 3]
        lines = self.directions(i) @ pluecker(origin.expand(3, 3), axes)
        return lines / lines[:, :3].norm(dim=-1, keepdim=True)


def pluecker(origins: Tensor, directions: Tensor) -> Tensor:
    """Plücker coordinates (direction, origin × direction) of rays, (..., 6).

    They do not change when an origin slides along its ray (Sitzmann et al., Light Field Networks, NeurIPS 2021).
    """
    return torch.cat([directions, torch.linalg.cross(origins, directions)], -1)


def look_at(origins: Tensor, target: Tensor, up: Tensor) -> Tensor:
    """Camera-to-world poses (n, 3, 4) of cameras at `origins` (n, 3) looking at `target` (3,) or (n, 3)."""
    backward = torch.nn.functional.normalize(origins - target, dim=-1)
    right = torch.linalg.cross(up.expand_as(backward), backward)
    # looking straight along `up` leaves the roll open: take any
    stray = torch.zeros_like(backward).scatter(-1, backward.abs().argmin(-1, keepdim=True), 1.0)
    right = torch.where(right.norm(dim=-1, keepdim=True) < 1e-6, torch.linalg.cross(stray, backward), right)
    right = torch.nn.functional.normalize(right, dim=-1)
    return torch.stack([right, torch.linalg.cross(backward, right), backward, origins], -1)


def focus(cameras: Cameras) -> Tensor:
    """Return the point nearest to all optical axes, (3,): what the cameras look at (least squares)."""
    forward = torch.nn.functional.normalize(-cameras.poses[:, :, 2].double(), dim=-1)
    origins = cameras.poses[:, :, 3].double()
    across = torch.eye(3, dtype=torch.float64) - forward[:, :, None] * forward[:, None, :]
    # parallel axes have no common point; the small ridge then answers with the cameras' mean
    ridge = 1e-6 * torch.eye(3, dtype=torch.float64)
    mean = origins.mean(0)
    offset = torch.linalg.solve(across.mean(0) + ridge, (across @ (origins - mean)[:, :, None]).mean(0)[:, 0])
    return (mean + offset).float()


def is_around(cameras: Cameras) -> bool:
    """Say whether the cameras stand around a scene (views of an object) rather than side by side."""
    forward = torch.nn.functional.normalize(-cameras.poses[:, :, 2], dim=-1)
    return bool(forward.mean(0).norm() < 0.9)


def up_axis(cameras: Cameras) -> Tensor:
    """Return the direction (3,) that is up in most pictures: a world axis where one lies within 30° of it."""
    mean = torch.nn.functional.normalize(cameras.poses[:, :, 1].mean(0), dim=0)
    nearest = mean.abs().argmax()
    if mean[nearest].abs() < math.cos(math.radians(30)):
        return mean
    return torch.eye(3)[nearest] * mean[nearest].sign()


def orbit(cameras: Cameras, target: Tensor, frames: int = 120, elevation: float | None = None) -> Cameras:
    """Return `frames` cameras on a circle around `target`, level, at the given cameras' median distance.

    elevation: degrees above the horizon; by default the median of the given cameras'. For cameras that stand side by
    side the circle would leave what they saw: they get `spiral` instead.
    """
    if not is_around(cameras):
        return spiral(cameras, target, frames)
    radius, tilt = _ring(cameras, target)
    height = torch.full((frames,), float(tilt.median()) if elevation is None else math.radians(elevation))
    return _circle(cameras, target, torch.arange(frames) * (2 * math.pi / frames), height, radius)


def spiral(cameras: Cameras, target: Tensor, frames: int = 120, rounds: float = 2.0) -> Cameras:
    """Return `frames` cameras winding through the region where the given cameras stand, back to where they began.

    Side by side, it keeps to 80 % of the cameras' spread, so every view lies between observed ones; around a scene, it
    circles while it rises from the lowest tenth of the cameras to the highest and comes down again.
    """
    t = torch.arange(frames) / frames
    angle = 2 * math.pi * rounds * t
    if is_around(cameras):
        radius, tilt = _ring(cameras, target)
        low, high = torch.quantile(tilt, torch.tensor([0.1, 0.9]))
        return _circle(cameras, target, angle, low + (high - low) * (1 - torch.cos(2 * math.pi * t)) / 2, radius)
    mean = average_pose(cameras.poses)
    local = (cameras.poses[:, :, 3] - mean[:, 3]) @ mean[:, :3]
    swing = torch.sin(math.pi * t)
    path = torch.stack([swing * torch.cos(angle), swing * torch.sin(angle), torch.zeros(frames)], -1)
    origins = mean[:, 3] + (path * 0.8 * local.abs().amax(0)) @ mean[:, :3].T
    if _parallel(cameras):
        poses = torch.cat([mean[:, :3].expand(frames, 3, 3), origins[:, :, None]], -1)
    else:
        poses = look_at(origins, target, mean[:, 1])
    return _like(cameras, poses)


def read_path(path: Path, transforms: Path | None = None) -> tuple[Cameras, float]:
    """Read a nerfstudio camera-path JSON; return its cameras and the frames per second.

    transforms: the dataparser_transforms.json of the training the path was made in, which turned, moved and scaled the
    data's frame; the cameras are brought back into that. Raises InrError when a file is not what it should be.
    """
    try:
        data = json.loads(Path(path).read_text())
        frames = data["camera_path"]
        height, width = int(data["render_height"]), int(data["render_width"])
        poses = torch.tensor([frame["camera_to_world"] for frame in frames], dtype=torch.float32).reshape(-1, 4, 4)
        fov = torch.tensor([float(frame["fov"]) for frame in frames])
    except FileNotFoundError:
        raise InrError(f"{path} does not exist.") from None
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InrError(f"{path} is not a nerfstudio camera path ({error!r}); its viewer writes one.") from None
    if not len(poses):
        raise InrError(f"{path} holds no camera.")
    if transforms is not None:
        poses = _undone(poses, Path(transforms))
    focal = (height / 2 / torch.tan(torch.deg2rad(fov) / 2))[:, None].expand(-1, 2)
    centre = torch.tensor([width / 2, height / 2]).expand(len(poses), 2)
    size = torch.tensor([[height, width]]).expand(len(poses), 2)
    fps = len(frames) / float(data.get("seconds") or len(frames) / 24)
    return Cameras(poses[:, :3], focal, centre, size), fps


def _undone(poses: Tensor, path: Path) -> Tensor:
    """Return poses (n, 4, 4) as they were before nerfstudio's dataparser applied the transform and scale of a file."""
    try:
        data = json.loads(path.read_text())
        transform = torch.tensor(data["transform"], dtype=torch.float64).reshape(3, 4)
        scale = float(data["scale"])
        back = torch.linalg.inv(transform[:, :3])
    except FileNotFoundError:
        raise InrError(f"{path} does not exist.") from None
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InrError(f"{path} is no dataparser_transforms.json of nerfstudio ({error!r}).") from None
    found = poses.double()
    found[:, :3, 3] = (found[:, :3, 3] / scale - transform[:, 3]) @ back.T
    found[:, :3, :3] = back @ found[:, :3, :3]
    return found.to(poses)


def _ring(cameras: Cameras, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cameras' median distance from `target`, and each one's elevation in radians."""
    offset = cameras.poses[:, :, 3] - target
    distance = offset.norm(dim=-1)
    return distance.median(), torch.asin(((offset @ up_axis(cameras)) / distance).clamp(-1, 1))


def _circle(cameras: Cameras, target: Tensor, angle: Tensor, tilt: Tensor, radius: Tensor) -> Cameras:
    """Cameras looking at `target` from around it, starting in front of world +X (or another axis across)."""
    up = up_axis(cameras)
    across = torch.eye(3)[0 if up[0].abs() < 0.9 else 1]
    front = torch.nn.functional.normalize(across - (across @ up) * up, dim=0)
    side = torch.linalg.cross(up, front)
    ring = torch.stack([torch.cos(tilt) * torch.cos(angle), torch.cos(tilt) * torch.sin(angle), torch.sin(tilt)], -1)
    origins = target + radius * ring @ torch.stack([front, side, up])
    return _like(cameras, look_at(origins, target, up))


def _like(cameras: Cameras, poses: Tensor) -> Cameras:
    """Cameras at `poses` with the first camera's lens and size."""
    n = len(poses)
    focal, centre, size = (part[:1].expand(n, 2) for part in (cameras.focal, cameras.centre, cameras.size))
    return Cameras(poses, focal, centre, size)


def average_pose(poses: Tensor) -> Tensor:
    """Return the mean position and the rotation nearest to the mean of all, (3, 4), of poses (n, 3, 4)."""
    u, _, v = torch.linalg.svd(poses[:, :, :3].mean(0))
    rotation = u @ torch.diag(torch.tensor([1.0, 1.0, float(torch.linalg.det(u @ v).sign())])) @ v
    return torch.cat([rotation, poses[:, :, 3].mean(0)[:, None]], -1)


def _parallel(cameras: Cameras) -> bool:
    axes = torch.nn.functional.normalize(cameras.poses[:, :, 2], dim=-1)
    return bool((axes @ axes[0]).min() > 0.9999)
