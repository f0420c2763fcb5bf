"""Signals of any size through a model of one size: overlapping windows, each with latents of its own, blended."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .device import rows_at_once
from .errors import InrError
from .generalizable import BoundField, Decoder, GeneralizableField, Latents, chosen
from .signal import GridSignal, Signal
from .spec import Axis, Box, Spec

OVERLAP = 0.25                      # of a window's size along each axis, at least
AT_ONCE = 64                        # windows encoded together
HELD = 1024                         # windows whose keys and values are kept; of more, those that were asked last
PAIRS = 1 << 22                     # points × windows that are compared at once


@dataclass(frozen=True)
class Windows:
    """Where windows of one size lie in a signal: `corners` are their first samples, by the signal's original indices.

    A window may reach beyond the signal's end. Along each axis its weight rises over `ramp` samples from its border,
    and its own coordinates begin at `start` and go on by `step`: those of the model's training signals.
    """

    size: tuple[int, ...]
    corners: tuple[tuple[int, ...], ...]
    ramp: tuple[int, ...]
    start: tuple[float, ...]
    step: tuple[float, ...]

    @classmethod
    def over(cls, spec: Spec, like: Spec, overlap: float = OVERLAP) -> "Windows":
        """Return evenly spaced windows that cover all samples of `spec`, neighbours sharing at least `overlap`.

        like: what a window is, to the model: its size and its coordinates.
        """
        size = like.shape
        if not 0 <= overlap <= 0.75:
            raise InrError(f"Windows cannot share {overlap:g} of their size: 0 to 0.75.")
        ramp = tuple(max(1, round(n * overlap)) if n < axis.count else 1 for axis, n in zip(spec.axes, size))
        starts = []
        for axis, n in zip(spec.axes, size):
            shared = min(round(n * overlap), n - 1)         # each window says something new, be it one sample wide
            count = max(1, math.ceil((axis.count - shared) / (n - shared)))
            room = max(0, axis.count - n)
            starts.append([axis.first + round(i * room / max(1, count - 1)) for i in range(count)])
        first = tuple(axis.start + axis.first * axis.step for axis in like.axes)
        return cls(size, tuple(itertools.product(*starts)), ramp, first, tuple(axis.step for axis in like.axes))

    @classmethod
    def from_json(cls, data: Mapping[str, Any], spec: Spec) -> "Windows":
        """Rebuild windows; raises KeyError, TypeError or ValueError when `data` are none of this spec."""
        size, ramp = (tuple(int(n) for n in data[name]) for name in ("size", "ramp"))
        corners = tuple(tuple(int(n) for n in corner) for corner in data["corners"])
        start, step = (tuple(float(n) for n in data[name]) for name in ("start", "step"))
        if not corners or {len(part) for part in (*corners, size, ramp, start, step)} != {len(spec.axes)} or \
                min(*size, *ramp) < 1 or not all(map(math.isfinite, start)) or not min(step) > 0:
            raise ValueError("its windows are none of this signal")
        return cls(size, corners, ramp, start, step)

    def __len__(self) -> int:
        return len(self.corners)

    def alone(self, spec: Spec) -> Spec:
        """Return the spec of any one window as a signal of its own."""
        return spec.replace(axes=tuple(Axis(*along) for along in zip(self.start, self.step, self.size)))

    def cut(self, signal: GridSignal) -> list[GridSignal]:
        """Return the samples of each window as signals of their own; beyond the signal's end its last ones repeat."""
        values = signal.data.reshape(*signal.spec.shape, -1)
        spec = self.alone(signal.spec)
        found = []
        for corner in self.corners:
            part = values
            for dim, (axis, low, n) in enumerate(zip(signal.spec.axes, corner, self.size)):
                index = torch.arange(low - axis.first, low - axis.first + n, device=values.device)
                part = part.index_select(dim, index.clamp(0, axis.count - 1))
            found.append(GridSignal(spec, part.reshape(-1, spec.out_features), signal.gain, signal.name))
        return found

    def covering(self, spec: Spec, coords: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return which windows say something about which of coords (n, d), as pairs ordered by window.

        (point (m,), window (m,), local coordinates (m, d), weight (m,), which sums to 1 over a point's windows.) What
        lies outside the signal belongs to the windows of the nearest sample.
        """
        index = torch.stack([axis.index(coords[:, i]) for i, axis in enumerate(spec.axes)], -1)
        held = torch.stack([index[:, i].detach().clamp(axis.first - 0.5, axis.stop - 0.5)
                            for i, axis in enumerate(spec.axes)], -1)
        corners = torch.tensor(self.corners, dtype=index.dtype, device=coords.device)
        size, ramp = (torch.tensor(n, dtype=index.dtype, device=coords.device) for n in (self.size, self.ramp))
        point, window = _inside(held, corners, size)
        inner = index[point] - corners[window]
        border = torch.minimum(inner + 0.5, size - 0.5 - inner)
        weight = (border / ramp).clamp(1e-6, 1).prod(-1)
        total = torch.zeros(len(coords), dtype=weight.dtype, device=coords.device).index_add(0, point, weight)
        start, step = (torch.tensor(n, dtype=inner.dtype, device=inner.device) for n in (self.start, self.step))
        local = start + inner * step
        return point, window, local.float(), (weight / total[point]).float()


def _inside(points: Tensor, corners: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Return which points (n, d) lie in which windows, as pairs (point, window) ordered by window."""
    near = ((points.amax(0) >= corners - 0.5) & (points.amin(0) <= corners + size - 0.5)).all(-1).nonzero()[:, 0]
    found, low = [], 0
    for part in points.split(max(1, PAIRS // max(1, len(near)))):
        offset = part[:, None] - corners[near] + 0.5                        # (part, near, d)
        point, window = ((offset >= 0) & (offset <= size)).all(-1).nonzero(as_tuple=True)
        found.append(torch.stack([point + low, near[window]]))
        low += len(part)
    point, window = torch.cat(found, 1)
    order = window.argsort(stable=True)
    return point[order], window[order]


def window_spec(spec: Spec, size: Sequence[int]) -> Spec:
    """Return the spec of a part of a signal that stands for itself: its own coordinates, from -1 to 1."""
    return spec.replace(axes=tuple(Axis.regular(n, spec.grid) for n in size))


class WindowedField(BoundField):
    """A signal of any size as the latents of its windows: pointwise, continuous across their borders."""

    def __init__(self, model: type[GeneralizableField], windows: Windows, config, spec: Spec):
        super().__init__(model, config, spec, (len(windows),))
        self.windows = windows

    def facts(self) -> dict[str, Any]:
        """Return what an archive's header says besides config and spec."""
        return {**super().facts(), "windows": dataclasses.asdict(self.windows)}

    def forward(self, coords: Tensor) -> Tensor:
        """Map coords (..., in) to values (..., out)."""
        flat = coords.reshape(-1, coords.shape[-1])
        if not len(flat):
            return coords.new_zeros(*coords.shape[:-1], self.spec.out_features)
        point, window, local, weight = self.windows.covering(self.spec, flat)
        values = flat.new_zeros(len(flat), self.spec.out_features)
        if len(point):
            values = values.index_add(0, point, weight[:, None] * self._windows(window, local))
        return values.reshape(*coords.shape[:-1], self.spec.out_features)

    def _windows(self, window: Tensor, local: Tensor) -> Tensor:
        """Return what each pair's window says at its local coordinates; windows of a group are padded to one size."""
        found, counts = torch.unique_consecutive(window, return_counts=True)
        context, places = self._contexts(found)
        ends = counts.cumsum(0)
        most = int(counts.max())
        slots = torch.arange(most, device=window.device)
        parts = []
        for group in torch.arange(len(found), device=window.device).split(max(1, rows_at_once(self.device) // most)):
            real = slots < counts[group, None]
            filled = (ends[group] - counts[group])[:, None] + slots.minimum(counts[group, None] - 1)
            own = {name: value[places[group]] for name, value in context.items()}
            parts.append(self.decoder(local[filled], own)[real])
        return torch.cat(parts)

    def _contexts(self, found: Tensor) -> tuple[Latents, Tensor]:
        """Return the decoder's context of some windows at least, and where in it those called `found` are."""
        if torch.is_grad_enabled():
            self._kept.clear()
            return self._prepared(found), torch.arange(len(found), device=found.device)
        state, precision = self.state()
        kept = self._kept.get(precision)
        if kept is None or kept[0] != state or not torch.isin(found, kept[2]).all():
            held = torch.arange(len(self.windows), device=found.device) if len(self.windows) <= HELD else found
            self._kept[precision] = kept = (state, self._prepared(held), held)      # held: the windows, in order
        return kept[1], torch.searchsorted(kept[2], found)

    def _prepared(self, windows: Tensor) -> Latents:
        context = self.decoder.prepare({name: value[windows] for name, value in self.latents.items()})
        return {name: value for name, value in context.items() if isinstance(value, Tensor)}

    def window(self, number: int) -> BoundField:
        """Return what one window says, in its own coordinates, as a field of its own."""
        with torch.random.fork_rng(devices=[]):
            field = BoundField(self.model, self.config, self.windows.alone(self.spec))
        return field.filled(self.decoder, {name: value[number] for name, value in self.latents.items()})

    def crop(self, box: Box | None = None, *, keep: Iterable[int] | None = None,
             drop: Iterable[int] | None = None) -> "WindowedField":
        """Return the field of the samples in `box`, without the windows that say nothing about them.

        Values inside the box stay as they are. keep, drop: the windows to keep, or to cut away, instead.
        """
        spec = self.spec if box is None else self.spec.cropped(box)
        if keep is not None or drop is not None:
            kept = chosen(len(self.windows), keep, drop, "windows")
        else:
            kept = [i for i, corner in enumerate(self.windows.corners)
                    if all(low < axis.stop and low + n > axis.first
                           for low, n, axis in zip(corner, self.windows.size, spec.axes))]
            if not kept:
                raise InrError("Nothing is kept of that box: the windows that said something about it were cut away.")
        windows = dataclasses.replace(self.windows, corners=tuple(self.windows.corners[i] for i in kept))
        return bind(self.model, windows, self.config, spec, self.decoder,
                    {name: value[kept] for name, value in self.latents.items()})


def bind(model: type[GeneralizableField], windows: Windows, config, spec: Spec, decoder: Decoder,
         latents: Latents) -> WindowedField:
    """Return latents (windows, …) as a field with a copy of the decoder they belong to."""
    with torch.random.fork_rng(devices=[]):
        field = WindowedField(model, windows, config, spec)
    return field.filled(decoder, latents)


@torch.no_grad()
def encode(model: GeneralizableField, signal: Signal, spec: Spec | None = None, windows: bool = True,
           overlap: float = OVERLAP) -> BoundField:
    """Return the field of a signal, encoded in one pass.

    spec: of the result, if it is another than the signal's (a light field is encoded from some of its views). windows:
    what has another size than the model's training signals is encoded in overlapping windows of that size; off: in one
    piece, which the encoder must be able to take. overlap: the share of a window that it has in common with the next.
    """
    model.check_signals([signal])
    spec = spec or signal.spec
    if signal.spec.cameras is not None or not windows or signal.spec.shape == model.spec.shape:
        return model.field(model.encode([signal]), spec)
    layout = Windows.over(signal.spec, model.spec, overlap)
    parts = layout.cut(signal)
    found = [model.encode(parts[i:i + AT_ONCE]) for i in range(0, len(parts), AT_ONCE)]
    latents = {name: torch.cat([part[name] for part in found]) for name in found[0]}
    return bind(type(model), layout, model.config, spec, model.decoder, latents)
