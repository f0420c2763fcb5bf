"""Fields: pointwise networks R^in → R^out, and their chunked evaluation."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from .device import precision_type, quick_half, rounded_to, rows_at_once
from .errors import InrError, suggestion
from .kernels.products import quick
from .signal import Signal
from .spec import Spec

if TYPE_CHECKING:
    from .sampler import Sampler

BAND = 1 << 20                      # samples of a signal that are held at once, where not all are
SURE = 0.1                          # half precision tells on which side of a level a value beyond this is; half the
                                    # range of values is 1


@dataclass(frozen=True)
class Recipe:
    """What a field suggests for a signal: changes to its Config and to FitConfig, and the sample grid if it matters."""

    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    fit: dict[str, Any] = dataclasses.field(default_factory=dict)
    grid: str | None = None         # "centers" | "ends" | None: leave the signal as it was loaded


@dataclass(frozen=True)
class NoConfig:
    """A field without settings."""


class Field(nn.Module):
    """A network from coordinates to values: any points, in any order, on any device.

    A subclass gives `name`, `Config` (a frozen dataclass; docstrings under its fields become the CLI help), a
    constructor (config, spec) and `forward`. Everything else has a default.
    """

    name: ClassVar[str]
    Config: ClassVar[type] = NoConfig
    kinds: ClassVar[frozenset[str] | None] = None        # None: every kind

    def __init__(self, config, spec: Spec):
        super().__init__()
        if self.kinds is not None and spec.kind not in self.kinds:
            raise InrError(f"{self.name} does not support signals of kind {spec.kind!r} "
                           f"(it supports {', '.join(sorted(self.kinds))}).")
        self.config, self.spec = config, spec

    def forward(self, coords: Tensor) -> Tensor:
        """Map coords (..., in) to values (..., out) in the network's range, about [-1, 1]."""
        raise NotImplementedError(f"{type(self).__name__} must implement forward")

    @classmethod
    def suggest(cls, signal: Signal, preset: str) -> Recipe:
        """Return settings for this signal; preset is "published", "fast" or a name the field documents."""
        return Recipe()

    @classmethod
    def presets(cls) -> tuple[str, ...]:
        """Names `suggest` understands."""
        return ("fast", "published")

    def condition(self, signal: Signal) -> None:
        """Look at the signal once before a fit; what is learned from it must be baked into the archive."""

    def baked(self) -> "Field":
        """Return what is saved: this field with everything that conditions it turned into constants."""
        return self

    def draw(self, signal: Signal, sampler: "Sampler", step: int) -> Iterator[tuple[Any, Tensor, float]]:
        """Yield a step's batch in parts (query, values, share of the loss), each of at most `sampler.micro` rows.

        A field may draw otherwise than the sampler, as long as the shares sum to 1 and weigh every sample alike;
        where it tells sampler.taken which measurements it draws, --sampling error can choose among them.
        """
        index = sampler.draw(step)
        for part in index.split(sampler.micro):
            query, values = signal.sample(part, sampler.generator)
            yield query, values, len(part) / len(index)

    def rates(self) -> dict[nn.Parameter, float]:
        """Return factors on the learning rate of parameters that need another than the rest."""
        return {}

    def rows_at_once(self, device: torch.device, derivatives: bool = False) -> int:
        """Return how many points the network best sees at once on a device; derivatives: where those are wanted."""
        return rows_at_once(device)

    def penalty(self) -> Tensor | float:
        """Return a regulariser added to the data term."""
        return 0.0

    def notes(self) -> list[str]:
        """Return lines worth telling whoever fits this field."""
        return []

    def kernel_obstacle(self, device: torch.device) -> str | None:
        """Say why no fused kernel can compute this field on a device; none if one can."""
        return f"{self.name} has no fused kernel"

    @classmethod
    def fast_path(cls, device: torch.device) -> str | None:
        """Return what computes a field of this class, in half precision, on a device; none: plain torch."""
        return None

    def diagnose(self, signal: Signal) -> dict[str, float]:
        """Return metrics of the field's own making, added to the signal's by `inr eval`."""
        return {}

    def crop(self, box=None, *, keep=None, drop=None) -> "Field":
        """Return a smaller field of the part of the signal in `box`, or of some blocks, weights really removed."""
        raise InrError(f"{self.name} has no local parts, so it cannot be cropped; the lg- fields can.")

    def extend(self, spec: Spec, start: str = "neighbour", part: Signal | None = None) -> "Field":
        """Return a larger field covering `spec`, the old region unchanged; start: how new parts begin; part: the signal
        that they are for, so that what it does not reach into takes none."""
        raise InrError(f"{self.name} has no local parts, so it cannot be extended; the lg- fields can.")

    def joined(self, other: "Field") -> "Field":
        """Return one field of this and a neighbouring region that shares its global part."""
        raise InrError(f"{self.name} has no local parts, so it cannot be merged; the lg- fields can.")

    def facts(self) -> dict[str, Any]:
        """Return what an archive's header says besides config and spec."""
        return {}

    @property
    def parameter_count(self) -> int:
        """Number of trainable numbers."""
        return sum(p.numel() for p in self.parameters())

    def stored(self, coords: Tensor) -> Tensor:
        """Return values in the signal's stored units at coords (..., in)."""
        with quick(coords.device):
            return self.spec.values.to_stored(self(coords).float())

    @torch.no_grad()
    def stored_at(self, coords: Tensor, parts: int = 1) -> Tensor:
        """Return stored values (n, out) at any number of coords (n, in), on the CPU, in bounded memory.

        parts: of what a device best sees at once to take together, where a network does not see all of it.
        """
        device = next(self.parameters()).device
        chunks = coords.split(parts * self.rows_at_once(device))
        return torch.cat([self.stored(chunk.to(device)).cpu() for chunk in chunks])

    def at(self, points: Tensor) -> Tensor:
        """Return stored values (n, out) at world points (n, 3) of a shape, x y z in world units."""
        return self.stored_at(self.spec.to_coords(torch.as_tensor(points)))

    def inside(self, points: Tensor) -> Tensor:
        """Say which world points (n, 3) lie inside a shape, (n,) bool."""
        if self.spec.kind != "shape":
            raise InrError(f"Only shapes have an inside; this is a field of kind {self.spec.kind!r}.")
        return self.is_inside(self.at(points)[:, 0])

    def is_inside(self, stored: Tensor) -> Tensor:
        """Say which stored values mean "inside": occupancy above its level, distance below it."""
        level = self.spec.meta.get("level", 0.5)
        return stored < level if self.spec.meta.get("quantity") == "sdf" else stored > level


def build(cls: type[Field], spec: Spec, changes: dict[str, Any] | None = None, seed: int | None = None) -> Field:
    """Construct a field; `changes` override its Config's defaults, `seed` makes its initialisation repeatable."""
    config = configured(cls, changes)
    if seed is None:
        return cls(config, spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cls(config, spec)


def configured(cls: type, changes: Mapping[str, Any] | None = None) -> Any:
    """Return the Config of a class that is built of one, `changes` over its defaults."""
    known = {f.name for f in dataclasses.fields(cls.Config)}
    for name in changes or {}:
        if name not in known:
            raise InrError(f"{cls.name} has no option {name!r}.{suggestion(name, known)}")
    return cls.Config(**(changes or {}))


@torch.inference_mode()
def sides(field: Field, coords: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """Return stored values (n, out) at coords (n, in) of the field's device, and which are exact, (n,) bool.

    Half precision gives those of which it tells for sure on which side of `level` they are, where a device is quick at
    it; all others are exact.
    """
    dtype = quick_half(coords.device)
    with rounded_to(dtype, coords.device):
        values = field.stored(coords)
    if dtype is None:
        return values, torch.ones_like(values[:, 0], dtype=torch.bool)
    near = ((values - level).abs() < SURE * field.spec.values.scale).any(-1)
    values[near] = field.stored(coords[near])
    return values, near


@torch.inference_mode()
def decode(field: Field, spec: Spec | None = None, precision: str = "32",
           level: float | None = None) -> Iterator[tuple[slice, Tensor]]:
    """Yield (slice of flat samples, stored values on the CPU) over all samples of `spec`, in bounded memory.

    precision: one of `device.PRECISIONS`, which a network's products are rounded to · level: all that matters is on
    which side of it a value is (see `sides`).
    """
    spec = spec or field.spec
    device = next(field.parameters()).device
    rows, dtype = field.rows_at_once(device), precision_type(precision, device)
    for low in range(0, spec.size, rows):
        part = slice(low, min(low + rows, spec.size))
        coords = spec.coords(torch.arange(part.start, part.stop)).to(device)
        if level is None:
            with rounded_to(dtype, device):
                values = field.stored(coords)
        else:
            values = sides(field, coords, level)[0]
        yield part, values.cpu()


def decode_bands(field: Field, spec: Spec | None = None, precision: str = "32") -> Iterator[tuple[slice, Tensor]]:
    """Yield (slice of flat samples, stored values (n, *shape[1:], out)) of whole rows or frames, a million or so.

    The same values as `decode_all`, for what is too large to be held at once. precision: as `decode`.
    """
    spec = spec or field.spec
    first, stop, each = spec.axes[0].first, spec.axes[0].stop, spec.size // spec.shape[0]
    rows = max(1, BAND // each)
    for low in range(first, stop, rows):
        band = spec.along(low, min(low + rows, stop))
        yield slice((low - first) * each, (low - first) * each + band.size), decode_all(field, band, precision)


def decode_all(field: Field, spec: Spec | None = None, precision: str = "32") -> Tensor:
    """Return the stored values of all samples of `spec`, (*shape, out) float32; precision: as `decode`."""
    spec = spec or field.spec
    out = torch.empty(spec.size, spec.out_features)
    for part, values in decode(field, spec, precision):
        out[part] = values
    return out.reshape(*spec.shape, spec.out_features)
