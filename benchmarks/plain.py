"""What Local-Global fields are compared with: a network written the plain way, its loop, and a plain ReLU network."""

import math

import torch
from inr_local_global.siren import LgSiren
from torch import Tensor, nn
from torch.nn import functional

from inr_scenes.device import resolve_device
from inr_scenes.field import Field, build
from inr_scenes.fit import FitConfig, steps
from inr_scenes.metrics import psnr
from inr_scenes.signal import GridSignal
from inr_scenes.siren import Siren
from inr_scenes.spec import Spec


class Relu(Field):
    """The plain network SIREN was compared with: the same layers, with ReLU and torch's own initialisation."""

    name = "relu"
    Config = Siren.Config

    def __init__(self, config: Siren.Config, spec: Spec):
        super().__init__(config, spec)
        h = config.hidden_features
        hidden = [m for _ in range(config.hidden_layers) for m in (nn.Linear(h, h), nn.ReLU())]
        self.layers = nn.Sequential(nn.Linear(spec.in_features, h), nn.ReLU(), *hidden, nn.Linear(h, spec.out_features))

    def forward(self, coords: Tensor) -> Tensor:
        """Map coords to values."""
        return self.layers(coords)


class PlainLocalGlobal(nn.Module):
    """A Local-Global SIREN the plain way: bmm over all blocks, features side by side, everything at once in float32."""

    def __init__(self, blocks: int, d: int, o: int, h: int, g: int, layers: int = 3):
        super().__init__()
        def uniform(*shape, bound):
            return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))
        sizes = [d] + [h] * (layers + 1) + [o]
        self.weight = nn.ParameterList(uniform(blocks, n, m, bound=math.sqrt(6 / n) / 30 if i else 1 / n)
                                       for i, (n, m) in enumerate(zip(sizes, sizes[1:])))  # noqa: RUF007
        self.bias = nn.ParameterList(uniform(blocks, 1, m, bound=1 / math.sqrt(n)) for n, m in zip(sizes, sizes[1:]))  # noqa: RUF007
        self.shared = nn.ModuleList(nn.Linear(g if i else d, g) for i in range(layers + 1))
        self.merge = nn.Linear(h + g, h)
        for i, layer in enumerate([*self.shared, self.merge]):
            n = layer.in_features
            bound = math.sqrt(6 / n) / 30 if i else 1 / n
            nn.init.uniform_(layer.weight, -bound, bound)

    def forward(self, coords: Tensor) -> Tensor:
        """Map coords (blocks, rows, in) to values (blocks, rows, out)."""
        local = shared = coords
        for weight, bias, layer in zip(self.weight, self.bias, self.shared):
            shared = torch.sin(30 * layer(shared))
            local = torch.sin(30 * (torch.bmm(local, weight) + bias))
            local = torch.sin(30 * self.merge(torch.cat([local, shared], -1)))
        return torch.bmm(local, self.weight[-1]) + self.bias[-1]


class PlainSteps:
    """Training steps of the plain way: Adam at 5e-4, full batches, the loss read every step."""

    def __init__(self, signal: GridSignal, counts: tuple[int, int], h: int, g: int, device: str, seed: int = 0):
        self.signal, d = signal, len(signal.spec.axes)
        device = resolve_device(device)
        torch.manual_seed(seed)
        self.net = PlainLocalGlobal(math.prod(counts), d, signal.spec.out_features, h, g).to(device)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=5e-4)
        order = torch.arange(len(signal)).reshape(signal.spec.shape)
        rows, columns = (n // c for n, c in zip(signal.spec.shape, counts))
        order = order.unflatten(1, (counts[1], columns)).unflatten(0, (counts[0], rows)).movedim(2, 1)
        coords, values = signal.sample(order.flatten())
        blocks = math.prod(counts), rows * columns, -1
        self.coords, self.values = (t.reshape(blocks).to(device) for t in (coords, values))

    def step(self) -> float:
        """Take one step."""
        loss = functional.mse_loss(self.net(self.coords), self.values)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    @torch.no_grad()
    def psnr(self) -> float:
        """PSNR over the whole image, in [0, 1]."""
        return psnr(float((self.net(self.coords) - self.values).square().mean()) * self.signal.spec.values.scale**2)


class FieldSteps:
    """Training steps of lg-siren, one at a time."""

    def __init__(self, signal: GridSignal, config: dict, device: str, seed: int = 0, **settings):
        field = build(LgSiren, signal.spec, config, seed=seed)
        endless = FitConfig(steps=None, seconds=1e9, device=device, **settings)
        self.steps = steps(field, Unprobed(signal), endless)

    def step(self) -> None:
        """Take one step."""
        next(self.steps)


class Unprobed(GridSignal):
    """A signal that is never looked at during a fit, so that steps alone are timed."""

    def __init__(self, signal: GridSignal):
        super().__init__(signal.spec, signal.data, signal.gain, signal.name)

    def probe(self, field, samples: int = 0) -> dict[str, float]:
        """Look at nothing."""
        return {"psnr": 0.0}
