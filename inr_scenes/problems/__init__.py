"""Inverse problems: signals that were not observed themselves, only measured. One problem a file."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from ..device import wide
from ..errors import InrError
from ..field import Field, Recipe
from ..files import readable
from ..metrics import psnr
from ..settings import from_dict
from ..signal import NoOptions, Signal
from ..spec import Spec


class Problem(Signal):
    """An unknown signal and what was measured of it: a Signal whose `predict` measures the field.

    A subclass gives `name`, `Options`, `predict`, and either or both of
    simulate(signal, options): measurements of a clean signal, for study; the signal is kept as `truth`
    read(path, options): measurements from a file, for use
    which are called through `wrap` and `load`. `spec` is the domain of the unknown, `values` holds the measurements,
    one a row.
    """

    name: ClassVar[str]
    kinds: ClassVar[frozenset[str]] = frozenset({"image"})
    """Kinds of signal that can be simulated from; none: an equation, which needs no signal."""
    suffixes: ClassVar[tuple[str, ...]] = ()
    """Files that hold measurements."""
    Options: ClassVar[type] = NoOptions

    def __init__(self, spec: Spec, values: Tensor, truth: Signal | None = None):
        self.spec, self.values, self.truth = spec, values, truth

    @classmethod
    def wrap(cls, signal: Signal | None = None, **options) -> Self:
        """Simulate the measurements of a clean signal. Equations take none."""
        if cls.kinds and (signal is None or signal.spec.kind not in cls.kinds):
            found = "nothing" if signal is None else f"a signal of kind {signal.spec.kind!r}"
            raise InrError(f"{cls.name} is simulated from signals of kind {', '.join(sorted(cls.kinds))}, not {found}.")
        return cls.simulate(signal, from_dict(cls.Options, options, cls.name))

    @classmethod
    def load(cls, path, *, like: Spec | None = None, **options) -> Self:
        """Read real measurements from a file. like: take its frame and value map."""
        problem = cls.read(Path(path).expanduser(), from_dict(cls.Options, options, cls.name))
        if like is not None:
            if problem.spec.shape != like.shape:
                raise InrError(f"{path} gives an unknown of shape {problem.spec.shape}; the archive's is {like.shape}.")
            problem.spec = like
        return problem

    @classmethod
    def simulate(cls, signal: Signal | None, options) -> Self:
        """Measure a clean signal."""
        raise InrError(f"{cls.name} cannot be simulated: give a file of measurements.")

    @classmethod
    def read(cls, path: Path, options) -> Self:
        """Read a file of measurements."""
        raise InrError(f"{cls.name} takes no file of measurements: it can be simulated from a clean signal.")

    def adapt(self, recipe: Recipe, field: type[Field], preset: str) -> Recipe:
        """Return the field's recipe changed to what suits this problem."""
        return changed(recipe, field)

    @property
    def kind(self) -> str:
        """Kind of the unknown."""
        return self.spec.kind

    def __len__(self) -> int:
        """Number of measurements."""
        return len(self.values)

    @property
    def device(self) -> torch.device:
        """Where the measurements live."""
        return self.values.device

    def to(self, device) -> Self:
        """Move every tensor, and the truth."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        if self.truth is not None:
            self.truth.to(device)
        return self

    def regrid(self, grid: str) -> Self:
        """Put the unknown's samples at cell "centers" or on a grid including both "ends" of [-1, 1]; returns self."""
        self.spec = self.spec.regrid(grid)
        if self.truth is not None:
            self.truth.regrid(grid)
        return self

    def array(self) -> Tensor:
        """Return the measurements laid out as a picture or the like, in stored units: what a field may look at."""
        return self.spec.values.to_stored(self.values)

    def metrics(self, field) -> dict[str, float]:
        """Measure the field against the truth; where there is none, against the measurements ("psnr_fit")."""
        return self.truth.metrics(field) if self.truth is not None else self.misfit(field)

    def probe(self, field, samples: int = 1 << 16) -> dict[str, float]:
        """Estimate the metrics from at most `samples` values, the same at every call."""
        return self.truth.probe(field, samples) if self.truth is not None else self.misfit(field, samples)

    def pictures(self, field) -> list[tuple[np.ndarray, np.ndarray]]:
        """Truth and reconstruction, where the truth is known."""
        return self.truth.pictures(field) if self.truth is not None else []

    def measure(self, field, query) -> Tensor:
        """Return what the field says the measurements should be; `predict` may return more, for the loss."""
        return self.predict(field, query)

    @property
    def main_metric(self) -> str:
        """What progress is measured by."""
        return self.truth.main_metric if self.truth is not None else "psnr_fit"

    @property
    def full_scale(self) -> float:
        """What `psnr_fit` takes as full scale, in the units of `values`: by default those of the network's range."""
        return self.peak / self.spec.values.scale

    @torch.no_grad()
    def misfit(self, field, samples: int | None = None) -> dict[str, float]:
        """Return how well the field explains the measurements, in dB: "psnr_fit".

        This says nothing of what was not measured, and a perfect fit to noisy measurements is no good sign.
        """
        index = torch.arange(len(self), device=self.device)
        if samples is not None and samples < len(self) * self.points:
            count = max(1, samples // self.points)
            index = torch.randint(len(self), (count,), generator=torch.Generator().manual_seed(0)).to(self.device)
        total = 0.0
        for part in index.split(max(1, (1 << 14) // self.points)):
            query, values = self.sample(part, torch.Generator(self.device).manual_seed(0))
            total += wide(self.measure(field, query).float() - values).square().sum().item()
        return {"psnr_fit": psnr(total / self.values[index].numel(), self.full_scale)}


def read_measured(path, what: str, layout: str, last: tuple[int, ...] = ()) -> np.ndarray:
    """Read a .npy array of finite numbers, (a, b, *last) or (a, b, channels, *last), as the latter in float32.

    what: what it should hold, and layout: the shapes it may have, for messages.
    """
    path = readable(path)
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InrError(f"{path} is not a .npy array of {what}: {error}.") from None
    known = isinstance(array, np.ndarray) and array.dtype.kind in "iuf" and array.size
    if not known or array.ndim - len(last) not in (2, 3) or array.shape[array.ndim - len(last):] != last:
        raise InrError(f"{path} does not hold {what}: an array {layout} of numbers is needed.")
    if not np.isfinite(array).all():
        raise InrError(f"{path} holds values that are not numbers.")
    array = array.astype(np.float32)
    return np.expand_dims(array, 2) if array.ndim == 2 + len(last) else array


def changed(recipe: Recipe, field: type[Field], *, config: Mapping[str, Any] = {}, **fit) -> Recipe:
    """Return a recipe with other settings; those of `config` that the field does not have are left out.

    None is drawn by error: where that is largest, measurements may just be noisy.
    """
    known = {f.name for f in dataclasses.fields(field.Config)}
    mine = {name: value for name, value in config.items() if name in known}
    settings = {**recipe.fit, **fit}
    if settings.get("sampling") == "error":
        settings["sampling"] = "permuted"
    return dataclasses.replace(recipe, config={**recipe.config, **mine}, fit=settings)
