"""INCODE (Kazerouni et al., WACV 2024) and its Local-Global form: sines shaped by a harmoniser."""

import functools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from inr_scenes.field import Recipe
from inr_scenes.rays import rays_for
from inr_scenes.signal import Signal
from inr_scenes.siren import SineLayer, SineNetwork, sine_output
from inr_scenes.spec import Spec

from .config import LocalGlobalConfig, PartitionConfig
from .harmonizer import Harmonized, HarmonizerConfig, shaped, shaped_sine
from .recipes import incode_recipe, lg_incode_recipe
from .siren import LgSiren, coordinate_layer


class Incode(Harmonized, SineNetwork):
    """A SIREN whose sines are e^a sin(e^b ω(W x + b0) + c) + d, the four scalars found by a harmoniser."""

    name = "incode"
    sets: ClassVar[int] = 1

    @dataclass(frozen=True)
    class Config(HarmonizerConfig):
        """Settings of INCODE; the defaults are the paper's."""

        hidden_features: int = 256
        """Width of the sine layers."""
        hidden_layers: int = 3
        """Sine layers after the first."""
        omega_0: float = 30.0
        """Frequency factor of the hidden layers."""
        first_omega_0: float = 30.0
        """Frequency factor of the first layer: 30, 3000 for sound on [-1, 1], 5 to 20 for denoising."""
        rays: str = "auto"
        """Light fields: "pluecker" coordinates, "points" on the ray, its point on the scene's "surface", or "auto"."""
        ray_points: int = 8
        """Points on the ray, inside the scene's ball."""
        ray_turn: float = 0.05
        """Surface: scale of the viewing direction beside the point; small keeps colours from view to view."""

    def __init__(self, config: Config, spec: Spec):
        super().__init__(config, spec)
        width = config.hidden_features
        self.rays = rays_for(spec, config.rays, config.ray_points, config.ray_turn)
        self.layers = nn.ModuleList([
            SineLayer(self.rays.features, width, config.first_omega_0, first=True),
            *(SineLayer(width, width, config.omega_0) for _ in range(config.hidden_layers))])
        self.output = sine_output(width, spec.out_features, config.omega_0)
        self.make_scalars()

    def as_sines(self) -> list[Tensor]:
        """Return weight and bias of each layer of the SIREN that computes the same."""
        (scalars,) = self.scalars
        before, tensors = None, []
        for layer in self.layers:
            tensors += shaped(layer.linear.weight, layer.linear.bias, layer.omega_0, scalars, before)
            before = scalars
        return [*tensors, *shaped(self.output.weight, self.output.bias, None, None, before)]

    def plain(self, seen: Tensor) -> Tensor:
        """Apply the layers one after another."""
        (scalars,) = self.scalars
        first, *hidden = self.layers
        x = shaped_sine(coordinate_layer(first.linear, seen), first.omega_0, scalars)
        for layer in hidden:
            x = shaped_sine(layer.linear(x), layer.omega_0, scalars)
        return self.output(x)

    @classmethod
    def suggest(cls, signal: Signal, preset: str) -> Recipe:
        """Published: the paper's settings. Fast: tuned, see benchmarks/."""
        return incode_recipe(signal, preset)


class LgIncode(Harmonized, LgSiren):
    """Local-Global SIREN with shaped sines: one set of scalars for local, one for global, one for merge layers."""

    name = "lg-incode"
    sets: ClassVar[int] = 3

    @dataclass(frozen=True)
    class Config(HarmonizerConfig, LocalGlobalConfig):
        """Settings of a Local-Global INCODE."""

    def build(self, config: PartitionConfig) -> None:
        """Make the layers and the scalars."""
        super().build(config)
        self.make_scalars()

    def sines(self):
        """Return the activations of local, global and merge layers."""
        return tuple(functools.partial(shaped_sine, scalars=scalars) for scalars in self.scalars)

    def as_sines(self, own: list[Tensor], common: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the tensors of the Local-Global SIREN that computes the same."""
        local, shared, merge = self.scalars
        first, omega, levels = self.config.first_omega_0, self.config.omega_0, self.config.hidden_layers + 1
        weights, mine, both = list(zip(own[::2], own[1::2])), [], []
        for i, (weight, bias) in enumerate(weights):
            ends = i == levels
            mine += shaped(weight, bias, None if ends else omega if i else first, None if ends else local,
                           merge if i else None, inputs=1)
        for i, (weight, bias) in enumerate(zip(common[::2], common[1::2])):
            if i < levels:
                both += shaped(weight, bias, omega if i else first, shared, shared if i else None)
            else:                                           # a merge operator sees local, then global features
                h = len(weight)
                left, offset = shaped(weight[:, :h], bias, None, None, local)
                right, offset = shaped(weight[:, h:], offset, None, None, shared)
                both += shaped(torch.cat([left, right], 1), offset, omega, merge, None)
        return mine, both

    @classmethod
    def suggest(cls, signal: Signal, preset: str) -> Recipe:
        """Published: the paper's settings. Fast: tuned, see benchmarks/."""
        return lg_incode_recipe(signal, preset)
