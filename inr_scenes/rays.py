"""What a network sees of a ray: its Plücker coordinates, or points on it inside the scene's unit sphere."""

import torch
from torch import Tensor, nn


class RayPoints(nn.Module):
    """n points spread over a ray's chord through the unit sphere, from its Plücker coordinates alone.

    A ray that misses the sphere is background: all its points are the one where it passes nearest to the centre, scaled
    to just outside, so the network can tell it. in: (..., 6) unit direction and moment · out: (..., 3n).
    """

    def __init__(self, points: int):
        super().__init__()
        self.points = points
        self.register_buffer("at", torch.linspace(-1.0, 1.0, points + 2)[1:-1], persistent=False)
        self.out_features = 3 * points

    def forward(self, rays: Tensor) -> Tensor:
        """Map Plücker rays to points."""
        direction, moment = rays[..., :3], rays[..., 3:]
        nearest = torch.linalg.cross(direction, moment)
        half = (1 - nearest.square().sum(-1, keepdim=True)).clamp_min(1e-6).sqrt()
        along = (half * self.at)[..., None] * direction[..., None, :]
        return (nearest[..., None, :] + along).flatten(-2)


def ray_features(in_features: int, kind: str, points: int) -> tuple[nn.Module, int]:
    """Return the module a network of a light field starts with and its width; the identity for every other kind."""
    if kind == "lightfield" and points > 0:
        module = RayPoints(points)
        return module, module.out_features
    return nn.Identity(), in_features
