"""Priors: networks that learn how the latents of encoded signals are distributed, and draw new ones."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .archive import header, locate, open
from .batches import Drawer
from .errors import InrError, suggestion
from .field import NoConfig, Recipe
from .generalizable import BoundField, GeneralizableField, Latents, digest
from .spec import Spec

SUFFIX = ".safetensors"
CLASSES = ("auto", "folder", "name", "none")
AT_ONCE = 32                        # signals drawn together


@dataclass(frozen=True)
class LatentSet:
    """Latents of signals encoded by one model, with their classes.

    latents: (signals, …) each · labels: (signals,) numbers into `classes`; all 0 without classes · like: one of the
    signals, for the decoder and the domain that all share.
    """

    names: tuple[str, ...]
    latents: Latents
    labels: Tensor
    classes: tuple[str, ...]
    like: BoundField

    def __len__(self) -> int:
        return len(self.names)

    @property
    def spec(self) -> Spec:
        """The domain that all signals share."""
        return self.like.spec

    def part(self, numbers: Sequence[int]) -> "LatentSet":
        """Return some of the signals."""
        index = torch.as_tensor(list(numbers), dtype=torch.long)
        return LatentSet(tuple(self.names[i] for i in index), {k: v[index] for k, v in self.latents.items()},
                         self.labels[index], self.classes, self.like)

    def split(self, held_out: int, seed: int = 0) -> tuple["LatentSet", "LatentSet"]:
        """Return (the rest, `held_out` signals chosen by `seed`); at least one stays for training."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed)).tolist()
        held_out = max(0, min(held_out, len(self) - 1))
        return self.part(sorted(order[held_out:])), self.part(sorted(order[:held_out]))


def open_latents(folder, *, model=None, classes: str = "auto") -> LatentSet:
    """Read a folder of archives that one model encoded, `inr encode … -o FOLDER`, its sub-folders too.

    model: the model, where latents were stored alone; default: the one their headers name. classes: "folder" (the
    sub-folder is the class), "name" (what stands before the first "_" of a file's name), "none", or "auto": folder
    where all lie in sub-folders, else name where that makes classes of at least two signals each.
    """
    folder = Path(folder).expanduser()
    if classes not in CLASSES:
        raise InrError(f"--classes {classes!r} is not known.{suggestion(classes, CLASSES)} "
                       f"Known: {', '.join(CLASSES)}.")
    if not folder.is_dir():
        raise InrError(f"{folder} is no folder. Latents are a folder of archives: inr encode MODEL SIGNAL… -o FOLDER.")
    paths = sorted(p for p in folder.rglob(f"*{SUFFIX}") if not p.name.startswith("."))
    if not paths:
        raise InrError(f"{folder} holds no archives. Encode signals into it: inr encode MODEL SIGNAL… -o {folder}.")
    rows, like, first, maps = [], None, None, []
    for path in paths:
        head = header(path)
        if head.get("role") != "signal":
            raise InrError(f"{path} is no signal encoded by a generalizable model; inr encode makes those.")
        if model is None and head.get("share") is not None:
            model = _named_model(path, head)
        if isinstance(model, (str, Path)):      # opened once, not for every signal
            place, model = model, open(model)
            if not isinstance(model, GeneralizableField):
                raise InrError(f"{place} holds no generalizable model; inr train makes them.")
        field = open(path, model=model)
        facts = (digest(field.decoder), field.facts(), field.spec.shape)
        if first is None:
            like, first = field, facts
        elif facts != first:
            raise InrError(f"{path} has another model, size or windows than {paths[0]}; a prior learns from signals "
                           f"encoded alike.")
        maps.append(field.spec.values)
        rows.append({name: value.detach() for name, value in field.latents.items()})
    latents = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    # sounds differ in loudness, which is no part of their latents: what is drawn is as loud as the middle one
    like.spec = like.spec.replace(values=sorted(maps, key=lambda values: values.scale)[len(maps) // 2])
    found = _classes(folder, paths, classes)
    known = tuple(sorted(set(found)))
    labels = torch.tensor([known.index(name) for name in found])
    return LatentSet(tuple(p.stem for p in paths), latents, labels, known if known != ("",) else (), like)


def _named_model(path: Path, head: dict[str, Any]) -> str:
    """Return the model that latents stored alone say they need, or say to give it."""
    facts = head.get("fit")
    named = facts.get("model") if isinstance(facts, dict) else None
    try:
        locate(str(named))
    except InrError:
        raise InrError(f"{path} holds latents alone; give the model that encoded it with --model"
                       f"{f' ({named} is not there)' if isinstance(named, str) else ''}.") from None
    return str(named)


def _classes(folder: Path, paths: Sequence[Path], how: str) -> list[str]:
    """Return the class of each file; "" where there are none."""
    places = [p.parent.relative_to(folder).as_posix() for p in paths]
    heads = [p.stem.partition("_")[0] for p in paths]
    if how == "folder" or (how == "auto" and len(set(places)) > 1 and "." not in places):
        return places
    several = 1 < len(set(heads)) and all(heads.count(name) > 1 for name in set(heads))
    if how == "name" or (how == "auto" and several):
        return heads
    return [""] * len(paths)


@dataclass
class LatentBatch:
    """What one step of a prior's training sees: (B, …) latents and (B,) classes."""

    latents: Latents
    labels: Tensor


class LatentDrawer(Drawer):
    """Draws each step's latents; a pure function of seed and step."""

    def _batch(self, numbers: Tensor, views: int, seed: int) -> LatentBatch:
        return LatentBatch({name: value[numbers].to(self.device) for name, value in self.dataset.latents.items()},
                           self.dataset.labels[numbers].to(self.device))


class LatentValidation:
    """Held-out latents: how well a prior takes noise off them. Stands where `fit` has a signal."""

    kind, main_metric = "latents", "mse"

    def __init__(self, latents: LatentSet):
        self.latents = latents

    @torch.no_grad()
    def metrics(self, prior: "Prior") -> dict[str, float]:
        """Mean squared error of the standardised latents at the same noise every time; guessing the mean makes 1."""
        if not len(self.latents):
            return {}
        total = 0.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for part in torch.arange(len(self.latents)).split(64):
                batch = LatentBatch({k: v[part].to(prior.device) for k, v in self.latents.latents.items()},
                                    self.latents.labels[part].to(prior.device))
                total += float(prior.loss(batch)) * len(part)
        return {"mse": total / len(self.latents)}

    def pictures(self, prior) -> list:
        """Nothing to lay side by side: a prior reconstructs nothing."""
        return []


class Prior(nn.Module):
    """A distribution over the latents of a model's signals, with the decoder that makes fields of them.

    A subclass gives `name`, `Config`, `loss` and `draw`. like: an encoded signal, whose decoder and domain drawn ones
    share; its latents' values do not matter. classes: names of the classes, empty when there are none.
    """

    name: ClassVar[str]
    Config: ClassVar[type] = NoConfig
    role: ClassVar[str] = "prior"

    def __init__(self, config, like: BoundField, classes: tuple[str, ...] = ()):
        super().__init__()
        self.config, self.classes, self.spec = config, classes, like.spec
        self.like = like.requires_grad_(False)
        for name, value in like.latents.items():
            self.register_buffer(f"mean_{name}", torch.zeros_like(value))
            self.register_buffer(f"deviation_{name}", torch.ones_like(value))

    def loss(self, batch: LatentBatch) -> Tensor:
        """Return the training loss of a batch; what it draws comes from torch's generator."""
        raise NotImplementedError(f"{type(self).__name__} must implement loss")

    def draw(self, count: int, label: int | None, generator: torch.Generator, **options) -> Latents:
        """Return `count` new latents, standardised (count, …), of a class or of all."""
        raise NotImplementedError(f"{type(self).__name__} must implement draw")

    @torch.no_grad()
    def learn_scale(self, latents: Latents) -> None:
        """Take mean and standard deviation of each number of a latent from (signals, …) of a training set."""
        for name, value in latents.items():
            deviation = value.std(0) if len(value) > 1 else torch.ones_like(value[0])
            getattr(self, f"mean_{name}").copy_(value.mean(0))
            getattr(self, f"deviation_{name}").copy_(deviation.clamp_min(1e-4))

    def standardised(self, latents: Latents) -> Latents:
        """Map latents (B, …) to zero mean and unit variance."""
        return {k: (v - getattr(self, f"mean_{k}")) / getattr(self, f"deviation_{k}") for k, v in latents.items()}

    def restored(self, latents: Latents) -> Latents:
        """Undo `standardised`."""
        return {k: v * getattr(self, f"deviation_{k}") + getattr(self, f"mean_{k}") for k, v in latents.items()}

    def sample(self, count: int, of: str | None = None, seed: int = 0, **options) -> Iterator[BoundField]:
        """Draw `count` new signals, one field after the other, of the class called `of` or of all classes."""
        if not 0 <= seed < 2**63:
            raise InrError(f"--seed {seed} is not possible: 0 to 2^63 - 1.")
        if of is not None and of not in self.classes:
            raise InrError(f"There is no class {of!r}.{suggestion(of, self.classes)} "
                           f"Known: {', '.join(self.classes) or 'none, this prior was trained without classes'}.")
        generator = torch.Generator(self.device).manual_seed(seed)
        return self._fields(count, None if of is None else self.classes.index(of), generator, options)

    def _fields(self, count: int, label: int | None, generator, options) -> Iterator[BoundField]:
        for low in range(0, count, AT_ONCE):
            number = min(AT_ONCE, count - low)
            with torch.no_grad():
                latents = self.restored(self.draw(number, label, generator, **options))
            for i in range(number):
                yield self.like.replaced({name: value[i] for name, value in latents.items()})

    def facts(self) -> dict[str, Any]:
        """Return what an archive's header says besides config and spec."""
        from .settings import to_dict
        return {**self.like.facts(), "role": self.role, "prior": {
            "model": self.like.name, "config": to_dict(self.like.config), "classes": list(self.classes)}}

    @classmethod
    def suggest(cls, latents: LatentSet, preset: str) -> Recipe:
        """Return settings for a set of latents: changes to Config and to TrainConfig."""
        return Recipe()

    @classmethod
    def presets(cls) -> tuple[str, ...]:
        """Names `suggest` understands."""
        return ("fast", "published")

    def enrol(self, count: int) -> None:
        """A prior needs no place for each signal."""

    def notes(self) -> list[str]:
        """Return lines for whoever trained this prior."""
        return []

    def baked(self) -> "Prior":
        """Return what is saved."""
        return self

    def stored(self, *_, **__) -> Tensor:
        """Refuse: a prior is no field before a signal has been drawn."""
        raise InrError(f"This is a {self.name} prior over signals, not one signal. Draw some: "
                       f"inr sample ARCHIVE -n 4 -o OUT")

    crop = extend = joined = stored         # nor is there anything to keep or to add

    @property
    def parameter_count(self) -> int:
        """Number of stored weights, the decoder's included."""
        return sum(p.numel() for p in self.parameters())

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return next(self.parameters()).device


def build_prior(cls: type[Prior], latents: LatentSet, changes: dict[str, Any] | None = None, seed: int = 0) -> Prior:
    """Construct a prior for a set of latents and give it their scale; `changes` override its Config's defaults."""
    import copy

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        prior = cls(cls.Config(**(changes or {})), copy.deepcopy(latents.like), latents.classes)
    prior.learn_scale(latents.latents)
    return prior
