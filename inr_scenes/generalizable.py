"""Generalizable fields: one network trained on many signals; a signal becomes a few latents in one forward pass."""

import copy
import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from .device import rows_at_once
from .errors import InrError
from .field import Field, NoConfig, Recipe, configured
from .kernels.choice import product_type
from .signal import GridSignal, Signal
from .spec import Box, Spec

if TYPE_CHECKING:
    from collections.abc import Mapping

Latents = dict[str, Tensor]         # each (batch, …): tokens, modulations or weights of signals


class Decoder(nn.Module):
    """Maps coordinates to values given a signal's context: what its latents become once, not once per coordinate."""

    def prepare(self, latents: Latents) -> Latents:
        """Return the context of each signal: projected keys and values, composed weights."""
        return latents

    def forward(self, coords: Tensor, context: Latents) -> Tensor:
        """Map coords (B, n, in), or (1, n, in) shared by all signals, to values (B, n, out)."""
        raise NotImplementedError(f"{type(self).__name__} must implement forward")


class SetModel(nn.Module):
    """What is trained on a set of signals, and is no field itself: a generalizable field, or a prior over latents."""

    name: ClassVar[str]
    Config: ClassVar[type] = NoConfig
    role: ClassVar[str]                     # what an archive says it holds

    @classmethod
    def presets(cls) -> tuple[str, ...]:
        """Names `suggest` understands."""
        return ("fast", "published")

    def enrol(self, count: int) -> None:
        """Learn how many training signals there are, before a training."""

    def compilable(self) -> list[nn.Module]:
        """Return the modules that are worth compiling, each from tensors to a tensor, in the order they are used."""
        return []

    def facts(self) -> dict[str, Any]:
        """Return what an archive's header says besides config and spec."""
        return {"role": self.role}

    def notes(self) -> list[str]:
        """Return lines for whoever trained this field."""
        return []

    def baked(self) -> Self:
        """Return what is saved."""
        return self

    @property
    def parameter_count(self) -> int:
        """Number of trainable numbers."""
        return sum(p.numel() for p in self.parameters())

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return next(self.parameters()).device


class GeneralizableField(SetModel):
    """An encoder from signals to latents and a decoder from coordinates and latents to values.

    A subclass gives `name`, `Config`, `make_decoder`, `latent_shapes` and `encode`. `spec` is that of the training
    signals; other sizes may be encoded where the encoder takes them.
    """

    kinds: ClassVar[frozenset[str] | None] = None
    role: ClassVar[str] = "model"
    completes: ClassVar[bool] = False       # whether `encode` makes do with some of a signal's samples: `KnownSamples`

    def __init__(self, config, spec: Spec):
        super().__init__()
        if self.kinds is not None and spec.kind not in self.kinds:
            raise InrError(f"{self.name} does not support signals of kind {spec.kind!r} "
                           f"(it supports {', '.join(sorted(self.kinds))}).")
        self.config, self.spec = config, template(spec)
        self.decoder = self.make_decoder(config, spec)

    @classmethod
    def make_decoder(cls, config, spec: Spec) -> Decoder:
        """Return the decoder alone, which is all that an encoded signal needs."""
        raise NotImplementedError(f"{cls.__name__} must implement make_decoder")

    @classmethod
    def latent_shapes(cls, config, spec: Spec) -> dict[str, tuple[int, ...]]:
        """Return the shape of each of one signal's latents."""
        raise NotImplementedError(f"{cls.__name__} must implement latent_shapes")

    def compilable(self) -> list[nn.Module]:
        """The decoder; a subclass names those of its encoder too."""
        return [self.decoder]

    def encode(self, signals: Sequence[Signal]) -> Latents:
        """Return the latents of signals of one shape, batch first. A light field is encoded from all views it holds."""
        raise NotImplementedError(f"{type(self).__name__} must implement encode")

    def check_signals(self, signals: Sequence[Signal]) -> None:
        """Raise InrError for signals of another kind or with other channels than the model was trained on."""
        for signal in signals:
            spec = signal.spec
            if spec.kind != self.spec.kind:
                raise InrError(f"This model was trained on signals of kind {self.spec.kind!r}; {signal.name} is of "
                               f"kind {spec.kind!r}.")
            if spec.out_features != self.spec.out_features:
                raise InrError(f"This model was trained on signals of {self.spec.out_features} channels; {signal.name} "
                               f"has {spec.out_features}. Read it as those were: {signal.one_size}.")

    def stored(self, *_, **__) -> Tensor:
        """Refuse: a model of many signals is no field before one of them has been encoded."""
        raise InrError(f"This is a {self.name} model of many signals, not one signal. Encode one: "
                       f"inr encode MODEL SIGNAL -o OUT.safetensors")

    crop = extend = joined = rows_at_once = stored      # nor is there anything to keep, to add or to look at

    def decode(self, coords: Tensor, latents: Latents) -> Tensor:
        """Map coords (B, n, in), or (1, n, in) shared by all, to values (B, n, out) in the network's range."""
        return self.decoder(coords, self.decoder.prepare(latents))

    def field(self, latents: Latents, spec: Spec, item: int = 0, config=None) -> "BoundField":
        """Return one signal's latents bound to a copy of the decoder: an ordinary field, archive and all.

        config: that of latents some of which were cut away.
        """
        with torch.random.fork_rng(devices=[]):         # the decoder's first weights are not kept
            bound = BoundField(type(self), config or self.config, spec)
        return bound.filled(self.decoder, {name: value[item] for name, value in latents.items()})

    @classmethod
    def with_tokens(cls, config, count: int):
        """Return the config of the same decoder for `count` tokens, where coordinates choose among tokens."""
        raise InrError(f"The latents of {cls.name} each act on the whole signal, so none can be cut away; lainr's can.")

    def training_latents(self, signals: Sequence[Signal], numbers: Tensor) -> Latents:
        """Return latents of training signals; `numbers` are their places in the set (an auto-decoder looks them up)."""
        return self.encode(signals)

    def penalty(self, latents: Latents) -> Tensor | float:
        """Return a regulariser added to the data term."""
        return 0.0

    def loss(self, batch) -> Tensor:
        """Return the mean squared error of a training batch in the network's range, and the regulariser."""
        latents = self.training_latents(batch.signals, batch.numbers.to(self.device))
        predicted = self.decode(batch.coords, latents)
        return torch.nn.functional.mse_loss(predicted.float(), batch.values) + self.penalty(latents)

    @classmethod
    def suggest(cls, signal: Signal, preset: str) -> Recipe:
        """Return settings for a set of signals like this one: changes to Config and to TrainConfig."""
        return Recipe()

    @classmethod
    def fast_path(cls, device: torch.device) -> str | None:
        """Return what decodes signals of this class, in half precision, on a device; none: plain torch."""
        return None


class BoundField(Field):
    """One signal's latents with the decoder they belong to: pointwise like every field.

    While no gradients are asked for, the context is computed once in each precision and kept until a weight or a latent
    changes.
    """

    name = "bound"
    role = "signal"

    def __init__(self, model: type[GeneralizableField], config, spec: Spec, lead: tuple[int, ...] = ()):
        super().__init__(config, spec)
        self.model, self.name = model, model.name
        self.decoder = model.make_decoder(config, spec)
        self.latents = nn.ParameterDict({name: nn.Parameter(torch.zeros(*lead, *shape))
                                         for name, shape in model.latent_shapes(config, spec).items()})
        self._kept: dict[torch.dtype, tuple] = {}       # what each precision's context was made of, and the context

    def facts(self) -> dict[str, Any]:
        """Return what an archive's header says besides config and spec."""
        return {"role": self.role}

    def context(self) -> Latents:
        """Return the decoder's context of these latents, as a batch of one."""
        latents = {name: value[None] for name, value in self.latents.items()}
        if torch.is_grad_enabled():
            self._kept.clear()          # an optimiser's fused step changes weights without counting a version
            return self.decoder.prepare(latents)
        state, precision = self.state()
        if self._kept.get(precision, ((),))[0] != state:
            self._kept[precision] = (state, self.decoder.prepare(latents))
        return self._kept[precision][1]

    def state(self) -> tuple[tuple, torch.dtype]:
        """Return what changes when a weight or a latent does, and the precision that products are rounded to."""
        versions = tuple((p.data_ptr(), p._version) for p in self.parameters())
        return versions, product_type(next(iter(self.latents.values())))

    def forward(self, coords: Tensor) -> Tensor:
        """Map coords (..., in) to values (..., out)."""
        values = self.decoder(coords.reshape(1, -1, coords.shape[-1]), self.context())
        return values.reshape(*coords.shape[:-1], self.spec.out_features)

    def filled(self, decoder: nn.Module, latents: Latents) -> Self:
        """Take a decoder's weights and these latents; returns self, where the latents are."""
        self.decoder.load_state_dict(decoder.state_dict())
        with torch.no_grad():
            for name, value in self.latents.items():
                value.copy_(latents[name])
        return self.to(next(iter(latents.values())).device).eval()

    def replaced(self, latents: Latents) -> Self:
        """Return a copy of the field with other latents."""
        field, field._kept = copy.deepcopy(self), {}
        return field.filled(self.decoder, latents)

    def tune(self, what: str) -> "BoundField":
        """Choose what a fit changes: "latents" (the decoder stays) or "all"; returns self."""
        if what not in ("latents", "all"):
            raise InrError(f"--tune {what!r} is not known: latents or all.")
        self.requires_grad_(True)
        self.decoder.requires_grad_(what == "all")
        return self

    def crop(self, box: Box | None = None, *, keep: Iterable[int] | None = None,
             drop: Iterable[int] | None = None) -> "BoundField":
        """Return the field of the samples in `box`, without the tokens that none of them needs.

        What is left out is as if it had never been there, so values in the box may move by half an 8-bit step. keep,
        drop: the tokens to keep, or to cut away, instead.
        """
        spec = self.spec if box is None else self.spec.cropped(box)
        tokens = range(len(next(iter(self.latents.values()))))
        kept = needed_tokens(self, spec) if keep is None and drop is None else \
            chosen(len(tokens), keep, drop, "tokens")
        field = BoundField(self.model, self.model.with_tokens(self.config, len(kept)), spec)
        return field.filled(self.decoder, {name: value[kept] for name, value in self.latents.items()})

    @property
    def device(self) -> torch.device:
        """Where the latents live."""
        return next(iter(self.latents.values())).device


def chosen(count: int, keep: Iterable[int] | None, drop: Iterable[int] | None, what: str) -> list[int]:
    """Return which of `count` parts stay when only some are kept, or some dropped; `what` they are, for a message."""
    keep, drop = range(count) if keep is None else {*keep}, {*(drop or ())}
    kept = [i for i in range(count) if i in keep and i not in drop]
    if not kept or {*keep, *drop} - {*range(count)}:
        raise InrError(f"There are the {what} 0 to {count - 1}, of which at least one must stay.")
    return kept


def template(spec: Spec) -> Spec:
    """Return a spec as that of any signal of a set: without a light field's own cameras, with the size of its views."""
    if spec.cameras is None:
        return spec
    return spec.replace(cameras=None, meta={**spec.meta, "view_shape": spec.cameras.size[0].tolist()})


class Selection(Signal):
    """Some measurements of a signal as a signal of their own. whole: that signal · index: (n,) of its measurements."""

    def __init__(self, whole: Signal, index: Tensor, spec: Spec):
        self.whole, self.index, self.spec = whole, index.to(whole.device), spec
        self.kind, self.name, self.one_size = spec.kind, whole.name, whole.one_size

    def __len__(self) -> int:
        return len(self.index)

    def sample(self, index: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return coordinates (n, in) and values (n, out) of the chosen measurements `index`."""
        return self.whole.sample(self.index[index], generator)

    @property
    def device(self) -> torch.device:
        """Where the measurements live."""
        return self.whole.device

    def to(self, device) -> Self:
        """Move the whole signal, and which of its measurements these are to where those are then."""
        self.whole.to(device)
        self.index = self.index.to(self.whole.device)
        return self


class SupportViews(Selection):
    """Some views of a light field as a signal of their own: what few-shot encoding looks at."""

    def __init__(self, signal: Signal, views: Sequence[int]):
        cameras = signal.spec.cameras
        views = torch.as_tensor(list(views))
        if not len(views) or int(views.max()) >= len(cameras) or int(views.min()) < 0:
            raise InrError(f"{signal.name} has the views 0 to {len(cameras) - 1}; {views.tolist()} cannot be taken.")
        if len(signal) != signal.spec.size:
            raise InrError(f"{signal.name} has masked pixels; few-shot encoding needs whole views.")
        sizes = cameras.size.prod(-1)
        ends = sizes.cumsum(0)
        index = torch.cat([torch.arange(int(ends[v] - sizes[v]), int(ends[v])) for v in views])
        super().__init__(signal, index, signal.spec.replace(cameras=cameras[views]))


class KnownSamples(Selection):
    """Some samples of a signal on a grid, as a signal of their own: what the others are to be completed from.

    index: their flat numbers (n,), at least one, or InrError is raised.
    """

    def __init__(self, signal: GridSignal, index: Tensor):
        if not len(index):
            raise InrError(f"Nothing of {signal.name} is known: the mask is dark everywhere.")
        super().__init__(signal, index, signal.spec)

    def mask(self) -> Tensor:
        """Return 1 where a sample is known, else 0, (*shape)."""
        found = torch.zeros(self.spec.size, device=self.device)
        return found.index_fill_(0, self.index, 1.0).reshape(self.spec.shape)

    def array(self) -> Tensor:
        """Return the stored values, (*shape, out), 0 where they are not known."""
        return self.whole.array() * self.mask()[..., None]


def grids(signals: Sequence[Signal]) -> Tensor:
    """Return the values of signals on grids of one shape, (B, *shape, out), in the network's range."""
    first = signals[0].spec
    for signal in signals:
        if signal.spec.shape != first.shape or signal.spec.out_features != first.out_features:
            raise InrError(f"{signal.name} is {signal.spec.shape} with {signal.spec.out_features} channels, "
                           f"{signals[0].name} is {first.shape} with {first.out_features}: a batch needs one size. "
                           f"Images: give --size and --mode.")
    return torch.stack([signal.spec.values.to_net(signal.array()) for signal in signals])


def posed_views(signals: Sequence[Signal]) -> Tensor:
    """Return every pixel's values and ray, (B, views, height, width, out + in), of light fields of one size."""
    batch = []
    for signal in signals:
        sizes = signal.spec.cameras.size
        if (sizes != sizes[0]).any():
            raise InrError(f"The views of {signal.name} differ in size; few-shot encoding needs one size.")
        rays, values = signal.sample(torch.arange(signal.spec.size, device=signal.device))
        height, width = sizes[0].tolist()
        batch.append(torch.cat([values, rays], -1).reshape(len(sizes), height, width, -1))
    if len({part.shape for part in batch}) > 1:
        raise InrError("The light fields of a batch differ in size or number of views; give one size.")
    return torch.stack(batch)


@torch.no_grad()
def needed_tokens(field: BoundField, spec: Spec, tolerance: float = 1 / 255) -> list[int]:
    """Return the tokens without which a sample of `spec` moves by more than `tolerance` (half an 8-bit step).

    Tokens are left out together, in the order of what each does alone to at most 4096 samples.
    """
    field.model.with_tokens(field.config, 1)        # refuses where tokens cannot be left out
    coords = spec.coords(torch.arange(spec.size)).to(field.device)

    def values(places: Tensor, kept: Sequence[int]) -> Tensor:
        context = field.decoder.prepare({name: value[None, list(kept)] for name, value in field.latents.items()})
        return torch.cat([field.decoder(part[None], context)[0] for part in places.split(rows_at_once(field.device))])

    tokens = list(range(len(next(iter(field.latents.values())))))
    some = coords[torch.linspace(0, len(coords) - 1, min(4096, len(coords))).long()]
    base, alone = values(some, tokens), []
    for token in tokens if len(tokens) > 1 else ():
        alone.append(float((values(some, [t for t in tokens if t != token]) - base).abs().max()))
    order = sorted(tokens, key=alone.__getitem__) if alone else tokens
    base, low, high = values(coords, tokens), 0, len(tokens) - 1
    while low < high:                               # how many of the first can go
        middle = (low + high + 1) // 2
        fits = float((values(coords, order[middle:]) - base).abs().max()) <= tolerance
        low, high = (middle, high) if fits else (low, middle - 1)
    return sorted(order[low:])


@torch.no_grad()
def token_maps(field: BoundField, coords: Tensor, batch: int = 8) -> Tensor:
    """Return how far the values at coords (n, in) move when each token is replaced by zero, (tokens, n).

    A row is scaled to a maximum of 1 (Lee et al., NeurIPS 2023, section 4.3); one without any change stays zero.
    """
    whole = {name: value[None] for name, value in field.latents.items()}
    base = field.decoder(coords[None], field.decoder.prepare(whole))
    maps = []
    for name, value in field.latents.items():
        for tokens in torch.arange(len(value), device=value.device).split(batch):
            changed = {other: v.expand(len(tokens), *v.shape[1:]) for other, v in whole.items()}
            changed[name] = changed[name].clone()
            changed[name][torch.arange(len(tokens)), tokens] = 0
            maps.append((field.decoder(coords[None], field.decoder.prepare(changed)) - base).abs().mean(-1))
    found = torch.cat(maps)
    return found / found.amax(1, keepdim=True).clamp_min(torch.finfo(found.dtype).tiny)


def concentration(maps: Tensor, share: float = 0.1) -> float:
    """Return the median over tokens of how much of a map's energy its strongest samples hold.

    share: of the samples that count as the strongest; a token that acts alike everywhere scores `share`, one that acts
    on a small region 1.
    """
    energy = maps.square().sort(1, descending=True).values
    count = max(1, round(share * maps.shape[1]))
    total = energy.sum(1)
    return float((energy[:, :count].sum(1) / total.clamp_min(1e-30))[total > 0].median())


def digest(decoder: nn.Module) -> str:
    """Return the SHA-256 of a decoder's weights: what latents stored alone must be decoded with."""
    total = hashlib.sha256()
    for name, value in sorted(decoder.state_dict().items()):
        total.update(name.encode())
        total.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def pack(values: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Quantise (..., features) to `bits` ≤ 8 per number; return the packed codes (bytes,) and scales (2, features).

    Each feature is quantised uniformly between its least and its greatest value over the other dimensions.
    """
    import numpy as np

    if not 1 <= bits <= 8:
        raise InrError(f"--bits {bits} is not possible: 1 to 8.")
    flat = values.detach().float().cpu().reshape(-1, values.shape[-1])
    low, high = flat.amin(0), flat.amax(0)
    step = ((high - low) / (2**bits - 1)).clamp_min(torch.finfo(torch.float32).tiny)
    codes = ((flat - low) / step).round().clamp(0, 2**bits - 1).to(torch.uint8).numpy()
    planes = np.unpackbits(codes.reshape(-1, 1), axis=1)[:, 8 - bits:]
    return torch.from_numpy(np.packbits(planes.ravel())), torch.stack([low, step])


def unpack(codes: Tensor, scales: Tensor, shape: Sequence[int], bits: int) -> Tensor:
    """Return the numbers that `pack` quantised, (*shape) float32."""
    import math

    import numpy as np

    count = math.prod(shape)
    if not 1 <= bits <= 8 or codes.numel() != -(-count * bits // 8) or scales.shape != (2, shape[-1]):
        raise ValueError("their codes are not as many as the header says")
    planes = np.unpackbits(codes.numpy(), count=count * bits).reshape(count, bits)
    weights = 2 ** np.arange(bits - 1, -1, -1)
    whole = torch.from_numpy((planes * weights).sum(1).astype(np.float32)).reshape(-1, shape[-1])
    return (whole * scales[1] + scales[0]).reshape(*shape)


def build_model(cls: type[GeneralizableField], spec: Spec, changes: "Mapping[str, Any] | None" = None,
                seed: int = 0) -> GeneralizableField:
    """Construct a generalizable field; `changes` override its Config's defaults, `seed` repeats its initialisation."""
    config = configured(cls, changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cls(config, spec)
