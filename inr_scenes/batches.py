"""What a training on many signals sees in each of its steps, a pure function of the seed and the step."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .augment import Parts
from .dataset import Subset
from .errors import InrError
from .generalizable import SupportViews
from .signal import Signal

if TYPE_CHECKING:
    from .train import TrainConfig


@dataclass
class Batch:
    """What one step sees: signals to encode, coordinates and true values to decode against."""

    signals: list[Signal]
    numbers: Tensor
    coords: Tensor              # (1, n, in) shared by all signals of a grid, or (B, n, in)
    values: Tensor              # (B, n, out)


class Drawer:
    """Draws each step's batches; a pure function of seed and step. A process draws its own share of the signals."""

    def __init__(self, dataset: Subset, config: "TrainConfig", device: torch.device, rank: int = 0, world: int = 1):
        self.dataset, self.config, self.device, self.rank, self.world = dataset, config, device, rank, world
        self.batch = min(config.batch, len(dataset))
        self.parts = Parts(dataset.spec, config.crop, config.zoom, config.augment)
        if self.batch % (world * config.accumulate):
            raise InrError(f"--batch {self.batch} must be a multiple of processes × --accumulate "
                           f"({world} × {config.accumulate}), so that all signals weigh alike.")

    def __call__(self, step: int) -> list[Batch]:
        """Return the batches of a step, one for each part that is accumulated."""
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + step)
        numbers = self._numbers(step)
        views = int(torch.randint(self.config.views[0], self.config.views[1] + 1, (1,), generator=generator))
        shared = int(torch.randint(1 << 62, (1,), generator=generator))
        parts = numbers.split(self.batch // self.config.accumulate)
        return [self._batch(part[self.rank::self.world], views, shared) for part in parts]

    def _numbers(self, step: int) -> Tensor:
        """Every signal once an epoch, in an order that the seed and the epoch decide."""
        per_epoch = len(self.dataset) // self.batch
        epoch, part = divmod(step, per_epoch)
        shuffle = torch.Generator().manual_seed(self.config.seed * 1_000_003 + epoch + (1 << 40))
        order = torch.randperm(len(self.dataset), generator=shuffle)
        return order[part * self.batch:(part + 1) * self.batch]

    def _batch(self, numbers: Tensor, views: int, seed: int) -> Batch:
        signals = [self.parts(self.dataset[int(n)], (seed + int(n)) % (1 << 62)) for n in numbers]
        pin = self.device.type == "cuda"
        if signals[0].spec.cameras is None:
            generator = torch.Generator().manual_seed(seed)
            index = self._points(len(signals[0]), generator)
            pairs = [signal.sample(index) for signal in signals]
            coords = pairs[0][0][None]
            if any(signal.spec.axes != signals[0].spec.axes for signal in signals):
                coords = torch.stack([c for c, _ in pairs])
            seen = signals
        else:
            seen, pairs = [], []
            for number, signal in zip(numbers.tolist(), signals):
                generator = torch.Generator().manual_seed((seed + number) % (1 << 62))
                order = torch.randperm(len(signal.spec.cameras), generator=generator)
                seen.append(SupportViews(signal, order[:views].tolist()))
                pairs.append(signal.sample(self._points(len(signal), generator)))
            coords = torch.stack([c for c, _ in pairs])
        values = torch.stack([v for _, v in pairs])
        if pin:
            coords, values = coords.pin_memory(), values.pin_memory()
        move = {"device": self.device, "non_blocking": True}
        return Batch(seen, numbers, coords.to(**move), values.to(**move))

    def _points(self, size: int, generator: torch.Generator) -> Tensor:
        points = self.config.points
        count = max(1, round(points * size)) if 0 < points < 1 else int(points)
        if not 0 < count < size:
            return torch.arange(size)
        return torch.randint(size, (count,), generator=generator)
