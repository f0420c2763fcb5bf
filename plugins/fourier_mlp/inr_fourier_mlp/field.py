"""The field `fourier-mlp`: random features of the coordinates, then one network of linear maps or a mixture of them."""

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from inr_scenes.errors import InrError, suggestion
from inr_scenes.field import Field, Recipe
from inr_scenes.rays import rays_for
from inr_scenes.signal import Signal
from inr_scenes.spec import Spec

from . import recipes
from .features import FourierFeatures, GaborFeatures, default_envelope, default_scale, exact

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


class FourierMLP(Field):
    """Fourier or Gabor features and a ReLU network: every choice of the image study, on every kind of signal."""

    name = "fourier-mlp"

    @dataclass(frozen=True)
    class Config:
        """Settings of a Fourier-feature network; the defaults are the fast recipe's for a photograph."""

        features: Literal["fourier", "gabor", "none"] = "fourier"
        """Random features of the coordinates; none: the network reads the coordinates themselves."""
        encoding_features: int = 384
        """Width of the encoding: one cosine and one sine for each random frequency."""
        frequency_scale: float | tuple[float, ...] | None = 40.0
        """Deviation of the frequencies in cycles per unit, one or one per coordinate; none: the study's rule."""
        octaves: float = 6.0
        """Spread the scale evenly over so many octaves below frequency_scale; 0: one scale, as in the study."""
        envelope: float | tuple[float, ...] | None = None
        """Width of the Gabor envelopes, one or one per coordinate; none: the study's rule."""
        trainable_features: bool = False
        """Train frequencies, centres and envelopes too."""
        hidden_features: int = 256
        """Width of the hidden states."""
        layers: int = 4
        """Linear maps, the last one included, as the study counts them."""
        activation: Literal["relu", "gelu", "silu"] = "relu"
        """Activation of the hidden states."""
        layer_norm: bool = True
        """Normalise each hidden state after its activation."""
        skip: bool = False
        """Average each hidden state with the one before, weighted 1/√2, where both have the same width."""
        experts: int = 1
        """Networks, mixed by a softmax gate that reads the raw coordinates."""
        output_activation: Literal["sigmoid", "linear"] = "sigmoid"
        """Sigmoid, scaled to the network's range [-1, 1], or linear."""
        rays: str = "pluecker"
        """Light fields: "pluecker" coordinates, "points" on the ray, its point on the scene's "surface", or "auto"."""
        ray_points: int = 8
        """Points on the ray, inside the scene's ball."""
        ray_turn: float = 0.05
        """Surface: scale of the viewing direction beside the point; small keeps colours from view to view."""

    def __init__(self, config: Config, spec: Spec):
        super().__init__(config, spec)
        _check(config)
        self.rays = rays_for(spec, config.rays, config.ray_points, config.ray_turn)
        self.encoding = _encoding(config, self.rays.features)
        in_features = getattr(self.encoding, "out_features", self.rays.features)
        self.experts = nn.ModuleList(Network(in_features, spec.out_features, config) for _ in range(config.experts))
        self.gate = CoordinateLinear(self.rays.features, config.experts) if config.experts > 1 else None

    def forward(self, coords: Tensor) -> Tensor:
        """Map coords (..., in) to values (..., out)."""
        return self.rays(coords, self._values)

    def _values(self, coords: Tensor) -> Tensor:
        encoded = self.encoding(coords)
        if self.gate is None:
            values = self.experts[0](encoded)
        else:
            outputs = torch.stack([expert(encoded) for expert in self.experts], -1)
            values = (outputs * torch.softmax(self.gate(coords), -1).unsqueeze(-2)).sum(-1)
        # in the range [-1, 1], 2·sigmoid(x) - 1 = tanh(x/2)
        return torch.tanh(0.5 * exact(values)) if self.config.output_activation == "sigmoid" else values

    @classmethod
    def presets(cls) -> tuple[str, ...]:
        """The fast recipe, the study's final model, and the steps that lead to it."""
        return ("fast", "published", *recipes.LADDER)

    @classmethod
    def suggest(cls, signal: Signal, preset: str) -> Recipe:
        """Fast: tuned, see benchmarks/. Published: the study's final model. study-…: its steps, one by one."""
        return recipes.suggest(signal, preset)


class Network(nn.Module):
    """Linear maps with an activation, and LayerNorm after it, between them: (..., in) to (..., out).

    LayerNorm has no gain and shift of its own: the linear map that follows has them.
    """

    def __init__(self, in_features: int, out_features: int, config: FourierMLP.Config):
        super().__init__()
        widths = [in_features] + [config.hidden_features] * (config.layers - 1)
        kinds = [CoordinateLinear if config.features == "none" else nn.Linear] + [nn.Linear] * config.layers
        self.hidden = nn.ModuleList(kind(*pair) for kind, pair in zip(kinds, itertools.pairwise(widths)))
        self.output = kinds[len(self.hidden)](widths[-1], out_features)
        self.activation = ACTIVATIONS[config.activation]()
        norm = nn.LayerNorm(config.hidden_features, elementwise_affine=False)
        self.norm = norm if config.layer_norm else nn.Identity()
        self.skip = config.skip

    def forward(self, x: Tensor) -> Tensor:
        """Map features to values before the output's squashing."""
        for linear in self.hidden:
            state = self.norm(self.activation(linear(x)))
            x = (x + state) * math.sqrt(0.5) if self.skip and x.shape[-1] == state.shape[-1] else state
        return self.output(x)


class CoordinateLinear(nn.Linear):
    """A linear map of coordinates, always in float32."""

    def forward(self, coords: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        with torch.autocast(coords.device.type, enabled=False):
            return super().forward(exact(coords))


def _encoding(config: FourierMLP.Config, in_features: int) -> nn.Module:
    if config.features == "none":
        return nn.Identity()
    waves = config.encoding_features // 2
    scale = default_scale(waves) if config.frequency_scale is None else config.frequency_scale
    envelope = default_envelope(in_features) if config.envelope is None else config.envelope
    for flag, value in (("frequency-scale", scale), ("envelope", envelope)):
        numbers = value if isinstance(value, tuple) else (value,)
        if len(numbers) not in (1, in_features) or not all(number > 0 for number in numbers):
            raise InrError(f"--{flag} needs one number above 0, or one for each of {in_features} coordinates.")
    if config.features == "fourier":
        return FourierFeatures(in_features, waves, scale, config.octaves, config.trainable_features)
    return GaborFeatures(in_features, waves, scale, config.octaves, envelope, config.trainable_features)


def _check(config: FourierMLP.Config) -> None:
    for flag, value, known in (("features", config.features, ("fourier", "gabor", "none")),
                               ("activation", config.activation, ACTIVATIONS),
                               ("output-activation", config.output_activation, ("sigmoid", "linear"))):
        if value not in known:
            raise InrError(f"--{flag} {value!r} is not known.{suggestion(value, known)} Known: {', '.join(known)}.")
    if config.encoding_features < 2 or config.encoding_features % 2:
        raise InrError(f"--encoding-features {config.encoding_features} must be even: a cosine and a sine a wave.")
    if min(config.layers, config.hidden_features, config.experts) < 1 or config.octaves < 0:
        raise InrError("--layers, --hidden-features and --experts must be at least 1, --octaves at least 0.")
