"""What watches over a fit: the last good state of a field, and when a loss says that it was lost."""

import math
import statistics
import warnings
from collections import deque

import torch
from torch import Tensor

from .errors import InrError
from .field import Field

CHECK_EVERY = 25                    # steps between looks at the loss


class Diverged(InrError):
    """The loss became NaN or exploded; the field has been put back to its last good state."""


class Guard:
    """Keeps the last good state of a field and notices divergence: at once, or by a loss that does not come back.

    A state is good when the loss seen after it is: the one it was reached with is that of the state before. A network
    of sines that lost its footing returns to a constant: a harmless-looking loss, many times what it had been.
    On a GPU a loss is judged at the look after the one it was taken at, when it has long arrived: no look waits.
    """

    LOOKS = 20                          # that a loss must stay high for: single batches are noisy
    FEW = 5                             # looks whose median is a level that was reached
    HIGH, LOST = 2.0, 10.0              # times the lowest level: worth a warning; diverged

    def __init__(self, field: Field):
        self.field, self.best, self.step, self.latest = field, math.inf, 0, 0
        self.state = self.candidate = self._copy()
        self.recent: deque[float] = deque(maxlen=self.LOOKS)
        self.lowest, self.lowest_state, self.lowest_step = math.inf, self.state, 0
        self.warned = False
        self.waiting: tuple[_Arriving, dict[str, Tensor], int] | None = None

    def _copy(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.field.state_dict().items()}

    def check(self, loss: Tensor, step: int, now: bool = False) -> None:
        """Look at the loss that `step` was taken with; on a GPU it is judged at the next look, unless `now`."""
        self.settle()
        self.waiting = _Arriving(loss), self._copy(), step
        if now or not self.waiting[0].late:
            self.settle()

    def settle(self) -> None:
        """Judge the loss that was looked at last, if that is still to be done."""
        if self.waiting is not None:
            (loss, state, step), self.waiting = self.waiting, None
            self._judge(loss.value(), state, step)

    def _judge(self, value: float, state: dict[str, Tensor], step: int) -> None:
        if not math.isfinite(value) or value > 1e3 * max(self.best, 1e-3):
            what = "is not a number" if not math.isfinite(value) else f"rose to {value:.3g}"
            self._give_up(what, step, self.state, self.step)
        self.best = min(self.best, value)
        self.state, self.step = self.candidate, self.latest
        self.candidate, self.latest = state, step
        self.recent.append(value)
        level = statistics.median(list(self.recent)[-self.FEW:])
        if len(self.recent) >= self.FEW and level < self.lowest:
            self.lowest, self.lowest_state, self.lowest_step = level, self.state, self.step
        above = min(self.recent) / max(self.lowest, 1e-12) if len(self.recent) == self.LOOKS else 0.0
        if above > self.LOST:
            self._give_up(f"rose from {self.lowest:.3g} to {level:.3g} and stayed there, seen", step,
                          self.lowest_state, self.lowest_step)
        if above > self.HIGH and not self.warned:
            self.warned = True
            warnings.warn(f"The loss has stayed at over {self.HIGH:g} times what it was at step {self.lowest_step}: "
                          f"a lower --lr would reach further.", stacklevel=4)

    def _give_up(self, what: str, step: int, state: dict[str, Tensor], kept: int) -> None:
        """Put a state back and say so."""
        self.field.load_state_dict(state)
        raise Diverged(f"The fit diverged: the loss {what} at step {step}. Step {kept} was kept. "
                       f"Lower --lr, or add --clip 1 or --warmup 500.")


class _Arriving:
    """A number on its way from a device; those of a GPU come without anyone waiting, unless they are asked for."""

    def __init__(self, number: Tensor):
        self.late = number.device.type == "cuda"
        self.number = number
        if self.late:
            self.number = torch.empty((), dtype=number.dtype, pin_memory=True).copy_(number, non_blocking=True)
            self.there = torch.cuda.Event()
            self.there.record(torch.cuda.current_stream(number.device))

    def value(self) -> float:
        if self.late:
            self.there.synchronize()
        return self.number.item()
