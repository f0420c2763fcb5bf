"""Held-out signals: what a generalizable field is worth on what it has not seen."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .device import rows_at_once, wide
from .errors import InrError
from .generalizable import GeneralizableField, SupportViews
from .metrics import psnr
from .signal import Signal
from .windows import encode


class Validation:
    """Held-out signals: what a model is worth. Stands where `fit` has a signal.

    views: how many of each light field are encoded, evenly spread, or which · asked: those that are asked for; none:
    all others. Raises InrError for a light field of one view.
    """

    kind, main_metric = "set", "psnr"

    def __init__(self, signals: Sequence[Signal], views: int | Sequence[int] = 3, shown: int = 4,
                 asked: Sequence[int] | None = None):
        self.signals, self.views, self.shown, self.asked = signals, views, shown, asked
        first = signals[0] if len(signals) else None
        if first is not None and first.spec.cameras is not None and len(first.spec.cameras) < 2:
            raise InrError(f"{first.name} has one view, but what is held out is encoded from some views and asked for "
                           f"the others. Add views, or hold nothing out: --validation 0.")

    def __len__(self) -> int:
        return len(self.signals)

    def metrics(self, model: GeneralizableField) -> dict[str, float]:
        """Mean over the held-out signals of each one's PSNR; of light fields over the views not encoded."""
        if not len(self.signals):
            return {}
        scores = [self._score(model, signal) for signal in self.signals]
        return {"psnr": sum(scores) / len(scores)}

    def pictures(self, model: GeneralizableField) -> list[tuple[np.ndarray, np.ndarray]]:
        """Pairs of truth and reconstruction, (h, w, c) in [0, 1], of the first held-out images and views."""
        pairs = []
        for signal in list(self.signals)[:self.shown]:
            seen, asked = self._parts(signal)
            if signal.spec.cameras is not None:
                asked, shape = SupportViews(asked, [0]), signal.spec.cameras.size[0].tolist()
            elif len(signal.spec.shape) == 2:
                shape = signal.spec.shape
            else:
                continue
            guess, values = predict(model, seen, asked)
            both = [asked.spec.values.to_stored(v).clamp(0, 1).reshape(*shape, -1).numpy() for v in (values, guess)]
            pairs.append(tuple(both))
        return pairs

    def _score(self, model, signal) -> float:
        seen, asked = self._parts(signal)
        guess, values = predict(model, seen, asked)
        error = wide(guess - values).square().mean().item() * signal.spec.values.scale**2
        return psnr(error, signal.peak)

    def _parts(self, signal) -> tuple[Signal, Signal]:
        """Return what is encoded and what is asked: the same grid, or some views and other ones."""
        if signal.spec.cameras is None:
            return signal, signal
        count = len(signal.spec.cameras)
        seen = spread(count, min(self.views, count - 1)) if isinstance(self.views, int) else self.views
        others = [v for v in range(count) if v not in seen]
        return SupportViews(signal, seen), SupportViews(signal, others if self.asked is None else self.asked)


@torch.no_grad()
def predict(model: GeneralizableField, seen: Signal, asked: Signal) -> tuple[Tensor, Tensor]:
    """Encode one signal and decode another's coordinates; return (predicted, true) values (n, out), network's range."""
    field = encode(model, seen)
    guesses, truths = [], []
    for part in torch.arange(len(asked)).split(rows_at_once(model.device)):
        coords, values = asked.sample(part)
        guesses.append(field(coords.to(model.device)).float().cpu())
        truths.append(values)
    return torch.cat(guesses), torch.cat(truths)


def spread(count: int, chosen: int) -> list[int]:
    """Return `chosen` of `count` numbers, evenly spread, the first among them."""
    return sorted({i * count // chosen for i in range(chosen)})
