"""Sets of latents: what a model made of many signals, for a prior to learn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .archive import header, locate, open
from .batches import Drawer
from .dataset import split_numbers
from .errors import InrError, suggestion
from .generalizable import BoundField, GeneralizableField, Latents, digest
from .spec import Spec

if TYPE_CHECKING:
    from .prior import Prior

SUFFIX = ".safetensors"
CLASSES = ("auto", "folder", "name", "none")


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
        training, rest = split_numbers(len(self), held_out, seed)
        return self.part(training), self.part(rest)


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
        facts = (digest(field.decoder), field.facts(), field.spec.shape,
                 {name: value.shape for name, value in field.latents.items()})
        if first is None:
            like, first = field, facts
        elif facts != first:
            raise InrError(f"{path} has another model, size, windows or tokens than {paths[0]}; a prior learns from "
                           f"signals encoded alike.")
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

    def __len__(self) -> int:
        return len(self.latents)

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
