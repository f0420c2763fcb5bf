"""SIREN: sine layers and the field made of them (Sitzmann et al., NeurIPS 2020), exactly as published."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from .errors import InrError
from .field import Field, Recipe
from .kernels import dispatch
from .kernels.network import Net
from .rays import rays_for
from .signal import Signal
from .spec import Spec

TOGETHER = 8                        # parts that the weights are prepared for at once, on the CPU


def check_sines(config) -> None:
    """Raise InrError for the settings of a sine network that has no width, or whose sines stand still."""
    if getattr(config, "hidden_features", 1) < 1 or config.hidden_layers < 0:
        raise InrError("--hidden-features must be at least 1 and --hidden-layers 0 or more.")
    if min(config.omega_0, config.first_omega_0) <= 0:
        raise InrError("--omega-0 and --first-omega-0 must be above 0.")


class SineLayer(nn.Module):
    """sin(omega_0 · (W x + b)): the bias is inside omega.

    Weights start uniform within 1/in (first layer) or √(6/in)/omega_0; biases keep torch's default, within 1/√in.
    The first layer sees coordinates, whose rounding omega multiplies, so it always runs in float32.
    """

    def __init__(self, in_features: int, out_features: int, omega_0: float = 30.0, first: bool = False):
        super().__init__()
        self.omega_0, self.first = omega_0, first
        self.linear = nn.Linear(in_features, out_features)
        bound = 1 / in_features if first else math.sqrt(6 / in_features) / omega_0
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out), in [-1, 1]."""
        # omega times the weights: far fewer numbers than omega times every row
        weight, bias = self.omega_0 * self.linear.weight, self.omega_0 * self.linear.bias
        if self.first:
            with torch.autocast(x.device.type, enabled=False):
                x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
                return torch.sin(linear(x, weight, bias))
        return torch.sin(linear(x, weight, bias))


def sine_output(in_features: int, out_features: int, omega_0: float) -> nn.Linear:
    """Return SIREN's last, linear layer, with the initialisation of its hidden ones."""
    layer = nn.Linear(in_features, out_features)
    bound = math.sqrt(6 / in_features) / omega_0
    nn.init.uniform_(layer.weight, -bound, bound)
    return layer


class SineNetwork(Field):
    """What networks of sine layers share: they see coordinates as `rays` does, and a fused kernel may compute them.

    A subclass makes `rays`, and gives `as_sines`, `plain` and these settings: hidden_features, hidden_layers, omega_0,
    first_omega_0.
    """

    rays: nn.Module

    def __init__(self, config, spec: Spec):
        check_sines(config)
        super().__init__(config, spec)

    def as_sines(self) -> list[Tensor]:
        """Return weight and bias of each layer of the SIREN that computes the same."""
        raise NotImplementedError(f"{type(self).__name__} must implement as_sines")

    def plain(self, seen: Tensor) -> Tensor:
        """Map what the network sees of coordinates (..., features) to values (..., out), by plain torch."""
        raise NotImplementedError(f"{type(self).__name__} must implement plain")

    def forward(self, coords: Tensor) -> Tensor:
        """Map coords (..., in) to values (..., out)."""
        return self.rays(coords, self.network)

    def network(self, seen: Tensor) -> Tensor:
        """Map what the network sees of coordinates (..., features) to values (..., out), by the chosen path."""
        values = dispatch.served(self._net, seen, self.as_sines())
        return self.plain(seen) if values is None else values

    @property
    def _net(self) -> Net:
        return Net(self.config.first_omega_0, self.config.omega_0)

    def rows_at_once(self, device: torch.device, derivatives: bool = False) -> int:
        """Return how many points the network best sees at once; the C kernel takes its own parts of them."""
        together = device.type == "cpu" and not derivatives and self.kernel_obstacle(device) is None
        return super().rows_at_once(device, derivatives) * (TOGETHER if together else 1)

    def kernel_obstacle(self, device: torch.device) -> str | None:
        """Say why the fused sine network does not serve; none if it does."""
        config = self.config
        size = self.rays.features, config.hidden_features, config.hidden_layers, self.spec.out_features
        return dispatch.obstacle(self._net, size, device)

    @classmethod
    def fast_path(cls, device: torch.device) -> str | None:
        """Return the fused kernel of a device, once it has passed its self-check."""
        return dispatch.fast_path(device)


class Siren(SineNetwork):
    """Sine network: a first sine layer, `hidden_layers` more, and a linear output."""

    name = "siren"

    @dataclass(frozen=True)
    class Config:
        """Settings of a SIREN; the defaults are the paper's."""

        hidden_features: int = 256
        """Width of the sine layers."""
        hidden_layers: int = 3
        """Sine layers after the first."""
        omega_0: float = 30.0
        """Frequency factor of the hidden layers."""
        first_omega_0: float = 30.0
        """Frequency factor of the first layer: 30, and 3000 for sound on [-1, 1]."""
        rays: str = "pluecker"
        """Light fields: "pluecker" coordinates, "points" on the ray, its point on the scene's "surface", or "auto"."""
        ray_points: int = 8
        """Points on the ray, inside the scene's ball."""
        ray_turn: float = 0.05
        """Surface: scale of the viewing direction beside the point; small keeps colours from view to view."""

    def __init__(self, config: Config, spec: Spec):
        super().__init__(config, spec)
        width, omega = config.hidden_features, config.omega_0
        self.rays = rays_for(spec, config.rays, config.ray_points, config.ray_turn)
        self.layers = nn.Sequential(
            SineLayer(self.rays.features, width, config.first_omega_0, first=True),
            *(SineLayer(width, width, omega) for _ in range(config.hidden_layers)),
        )
        self.output = sine_output(width, spec.out_features, omega)

    def as_sines(self) -> list[Tensor]:
        """Return weight and bias of each layer."""
        linears = [*(layer.linear for layer in self.layers), self.output]
        return [tensor for linear in linears for tensor in (linear.weight, linear.bias)]

    def plain(self, seen: Tensor) -> Tensor:
        """Apply the layers one after another."""
        return self.output(self.layers(seen))

    @classmethod
    def suggest(cls, signal: Signal, preset: str) -> Recipe:
        """Published: the paper's networks, Adam 1e-4, full batches. Fast: tuned, see benchmarks/."""
        kind = signal.spec.kind
        if preset == "published":
            config = {"video": {"hidden_features": 1024}, "audio": {"first_omega_0": 3000.0}}.get(kind, {})
            steps = {"video": 100_000, "audio": 9001}.get(kind, 10_000)
            batch = {"video": max(1, round(38e-4 * len(signal))), "shape": 100_000, "lightfield": 65_536}.get(kind, 0)
            fit = {"steps": steps, "optimizer": "adam", "lr": 1e-4, "batch": batch, "schedule": "constant",
                   "sampling": "uniform" if batch else "permuted", "focus": 0.0}
            return Recipe(config, fit, grid="ends")
        return Recipe({**FAST_CONFIG.get(kind, {}), **waves(signal.spec)}, FAST_FIT.get(kind, {}))


# first frequency factors: so much for each sample along the longest side, up to what still converges. Sound's 3000 was
# published for 300,000 samples; a short one would alias
WAVES = {"audio": (0.01, 3000.0), "image": (0.15, 120.0), "shape": (0.2, 60.0)}
FAST_CONFIG = {
    "lightfield": {"rays": "auto", "first_omega_0": 60.0},
}
MUON = {"optimizer": "muon", "precision": "auto"}
# by error: after as many steps photographs are 0.7 to 2.5 dB further, sounds 1 to 5, films 0.4; light fields too, but
# not their held-out views
FAST_FIT = {
    "audio": {**MUON, "steps": 3000, "batch": 8192, "lr": 4e-4, "sampling": "error"},
    "video": {**MUON, "steps": 3000, "batch": 8192, "lr": 6e-4, "sampling": "error"},
    # at 1e-3 long fits end worse than short ones
    "image": {**MUON, "steps": 2200, "batch": 4096, "lr": 4e-4, "sampling": "error"},
    "lightfield": {**MUON, "steps": 1500, "batch": 16384, "focus": 0.5, "lr": 6e-4},
    # 4.9 million samples: bunny, spot and nefertiti at 128³ pass an IoU of 0.995 after two thirds of them
    "shape": {**MUON, "steps": 600, "batch": 8192, "focus": 0.75, "lr": 7e-4},
}


def waves(spec: Spec) -> dict[str, float]:
    """Return the setting of the first layer's frequency factor for a kind of WAVES: 30, or more for finer grids."""
    if spec.kind not in WAVES:
        return {}
    share, most = WAVES[spec.kind]
    return {"first_omega_0": float(min(most, max(30, round(share * max(spec.shape, default=0)))))}
