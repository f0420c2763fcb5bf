"""Train a generalizable field on a set of signals: a generator of steps, as `fit` is for one signal."""

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .batches import Drawer
from .dataset import Subset
from .device import PRECISIONS, precision_type, resolve_device, rounded_to
from .errors import InrError, suggestion
from .fit import Step, check_steps, ended, parse_goal, progress_of, resuming
from .generalizable import GeneralizableField
from .guard import CHECK_EVERY, Diverged
from .kernels.choice import choose
from .kernels.compiled import Compiled
from .kernels.products import quick
from .metrics import reaches
from .optim import SCHEDULES, Optimizers, rate, settle
from .validation import Validation

KERNELS = ("auto", "torch", "compile")


@dataclass(frozen=True)
class TrainConfig:
    """How to train. A training ends after `steps`, after `seconds`, or at the held-out quality named by `until`."""

    steps: int | None = 2000
    """Optimiser steps; none: `seconds` alone ends the training."""
    seconds: float | None = None
    """Time budget of the training itself; validation is not counted."""
    until: str | None = None
    """Stop at a held-out quality, as psnr=30."""
    optimizer: str = "adam"
    """adam, adamw, muon (hidden matrices, Adam for the rest) or schedule-free."""
    lr: float = 1e-3
    """Peak learning rate."""
    schedule: str = "cosine"
    """cosine (to zero at the end of the budget), exponential or constant."""
    warmup: int = 100
    """Steps over which the learning rate rises."""
    weight_decay: float = 0.0
    """Decoupled weight decay (adamw, muon, schedule-free)."""
    batch: int = 16
    """Signals per step, over all devices."""
    accumulate: int = 1
    """Parts in which a step's signals are passed through, one after the other, to save memory."""
    points: float = 2048
    """Coordinates per signal and step: a number, a share below 1, or 0 for all."""
    crop: tuple[int, ...] = ()
    """Train on random parts of this size, in samples along each axis, that the model then encodes one by one."""
    zoom: float = 1.0
    """Parts span up to so many times --crop of a signal, and are averaged down to it."""
    augment: bool = False
    """Images: also mirror them at random, and move brightness, contrast and colours a little. Light fields: turn them
    about the vertical axis and mirror them at random, so that a model learns no particular cameras."""
    views: tuple[int, int] = (1, 5)
    """Light fields: least and greatest number of support views, drawn anew for every step."""
    ema: float = 0.999
    """Decay of the average of weights that is validated and kept; 0: the last weights."""
    precision: str = "32"
    """32, bf16 or fp16 autocast, or auto: what the device is quick at; parameters and features stay in float32."""
    kernel: str = "auto"
    """torch, compile (torch.compile for transformer blocks and the decoder), or auto: torch, with oneDNN's products on
    a CPU."""
    clip: float = 1.0
    """Largest gradient norm; 0: no clipping."""
    validate_every: int = 0
    """Steps between looks at the held-out signals; 0: at times that grow by a fifth."""
    device: str = "auto"
    """auto (cuda, then mps, then cpu) or a torch device."""
    seed: int = 0
    """Seeds initialisation, the held-out choice and sampling."""


def train_steps(field: GeneralizableField, dataset: Subset, config: TrainConfig = TrainConfig(), *,
                validation: Validation | None = None, resume: dict[str, Any] | None = None,
                fabric=None, drawer: type[Drawer] = Drawer) -> Iterator[Step]:
    """Train `field` on a set, yielding after every optimiser step; the caller may stop at any time.

    Batches are a function of the seed and the step, so a resumed training (resume: an earlier step's `state()`) goes on
    to the same result. fabric: a launched Lightning Fabric; each of its processes takes its share of every batch.
    drawer: what draws the batches of a set that is not one of signals. At the end the field holds the average of its
    weights, if one was asked for.
    """
    check(config)
    if not len(dataset):
        raise InrError("There is no signal to train on.")
    device = fabric.device if fabric else resolve_device(config.device)
    rank, world = (fabric.global_rank, fabric.world_size) if fabric else (0, 1)
    field.enrol(len(dataset))
    field.to(device).train()
    optimizers = Optimizers(field, config.optimizer, config.lr, config.weight_decay, config.warmup)
    dtype = precision_type(config.precision, device)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    objective = _Objective(field, config.kernel)
    if fabric:
        objective = fabric.setup_module(objective)
    draw = drawer(dataset, config, device, rank, world)
    average = _Average(field, config.ema)
    parameters = [p for p in field.parameters() if p.requires_grad]
    goal = parse_goal(config.until)
    if goal and not validation:
        raise InrError(f"--until {config.until} is a quality on held-out signals: hold some out with --validation.")
    step, elapsed = 0, 0.0
    if resume:
        with resuming():
            field.load_state_dict(resume["field"])
            average.load(resume["average"])
            optimizers.load_state_dict(resume["optimizers"])
        scaler.load_state_dict(resume["scaler"])
        step, elapsed = resume["step"], resume["seconds"]
    if ended(config, step, elapsed):                        # as a finished run that is resumed: what it had made stays
        optimizers.finish()
        average.finish()
        field.eval()
        return
    optimizers.start()
    next_look = max(2.0, elapsed * 1.2)
    with ThreadPoolExecutor(1) as ahead:                    # the next batch is read while this one is computed
        waiting = ahead.submit(draw, step)
        while True:
            tick = time.perf_counter()
            parts = waiting.result()
            waiting = ahead.submit(draw, step + 1)
            lr = config.lr * rate(config.schedule, progress_of(config, step, elapsed), step, config.warmup)
            loss = torch.zeros((), device=device)
            for i, part in enumerate(parts):
                together = not fabric or i == len(parts) - 1
                with nullcontext() if together else fabric.no_backward_sync(objective):
                    with choose(config.kernel), rounded_to(dtype, device), quick(device), \
                            torch.random.fork_rng(devices=[]):
                        torch.manual_seed(config.seed * 1_000_003 + step)       # for encoders that draw what they see
                        value = objective(part) / len(parts)
                    (fabric.backward if fabric else torch.Tensor.backward)(scaler.scale(value))
                loss += value.detach()
            optimizers.set_rate(lr)
            settle(optimizers, parameters, scaler, config.clip)
            average.update(step)
            step += 1
            last = ended(config, step)
            if fabric:
                loss = fabric.all_reduce(loss, reduce_op="mean")
            if (step % CHECK_EVERY == 0 or last) and not math.isfinite(loss.item()):
                average.restore()
                raise Diverged(f"The training diverged: the loss is not a number at step {step}; the last good weights "
                               f"were kept. Lower --lr or --clip, or take --precision 32.")
            if step % CHECK_EVERY == 0:
                average.keep()
            elapsed += time.perf_counter() - tick
            # every process must stop at the same step: the first one's clock decides
            elapsed = fabric.broadcast(elapsed) if fabric and config.seconds is not None else elapsed
            last = ended(config, step, elapsed)
            report = Step(step, loss, lr, elapsed, progress_of(config, step, elapsed))
            due = step % config.validate_every == 0 if config.validate_every else elapsed >= next_look
            if validation and (due or last) and rank == 0:
                next_look = max(elapsed * 1.2, elapsed + 2.0)
                with optimizers.averaged(), average.shown():
                    field.eval()
                    report.metrics = validation.metrics(field)
                    field.train()
            if goal and _reached(goal, report.metrics, fabric):
                last = True
            if not last:
                report.averaged = lambda: _both(optimizers.averaged(), average.shown())
            report.state = lambda s=step, e=elapsed: {
                "step": s, "seconds": e, "field": average.training(), "average": average.state(),
                "optimizers": optimizers.state_dict(), "scaler": scaler.state_dict()}
            if last:
                optimizers.finish()
                average.finish()
                field.eval()
            yield report
            if last:
                return


@contextmanager
def _both(first: AbstractContextManager, second: AbstractContextManager) -> Iterator[None]:
    with first, second:
        yield


def check(config: TrainConfig) -> None:
    """Raise InrError for settings that cannot work."""
    if config.steps is None and config.seconds is None:
        raise InrError("A training needs an end: give --steps or --seconds.")
    if (config.steps is not None and config.steps < 0) or (config.seconds is not None and config.seconds <= 0):
        raise InrError("--steps and --seconds must be positive.")
    if config.batch < 1 or config.lr <= 0 or config.accumulate < 1 or config.points < 0 or not 0 <= config.ema < 1:
        raise InrError("--batch and --accumulate must be at least 1, --lr above 0, --points at least 0, --ema below 1.")
    check_steps(config)
    if not 1 <= config.zoom < math.inf or min(config.crop, default=1) < 1 or (config.zoom > 1 and not config.crop):
        raise InrError("--crop takes sizes of at least 1 sample, and --zoom, of at least 1, goes with it.")
    if not 1 <= config.views[0] <= config.views[1]:
        raise InrError("--views takes a least and a greatest number of support views, at least 1.")
    for value, known, flag in ((config.precision, PRECISIONS, "precision"), (config.schedule, SCHEDULES, "schedule"),
                               (config.kernel, KERNELS, "kernel")):
        if value not in known:
            raise InrError(f"--{flag} {value!r} is not known.{suggestion(value, known)} Known: {', '.join(known)}.")
    parse_goal(config.until)


class _Objective(nn.Module):
    """The loss of a batch as a module, whose forward is what distributed training wraps."""

    def __init__(self, field: GeneralizableField, kernel: str):
        super().__init__()
        self.field = field
        parts = field.compilable() if kernel == "compile" else []
        self.compiled = [Compiled(part, coordinates=False) for part in parts]

    def forward(self, batch) -> Tensor:
        with ExitStack() as stack:
            for part in self.compiled:
                stack.enter_context(part.used())
            return self.field.loss(batch)


class _Average:
    """The exponential moving average of a field's weights, its start not held back by the random first ones.

    Decay 0: none is taken, and the weights themselves are what is kept.
    """

    def __init__(self, field: nn.Module, decay: float):
        self.field, self.decay = field, decay
        self.values = [p.detach().clone() for p in field.parameters()] if decay else []
        self.good = self.candidate = self._copy()
        self.raw: dict[str, Tensor] | None = None

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step."""
        if self.decay:
            weight = 1 - min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.values, list(self.field.parameters()), weight)

    def _copy(self) -> list[Tensor]:
        return [value.detach().clone() for value in self.values or self.field.parameters()]

    def keep(self) -> None:
        """Remember what a finite loss was seen after as good: not what its own step then made of it."""
        self.good, self.candidate = self.candidate, self._copy()

    def restore(self) -> None:
        """Give the field the last good weights."""
        self._put(self.good)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Within the block the field holds the average."""
        if not self.decay:
            yield
            return
        saved = [p.detach().clone() for p in self.field.parameters()]
        self._put(self.values)
        try:
            yield
        finally:
            self._put(saved)

    def finish(self) -> None:
        """Leave the average in the field; the training weights stay at hand for `training`."""
        if self.decay:
            self.raw = {name: value.detach().clone() for name, value in self.field.state_dict().items()}
            self._put(self.values)

    def training(self) -> dict[str, Tensor]:
        """Return the weights that training goes on from."""
        return self.raw if self.raw is not None else self.field.state_dict()

    def state(self) -> list[Tensor]:
        """Return what a resumed training needs."""
        return self.values

    def load(self, values: list[Tensor]) -> None:
        """Restore what `state` returned."""
        for mine, value in zip(self.values, values, strict=True):
            mine.copy_(value)
        self.good = self.candidate = self._copy()

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        for p, value in zip(self.field.parameters(), values):
            p.copy_(value)


def _reached(goal: tuple[str, float], metrics: dict[str, float], fabric) -> bool:
    name, value = goal
    if metrics and name not in metrics:
        raise InrError(f"--until {name}=…: a training reports {', '.join(sorted(metrics))}.")
    reached = name in metrics and reaches(name, metrics[name], value)
    return fabric.broadcast(reached) if fabric else reached
