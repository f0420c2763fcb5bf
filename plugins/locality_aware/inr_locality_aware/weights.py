"""Networks whose weights are tensors handed in, one set a signal: what meta-learning and hypernetworks produce."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from inr_scenes.generalizable import Decoder, Latents


def weight_shapes(widths: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights (in, out) and biases of layers between `widths`."""
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        shapes |= {f"weight{i}": (a, b), f"bias{i}": (b,)}
    return shapes


def siren_weights(widths: Sequence[int], omega_0: float) -> dict[str, Tensor]:
    """Draw weights as SIREN starts: within 1/in in the first layer, √(6/in)/omega_0 after it."""
    drawn = {}
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        bound = 1 / a if i == 0 else math.sqrt(6 / a) / omega_0
        drawn[f"weight{i}"] = torch.empty(a, b).uniform_(-bound, bound)
        drawn[f"bias{i}"] = torch.empty(b).uniform_(-1 / math.sqrt(a), 1 / math.sqrt(a))
    return drawn


class WeightedNetwork(Decoder):
    """A network without weights of its own: the context brings them.

    activation: "sine" (SIREN, its omegas inside) or "norm-relu" (layer norm without parameters, then ReLU, as light
    field networks have it).
    """

    def __init__(self, layers: int, activation: str, omega_0: float = 30.0, first_omega_0: float = 30.0):
        super().__init__()
        self.layers, self.activation, self.omegas = layers, activation, (first_omega_0, omega_0)

    def forward(self, coords: Tensor, context: Latents) -> Tensor:
        """Map coords (B or 1, n, in) to values (B, n, out), in float32 for sines."""
        x = coords
        with torch.autocast(coords.device.type, enabled=False):
            for i in range(self.layers):
                x = x.float() @ context[f"weight{i}"].float() + context[f"bias{i}"].float()[:, None]
                if i == self.layers - 1:
                    break
                if self.activation == "sine":
                    x = torch.sin(self.omegas[min(i, 1)] * x)
                else:
                    x = torch.relu(functional.layer_norm(x, x.shape[-1:]))
        return x


class HyperDecoder(Decoder):
    """A hypernetwork, from a code (B, features) to all weights of a network, and that network.

    Each weight comes from its own two-layer network whose last layer starts small about a common start.
    """

    def __init__(self, network: WeightedNetwork, start: dict[str, Tensor], code_features: int, hyper_features: int):
        super().__init__()
        self.network = network
        self.shapes = {name: tuple(value.shape) for name, value in start.items()}
        self.makers = nn.ModuleDict()
        for name, value in start.items():
            last = nn.Linear(hyper_features, value.numel())
            nn.init.kaiming_normal_(last.weight, nonlinearity="relu")
            with torch.no_grad():
                last.weight.mul_(0.01)
                last.bias.copy_(value.flatten())
            self.makers[name] = nn.Sequential(nn.Linear(code_features, hyper_features), nn.ReLU(), last)

    def prepare(self, latents: Latents) -> Latents:
        """Make all weights of each signal, once."""
        code = latents["code"]
        return {name: maker(code).reshape(len(code), *self.shapes[name]) for name, maker in self.makers.items()}

    def forward(self, coords: Tensor, context: Latents) -> Tensor:
        """Map coords (B or 1, n, in) to values (B, n, out)."""
        return self.network(coords, context)
