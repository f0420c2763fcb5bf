"""Which measurements a step of a fit sees."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .device import precision_type, rows_at_once
from .errors import InrError
from .signal import Signal

if TYPE_CHECKING:
    from .fit import FitConfig

CELL = 8                            # measurements next to each other that share a record of their error; more where
CELLS = 1 << 22                     # there would be more records than this
MORE = 4                            # candidates for each measurement that is drawn by its error
POWER = 0.75                        # of the squared error, which the odds of being drawn go by


class Sampler:
    """Draws each step's measurement indices; a function of seed, step and `errors`, so a resumed fit draws the same.

    By error, each step has MORE times the candidates it takes, every measurement being one once an epoch, and draws
    among them by the error that was last seen near to them.
    """

    def __init__(self, signal: Signal, config: "FitConfig", device: torch.device):
        self.signal, self.device, self.seed = signal, device, config.seed
        n = len(signal)
        self.batch = min(config.batch, n) if config.batch else n
        focused = signal.focus is not None and len(signal.focus) > 0
        self.focus = round(self.batch * config.focus) if focused else 0
        self.micro = max(1, rows_at_once(device) // signal.points)
        self.half = precision_type(config.precision, device) is not None        # rows take half the memory
        plain = self.batch - self.focus
        self.by_error = config.sampling == "error" and plain < n
        self.candidates = self.pool(plain, n)
        self.per_epoch = max(1, n // max(1, self.candidates))
        self.permuted = config.sampling != "uniform" and n <= 1 << 27
        self.cell = max(CELL, -(-n // CELLS))
        self.errors = torch.ones(-(-n // self.cell), device=device) if self.by_error else None      # mean squares
        self.drawn: list[Tensor] = []           # in this step, where errors are asked for
        self.epoch, self.order = -1, None
        self.generator = torch.Generator(device)

    def reseed(self, step: int) -> torch.Generator:
        """Return the generator as it starts a step."""
        self.drawn = []
        return self.generator.manual_seed(self.seed * 1_000_003 + step)

    def draw(self, step: int) -> Tensor:
        """Return the measurement indices of a step, on the signal's device."""
        n, plain, candidates = len(self.signal), self.batch - self.focus, self.candidates
        self.reseed(step)
        if not self.permuted:
            index = self._random(n, candidates)
        elif plain == n:                        # all of them in any order are all of them
            index = self._everything()
        else:
            epoch, part = divmod(step, self.per_epoch)
            if epoch != self.epoch:
                shuffle = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + epoch + (1 << 40))
                self.order = torch.randperm(n, generator=shuffle, device=self.device)
                self.epoch = epoch
            index = self.order[part * candidates:(part + 1) * candidates]
        if self.by_error:
            index = self.worst(index, plain)
        if self.focus:
            index = torch.cat([index, self.signal.focus[self._random(len(self.signal.focus), self.focus)]])
        return self.taken(index)

    def pool(self, count: int, of: int) -> int:
        """Return how many candidates there are for `count` measurements out of `of`."""
        return min(of, count * MORE) if self.by_error else count

    def worst(self, index: Tensor, count: int) -> Tensor:
        """Return `count` of candidates (..., n), drawn by their errors without replacement: the first of a race, whose
        times are exponential, the larger an error the shorter on average (Efraimidis and Spirakis, 2006)."""
        chance = torch.rand(index.shape, generator=self.generator, device=self.device).clamp_min_(1e-9)
        times = chance.log_() / self.errors[index // self.cell].clamp_min(1e-9).pow(POWER)      # below zero
        return index.gather(-1, times.topk(count, sorted=False).indices)

    def taken(self, index: Tensor) -> Tensor:
        """Remember that a step sees these measurements next, so that their errors can be noted; returns them."""
        if self.by_error:
            self.drawn.append(index.flatten())
        return index

    def note(self, errors: Tensor) -> None:
        """Take the squared errors of what the step saw, in the order it was taken.

        Raises InrError where a field drew it without saying what.
        """
        if not self.drawn:
            raise InrError("--sampling error is not possible: the field draws its samples in its own way. Take "
                           "--sampling permuted.")
        # the mean with what was known of a cell
        self.errors.scatter_reduce_(0, torch.cat(self.drawn) // self.cell, errors, "mean")

    def _everything(self) -> Tensor:
        if self.order is None:
            self.order = torch.arange(len(self.signal), device=self.device)
        return self.order

    def _random(self, high: int, count: int) -> Tensor:
        return torch.randint(high, (count,), generator=self.generator, device=self.device)
