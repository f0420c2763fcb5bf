"""Signals: indexable sets of (coordinates, values) with a Spec, and how a field is measured against them."""

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from .device import wide
from .errors import InrError
from .metrics import peak_of, psnr
from .spec import Axis, Spec


@dataclass(frozen=True)
class NoOptions:
    """A signal or exporter without options."""


class Signal:
    """What is observed of a Spec: `len(signal)` measurements, all held on one device.

    A subclass gives `kind`, `suffixes`, `Options` (a frozen dataclass of load options, shown as flags), `load`,
    `__len__`, `sample` and `metrics`. An inverse problem is a Signal with another `predict`.
    """

    kind: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]] = ()
    Options: ClassVar[type] = NoOptions
    main_metric: ClassVar[str] = "psnr"
    one_size: ClassVar[str] = ""        # the options that bring signals of this kind to one size, for a message

    spec: Spec
    focus: Tensor | None = None         # indices that deserve more of each batch (near a surface, in the foreground)
    points: int = 1                     # field evaluations one measurement takes
    name: str = "signal"                # the file's stem: names the run folder

    @classmethod
    def load(cls, path: Path, *, like: Spec | None = None, **options) -> Self:
        """Read a file. like: take its frame and value map, so that the result is comparable with an archive."""
        raise InrError(f"Signals of kind {cls.kind!r} cannot be loaded from files.")

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Say whether `path` looks like this kind; the default goes by the suffix."""
        return path.suffix.lower() in cls.suffixes

    def __len__(self) -> int:
        """Number of measurements."""
        return self.spec.size

    def sample(self, index: Tensor, generator: torch.Generator | None = None) -> tuple[Any, Tensor]:
        """Return the query (for a plain signal coords (n, in)) and the values (n, out) of measurements `index`."""
        raise NotImplementedError(f"{type(self).__name__} must implement sample")

    def predict(self, field, query) -> Tensor:
        """Measure the field: what it says the measurements should be."""
        return field(query)

    def loss(self, predicted: Tensor, values: Tensor) -> Tensor:
        """Return the data term, a scalar; the default is the mean squared error in the network's range."""
        return torch.nn.functional.mse_loss(predicted.float(), values)

    def metrics(self, field) -> dict[str, float]:
        """Measure the field over the whole signal."""
        raise NotImplementedError(f"{type(self).__name__} must implement metrics")

    def pictures(self, field) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (truth, reconstruction) pairs of pictures (h, w, c) in [0, 1] for a contact sheet."""
        return []

    @torch.no_grad()
    def probe(self, field, samples: int = 1 << 16) -> dict[str, float]:
        """Estimate the main metric from at most `samples` measurements, the same at every call."""
        generator = torch.Generator().manual_seed(0)
        if samples < len(self):
            index = torch.randint(len(self), (samples,), generator=generator)
        else:
            index = torch.arange(len(self))
        total = 0.0
        for part in index.to(self.device).split(1 << 14):
            query, values = self.sample(part)
            total += wide(self.predict(field, query).float() - values).square().sum().item()
        mse = total / (len(index) * self.spec.out_features) * self.spec.values.scale**2
        return {"psnr": psnr(mse, self.peak)}

    def adapt(self, recipe, field: type, preset: str):
        """Return what the field class suggested (a Recipe), changed where this signal knows better."""
        return recipe

    def suited(self, spec: Spec) -> "Signal":
        """Return this signal with the channels of `spec` where nothing is lost by it, else itself."""
        return self

    @property
    def peak(self) -> float:
        """The value a PSNR takes as full scale, in stored units."""
        return peak_of(self.spec.values)

    @property
    def device(self) -> torch.device:
        """Where the measurements live."""
        return torch.device("cpu")

    def to(self, device) -> Self:
        """Move all measurements to a device; returns self."""
        return self


class GridSignal(Signal):
    """A signal sampled on regular axes, its raw values kept compact (8-bit stays 8-bit) until a batch is drawn.

    data: (n, out) raw values, row-major over the axes; stored value = raw · gain.
    """

    def __init__(self, spec: Spec, data: Tensor, gain: float = 1.0, name: str = "signal"):
        if data.shape != (spec.size, spec.out_features):
            raise ValueError(f"data has shape {tuple(data.shape)}, the spec says {(spec.size, spec.out_features)}")
        self.spec, self.data, self.gain, self.name = spec, data, gain, name
        self._tables: list[Tensor] | None = None

    @property
    def device(self) -> torch.device:
        """Where the raw values live."""
        return self.data.device

    def to(self, device) -> Self:
        """Move the raw values."""
        self.data = self.data.to(device)
        self.focus = None if self.focus is None else self.focus.to(device)
        self._tables = None
        return self

    def regrid(self, grid: str) -> Self:
        """Put the samples at cell "centers" or on a grid including both "ends" of [-1, 1]; returns self."""
        self.spec, self._tables = self.spec.regrid(grid), None
        return self

    def coords(self, index: Tensor) -> Tensor:
        """Return coordinates (n, in), equal bit for bit to `spec.coords` but looked up per axis."""
        if self._tables is None:
            self._tables = [axis.at(torch.arange(axis.first, axis.stop)).to(self.device) for axis in self.spec.axes]
        columns = []
        for table in self._tables[:0:-1]:
            above = torch.div(index, len(table), rounding_mode="floor")
            columns.append(table.index_select(0, index - above * len(table)))
            index = above
        columns.append(self._tables[0].index_select(0, index))
        return torch.stack(columns[::-1], -1)

    def stored(self, index) -> Tensor:
        """Return stored values (n, out) in float32 at flat indices or a slice."""
        values = (self.data[index] if isinstance(index, slice) else self.data.index_select(0, index)).float()
        return values if self.gain == 1.0 else values * self.gain

    def sample(self, index: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return coords (n, in) and values (n, out) in the network's range."""
        return self.coords(index), self.spec.values.to_net(self.stored(index))

    def array(self) -> Tensor:
        """Return all stored values, (*shape, out) float32."""
        return self.stored(slice(None)).reshape(*self.spec.shape, -1)

    def metrics(self, field) -> dict[str, float]:
        """PSNR over every sample."""
        return self.probe(field, samples=len(self))

    def part(self, spec: Spec, where: tuple[slice, ...]) -> Self:
        """Return the samples at slices of the axes, as a signal of this kind on `spec`, which gives their places."""
        data = self.data.reshape(*self.spec.shape, -1)[where].reshape(-1, self.spec.out_features)
        found = copy.copy(self)
        GridSignal.__init__(found, spec, data.contiguous(), self.gain, self.name)
        return found

    def thinned(self, most: int) -> Self:
        """Return this signal where it has at most so many samples, else every so many-th of it along each axis."""
        every = math.ceil((len(self) / most) ** (1 / len(self.spec.axes)))
        if every <= 1:
            return self
        axes = tuple(Axis(axis.start + axis.first * axis.step, axis.step * every, -(-axis.count // every))
                     for axis in self.spec.axes)
        return self.part(self.spec.replace(axes=axes), (slice(None, None, every),) * len(axes))

    def beside(self, like: Spec, path) -> Self:
        """Return the signal on an archive's spec: the whole of it, or the part that the archive was cropped to."""
        where = like.part_of(self.spec)
        if where is None:
            raise InrError(f"{path} has {' × '.join(map(str, self.spec.shape))} samples of {self.spec.out_features} "
                           f"channels; the archive holds {' × '.join(map(str, like.shape))} of {like.out_features}.")
        return self.part(like, where)
