"""Priors: networks that learn how the latents of encoded signals are distributed, and draw new ones."""

import copy
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from .errors import InrError, suggestion
from .field import Recipe, configured
from .generalizable import BoundField, Latents, SetModel
from .latents import LatentBatch, LatentSet
from .settings import to_dict

AT_ONCE = 32                        # signals drawn together


class Prior(SetModel):
    """A distribution over the latents of a model's signals, with the decoder that makes fields of them.

    A subclass gives `name`, `Config`, `loss` and `draw`. like: an encoded signal, whose decoder and domain drawn ones
    share; its latents' values do not matter. classes: names of the classes, empty when there are none.
    """

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
        return {**self.like.facts(), "role": self.role, "prior": {
            "model": self.like.name, "config": to_dict(self.like.config), "classes": list(self.classes)}}

    @classmethod
    def suggest(cls, latents: LatentSet, preset: str) -> Recipe:
        """Return settings for a set of latents: changes to Config and to TrainConfig."""
        return Recipe()

    def stored(self, *_, **__) -> Tensor:
        """Refuse: a prior is no field before a signal has been drawn."""
        raise InrError(f"This is a {self.name} prior over signals, not one signal. Draw some: "
                       f"inr sample ARCHIVE -n 4 -o OUT")

    crop = extend = joined = rows_at_once = stored      # nor is there anything to keep, to add or to look at


def build_prior(cls: type[Prior], latents: LatentSet, changes: dict[str, Any] | None = None, seed: int = 0) -> Prior:
    """Construct a prior for a set of latents and give it their scale; `changes` override its Config's defaults."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        prior = cls(configured(cls, changes), copy.deepcopy(latents.like), latents.classes)
    prior.learn_scale(latents.latents)
    return prior
