"""Log-spaced Fourier features, Eq. (2) of Lee et al. (NeurIPS 2023), and the linear map behind them, Eq. (3)."""

import math

import torch
from torch import Tensor, nn


class LogFourier(nn.Module):
    """[cos(π ω_j v_i), sin(π ω_j v_i)] with ω_j = σ^(j/(n-1)): frequencies log-uniform from 1 to σ, always in float32.

    n = features // (2 · in_features), rounded down where it does not divide (21 for rays and 256 features).
    (..., in) → (..., 2 · in · n), all cosines first, the frequencies of one coordinate next to each other.
    """

    def __init__(self, in_features: int, features: int, bandwidth: float):
        super().__init__()
        n = max(1, features // (2 * in_features))
        self.out_features = 2 * in_features * n
        exponents = [j / max(1, n - 1) for j in range(n)]
        self.register_buffer("turns", math.pi * torch.tensor([bandwidth**e for e in exponents]), persistent=False)

    def forward(self, coords: Tensor) -> Tensor:
        """Map coords to their features."""
        with torch.autocast(coords.device.type, enabled=False):
            angles = (coords.float()[..., None] * self.turns).flatten(-2)
            return torch.cat([torch.cos(angles), torch.sin(angles)], -1)


class FrequencyFeatures(nn.Module):
    """Eq. (3): h_F(v; σ, W, b) = ReLU(W γ_σ(v) + b). (..., in) → (..., hidden)."""

    def __init__(self, in_features: int, features: int, hidden: int, bandwidth: float):
        super().__init__()
        self.encoding = LogFourier(in_features, features, bandwidth)
        self.linear = nn.Linear(self.encoding.out_features, hidden)

    def forward(self, coords: Tensor) -> Tensor:
        """Map coords to frequency features."""
        return torch.relu(self.linear(self.encoding(coords)))
