"""Rays: cameras in a light field's frame, what a network sees of a ray, and the colours a field gives to rays."""

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .camera import Cameras
from .errors import InrError, suggestion
from .field import CHUNK
from .spec import Frame, Spec

if TYPE_CHECKING:
    from .field import Field

RAYS = ("auto", "pluecker", "points", "planes")


def in_frame(cameras: Cameras, frame: Frame | None) -> Cameras:
    """Return cameras as they stand in a frame's unit coordinates, whose rays a light field is trained on."""
    if frame is None:
        return cameras
    matrix = frame.tensor
    rotation = (matrix[:3, :3] / frame.scale).T
    poses = cameras.poses.double()
    origins = (poses[:, :, 3] - frame.centre) @ rotation.T / frame.scale
    return dataclasses.replace(cameras, poses=torch.cat([rotation @ poses[:, :, :3], origins[:, :, None]], -1).float())


@torch.inference_mode()
def colours(field: "Field", rays: Tensor) -> Tensor:
    """Return the stored values (n, out) a field gives to Plücker rays (n, 6) of its frame, on the CPU."""
    device = next(field.parameters()).device
    return torch.cat([field.stored(part.to(device)).cpu() for part in rays.split(CHUNK)])


class RayPoints(nn.Module):
    """n points spread over a ray's chord through the unit sphere, from its Plücker coordinates alone.

    A ray that misses the sphere is background: all its points are the one where it passes nearest to the centre.
    in: (..., 6) unit direction and moment · out: (..., 3n).
    """

    def __init__(self, points: int):
        super().__init__()
        self.register_buffer("at", torch.linspace(-1.0, 1.0, points + 2)[1:-1], persistent=False)
        self.out_features = 3 * points

    def forward(self, rays: Tensor) -> Tensor:
        """Map Plücker rays to points."""
        direction, moment = rays[..., :3], rays[..., 3:]
        nearest = torch.linalg.cross(direction, moment)
        half = (1 - nearest.square().sum(-1, keepdim=True)).clamp_min(1e-6).sqrt()
        along = (half * self.at)[..., None] * direction[..., None, :]
        return (nearest[..., None, :] + along).flatten(-2)


class RayPlanes(nn.Module):
    """Where a ray crosses two planes, from its Plücker coordinates alone: the scene's middle and the cameras'.

    The crossing with the cameras' plane, unit z = distance, is scaled by `parallax`: a step there then changes as much
    of the picture as an equal step on the scene's plane, z = 0, at most. in: (..., 6) unit direction and moment ·
    out: (..., 4).
    """

    def __init__(self, distance: float, parallax: float):
        super().__init__()
        self.distance, self.parallax, self.out_features = distance, parallax, 4

    def forward(self, rays: Tensor) -> Tensor:
        """Map Plücker rays to crossings."""
        direction, moment = rays[..., :3], rays[..., 3:]
        nearest = torch.linalg.cross(direction, moment)
        slope = direction[..., :2] / direction[..., 2:].clamp_max(-0.05)     # rays that look back have no crossing
        scene = nearest[..., :2] - slope * nearest[..., 2:]
        camera = scene + slope * self.distance
        return torch.cat([scene, camera * self.parallax], -1)


def ray_features(spec: Spec, rays: str, points: int) -> tuple[nn.Module, int]:
    """Return the module a network of a light field starts with and its width; the identity for every other kind.

    rays: "pluecker" coordinates as they are, `points` on the ray inside the scene's sphere, or crossings with two
    "planes", for cameras that stand side by side; "auto": points for views around a scene, planes for side by side.
    """
    if rays not in RAYS:
        raise InrError(f"--rays {rays!r} is not known.{suggestion(rays, RAYS)} Known: {', '.join(RAYS)}.")
    around = spec.meta.get("around", True)
    if rays == "auto":
        rays = "points" if around else "planes"
    if spec.kind != "lightfield" or rays == "pluecker":
        return nn.Identity(), spec.in_features
    if rays == "points":
        module = RayPoints(points)
    elif around:
        raise InrError("--rays planes needs cameras that stand side by side; these stand around the scene: "
                       "use --rays points.")
    else:
        module = RayPlanes(spec.meta["distance"], spec.meta["parallax"])
    return module, module.out_features
