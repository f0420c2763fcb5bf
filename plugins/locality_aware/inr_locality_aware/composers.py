"""The networks that locality-aware decoders are compared with: weights composed of a signal's tokens.

Settings and normalisation follow the published code of instance pattern composers (Kim et al., CVPR 2023) and
TransINR (Chen and Wang, ECCV 2022): ReLU layers on log-spaced Fourier features, every weight column of unit norm.
"""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from inr_scenes.generalizable import Decoder, Latents

from .decoder import PatternLayer
from .features import LogFourier


class UnitLinear(nn.Module):
    """A linear layer whose weight columns are normalised over the inputs. (..., in) → (..., out)."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_features, out_features))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the normalised map."""
        return functional.linear(x, functional.normalize(self.weight, dim=0).T, self.bias)


class PatternDecoder(Decoder):
    """IPC: a network of which the second layer alone belongs to the signal."""

    def __init__(self, config, in_features: int, out_features: int):
        super().__init__()
        hidden = config.hidden_features
        self.encoding = LogFourier(in_features, config.frequency_features, config.bandwidth)
        self.first = UnitLinear(self.encoding.out_features, hidden)
        self.pattern = PatternLayer(hidden, hidden, config.tokens)
        self.layers = nn.ModuleList(UnitLinear(hidden, hidden) for _ in range(config.layers - 3))
        self.output = UnitLinear(hidden, out_features)

    def prepare(self, latents: Latents) -> Latents:
        """Compose the second layer's weight."""
        return self.pattern.weights(latents["tokens"])

    def forward(self, coords: Tensor, context: Latents) -> Tensor:
        """Map coords (B or 1, n, in) to values (B, n, out)."""
        x = self.pattern(torch.relu(self.first(self.encoding(coords))), context)
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.output(x).float()


class WeightDecoder(Decoder):
    """TransINR: in every layer, groups of weight columns are multiplied by a token of the signal, then normalised."""

    def __init__(self, config, in_features: int, out_features: int):
        super().__init__()
        self.encoding = LogFourier(in_features, config.frequency_features, config.bandwidth)
        self.layers = nn.ModuleList(UnitLinear(a, b) for a, b, _ in
                                    layer_sizes(config, self.encoding.out_features, out_features))

    def prepare(self, latents: Latents) -> Latents:
        """Modulate and normalise every layer's weight."""
        context = {}
        for i, layer in enumerate(self.layers):
            tokens = latents[f"layer{i}"].transpose(1, 2)
            repeats = -(-layer.weight.shape[1] // tokens.shape[-1])
            modulation = tokens.repeat_interleave(repeats, -1)[..., :layer.weight.shape[1]]
            context[f"weight{i}"] = functional.normalize(layer.weight * modulation, dim=1)
        return context

    def forward(self, coords: Tensor, context: Latents) -> Tensor:
        """Map coords (B or 1, n, in) to values (B, n, out)."""
        x = self.encoding(coords)
        for i, layer in enumerate(self.layers):
            weight = context[f"weight{i}"]
            x = (torch.relu(x) if i else x) @ weight.to(x.dtype) + layer.bias.to(x.dtype)
        return x.float()


def layer_sizes(config, features: int, out_features: int) -> list[tuple[int, int, int]]:
    """Return (inputs, outputs, tokens) of each layer of a TransINR network."""
    widths = [features, *[config.hidden_features] * (config.layers - 1), out_features]
    return [(a, b, min(config.groups, b)) for a, b in itertools.pairwise(widths)]
