"""Random features of coordinates in [-1, 1]: Fourier (waves everywhere) and Gabor (waves within an envelope).

Frequencies are in cycles per unit, so the scale of a network on [0, 1] is twice the one meant here.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

Scale = float | Sequence[float]             # one number for all coordinates, or one for each

FAINT = -80.0                               # smallest exponent of an envelope: below it lie numbers that are slow


class FourierFeatures(nn.Module):
    """cos and sin of 2π xF for random frequencies F, fixed or trainable: (..., in) to (..., 2·waves), in float32."""

    def __init__(self, in_features: int, waves: int, scale: Scale, octaves: float = 0.0, trainable: bool = False):
        super().__init__()
        self.out_features = 2 * waves
        _hold(self, trainable, frequencies=draw_frequencies(in_features, waves, scale, octaves))

    def forward(self, coords: Tensor) -> Tensor:
        """Map coords to their features, cosines first."""
        with torch.autocast(coords.device.type, enabled=False):
            return _waves(exact(coords), 2 * math.pi * self.frequencies)


class GaborFeatures(nn.Module):
    """cos and sin of 2π (x - c)·f under the envelope exp(-½ Σ((x - c)/σ)²): (..., in) to (..., 2·waves), in float32.

    Centres are uniform over the domain. Centres, frequencies and widths σ are all fixed or all trainable.
    """

    def __init__(self, in_features: int, waves: int, scale: Scale, octaves: float = 0.0, envelope: Scale = 0.2,
                 trainable: bool = False):
        super().__init__()
        self.out_features = 2 * waves
        _hold(self, trainable, centers=2 * torch.rand(in_features, waves) - 1,
              frequencies=draw_frequencies(in_features, waves, scale, octaves),
              sigmas=_column(envelope, in_features).repeat(1, waves))

    def forward(self, coords: Tensor) -> Tensor:
        """Map coords to their features, cosines first."""
        with torch.autocast(coords.device.type, enabled=False):
            coords = exact(coords)
            turns, sharpness = 2 * math.pi * self.frequencies, self.sigmas.square().reciprocal()
            # both exponents are expanded into matrix products: no (n, in, waves) array of differences
            weight = torch.cat([self.centers * sharpness, -0.5 * sharpness])
            offset = -0.5 * (self.centers.square() * sharpness).sum(0)
            envelope = torch.exp((torch.cat([coords, coords.square()], -1) @ weight + offset).clamp_min(FAINT))
            return _waves(coords, turns, (self.centers * turns).sum(0)) * torch.cat([envelope, envelope], -1)


def draw_frequencies(in_features: int, waves: int, scale: Scale, octaves: float = 0.0) -> Tensor:
    """Return normal frequencies (in, waves) of standard deviation `scale`, spread evenly over `octaves` below it."""
    drawn = torch.randn(in_features, waves)
    if drawn.is_meta:                       # arithmetic without values takes torch a second to get ready for
        return drawn
    return drawn * _column(scale, in_features) * torch.linspace(0.0, -octaves, waves).exp2()


def default_scale(waves: int) -> float:
    """Return the image study's scale of the frequencies, 0.5·waves/√2π on [0, 1], for [-1, 1]."""
    return 0.25 * waves / math.sqrt(2 * math.pi)


def default_envelope(in_features: int) -> float:
    """Return the width of the Gabor envelopes in the image study's code, 0.1·√(256/in) on [0, 1], for [-1, 1].

    That is wide: an image's atoms reach all over it. The study's text has 0.1·√(waves/256), which costs much quality.
    """
    return 0.2 * math.sqrt(256 / in_features)


def exact(coords: Tensor) -> Tensor:
    """Return coordinates in at least float32: rounding them would blur the signal."""
    return coords.float() if coords.dtype in (torch.float16, torch.bfloat16) else coords


def _waves(coords: Tensor, turns: Tensor, shift: Tensor | float = 0.0) -> Tensor:
    """Return cos and sin of coords·turns - shift by one sine over both, as cos a = sin(a + π/2)."""
    shift = turns.new_zeros(turns.shape[1]) + shift
    bias = torch.cat([0.5 * math.pi - shift, -shift])
    return torch.sin(nn.functional.linear(coords, torch.cat([turns, turns], 1).T, bias))


def _column(value: Scale, in_features: int) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float32).reshape(-1, 1).expand(in_features, 1)


def _hold(module: nn.Module, trainable: bool, **values: Tensor) -> None:
    for name, value in values.items():
        if trainable:
            setattr(module, name, nn.Parameter(value))
        else:
            module.register_buffer(name, value)
