"""Which measurements a step of a fit sees."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .device import precision_type, rows_at_once
from .signal import Signal

if TYPE_CHECKING:
    from .fit import FitConfig


class Sampler:
    """Draws each step's measurement indices; a pure function of seed and step, so a resumed fit draws the same."""

    def __init__(self, signal: Signal, config: "FitConfig", device: torch.device):
        self.signal, self.device, self.seed = signal, device, config.seed
        n = len(signal)
        self.batch = min(config.batch, n) if config.batch else n
        focused = signal.focus is not None and len(signal.focus) > 0
        self.focus = round(self.batch * config.focus) if focused else 0
        self.micro = max(1, rows_at_once(device) // signal.points)
        self.half = precision_type(config.precision, device) is not None        # rows take half the memory
        self.per_epoch = max(1, n // max(1, self.batch - self.focus))
        self.permuted = config.sampling == "permuted" and n <= 1 << 27
        self.epoch, self.order = -1, None
        self.generator = torch.Generator(device)

    def reseed(self, step: int) -> torch.Generator:
        """Return the generator as it starts a step."""
        return self.generator.manual_seed(self.seed * 1_000_003 + step)

    def draw(self, step: int) -> Tensor:
        """Return the measurement indices of a step, on the signal's device."""
        n, plain = len(self.signal), self.batch - self.focus
        self.reseed(step)
        if not self.permuted:
            index = self._random(n, plain)
        elif plain == n:                        # all of them in any order are all of them
            index = self._everything()
        else:
            epoch, part = divmod(step, self.per_epoch)
            if epoch != self.epoch:
                shuffle = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + epoch + (1 << 40))
                self.order = torch.randperm(n, generator=shuffle, device=self.device)
                self.epoch = epoch
            index = self.order[part * plain:(part + 1) * plain]
        if self.focus:
            index = torch.cat([index, self.signal.focus[self._random(len(self.signal.focus), self.focus)]])
        return index

    def _everything(self) -> Tensor:
        if self.order is None:
            self.order = torch.arange(len(self.signal), device=self.device)
        return self.order

    def _random(self, high: int, count: int) -> Tensor:
        return torch.randint(high, (count,), generator=self.generator, device=self.device)
