"""fit: a generator of steps. Bars, trackers, early stopping and notebooks wrap it as tqdm wraps a range."""

import dataclasses
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .device import PRECISIONS, precision_type, resolve_device, rounded_to, wait
from .errors import InrError, suggestion
from .field import Field
from .guard import CHECK_EVERY, Guard
from .kernels.choice import KERNELS, choose
from .kernels.compiled import Compiled
from .kernels.products import quick
from .kernels.recorded import Graph, Recorded, recordable
from .metrics import reaches
from .optim import OPTIMIZERS, SCHEDULES, Optimizers, forget, rate, settle
from .sampler import Sampler
from .signal import Signal

CHOICES = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "sampling": ("permuted", "uniform", "error"),
           "precision": PRECISIONS, "kernel": KERNELS}


@dataclass(frozen=True)
class FitConfig:
    """How to fit. A fit always ends: after `steps`, after `seconds`, or at the quality named by `until`."""

    steps: int | None = 2000
    """Optimiser steps; none: `seconds` alone ends the fit."""
    seconds: float | None = None
    """Time budget of the fitting itself; evaluation is not counted."""
    until: str | None = None
    """Stop at a quality, as psnr=35 or iou=0.99."""
    optimizer: str = "adam"
    """adam, adamw, muon (hidden matrices, Adam for the rest) or schedule-free."""
    lr: float = 1e-3
    """Peak learning rate."""
    schedule: str = "cosine"
    """cosine (to zero at the end of the budget), exponential (to --final-lr) or constant."""
    final_lr: float = 0.1
    """Share of the learning rate an exponential schedule ends at."""
    warmup: int = 20
    """Steps over which the learning rate rises."""
    weight_decay: float = 0.0
    """Decoupled weight decay (adamw, muon, schedule-free)."""
    batch: int = 16384
    """Measurements per step; 0: all of them."""
    sampling: str = "permuted"
    """permuted (every measurement once per epoch), uniform (with replacement), or error (more often what is wrong)."""
    focus: float = 0.0
    """Share of each batch drawn from the measurements the signal marks as important (surface, foreground)."""
    precision: str = "32"
    """32, bf16 or fp16 autocast, or auto: what the device is quick at. Coordinates and parameters stay in float32."""
    kernel: str = "auto"
    """torch, compile (torch.compile), fused (one kernel for the whole network), or auto: fused where that is sure. On a
    GPU fused and auto also record a step and replay it."""
    clip: float = 0.0
    """Largest gradient norm; 0: no clipping."""
    device: str = "auto"
    """auto (cuda, then mps, then cpu) or a torch device."""
    seed: int = 0
    """Seeds initialisation and sampling."""


@dataclass
class Step:
    """One optimiser step. `metrics` is filled where the fit looked at the field; `state()` is what resuming needs.

    Within `averaged()` the field's weights are those to keep, should the fit end here.
    """

    step: int
    loss: Tensor
    lr: float
    seconds: float
    progress: float
    metrics: dict[str, float] = field(default_factory=dict)
    state: Callable[[], dict[str, Any]] = dict
    averaged: Callable[[], AbstractContextManager] = nullcontext


@dataclass
class Result:
    """A finished fit. seconds: fitting alone; metrics: over the whole signal; history: the probes along the way."""

    field: Field
    steps: int
    seconds: float
    metrics: dict[str, float]
    history: list[dict[str, float]]

    def save(self, path, **options):
        """Write the field's archive; returns its path."""
        from .archive import save
        return save(self.field, path, metrics=self.metrics, fit={"steps": self.steps, "seconds": self.seconds},
                    **options)


def steps(field: Field, signal: Signal, config: FitConfig = FitConfig(), *,
          resume: dict[str, Any] | None = None) -> Iterator[Step]:
    """Fit `field` to `signal`, yielding after every optimiser step; the caller may stop at any time.

    resume: what an earlier step's `state()` returned, to continue to the same result. Raises Diverged when the loss
    becomes NaN or explodes, after putting the last good state back.
    """
    check(config)
    device = resolve_device(config.device)
    field.to(device).train()
    signal.to(device)
    field.condition(signal)
    obstacle = field.kernel_obstacle(device) if config.kernel == "fused" else None
    if obstacle:
        raise InrError(f"--kernel fused is not possible: {obstacle}. Take --kernel auto.")
    computing = Compiled(field).used if config.kernel == "compile" else nullcontext
    recorded = recordable(device) and config.kernel in ("auto", "fused") and config.optimizer != "schedule-free"
    optimizers = Optimizers(field, config.optimizer, config.lr, config.weight_decay, config.warmup, recorded)
    dtype = precision_type(config.precision, device)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    sampler = Sampler(signal, config, device)
    goal = parse_goal(config.until)
    parameters = [p for p in field.parameters() if p.requires_grad]

    def work(parts: Iterable) -> tuple[Tensor, Tensor | None]:
        with choose(config.kernel), computing():
            found = _backward(field, signal, parts, dtype, scaler, device, sampler.by_error)
        settle(optimizers, parameters, scaler, config.clip)
        return found

    take = Recorded(work, lambda: Graph(device), lambda: forget(optimizers, scaler)) if recorded else work
    first, elapsed = 0, 0.0
    if resume:
        with resuming():
            field.load_state_dict(resume["field"])
            optimizers.load_state_dict(resume["optimizers"])
            if sampler.by_error:
                sampler.errors.copy_(resume["errors"])
        scaler.load_state_dict(resume["scaler"])
        first, elapsed = resume["step"], resume["seconds"]
    if ended(config, first, elapsed):               # as a finished run that is resumed: what it had made stays
        optimizers.finish()
        field.eval()
        return
    optimizers.start()
    guard = Guard(field)
    if resume:
        guard.best = resume["best"]
    if goal:
        _reached(goal, signal.probe(field))         # a quality that this signal does not report is refused now
    next_look = max(1.0, elapsed * 1.2)
    step = first
    while True:
        tick = time.perf_counter()
        progress = progress_of(config, step, elapsed)
        lr = config.lr * rate(config.schedule, progress, step, config.warmup, config.final_lr)
        optimizers.set_rate(lr)
        loss, errors = take(field.draw(signal, sampler, step))
        if errors is not None:
            sampler.note(errors)
        step += 1
        last = ended(config, step)
        if step % CHECK_EVERY == 0 or last or step == 1:
            guard.check(loss, step, now=last)
        elapsed += time.perf_counter() - tick
        last = ended(config, step, elapsed)
        if last or elapsed >= next_look:        # what the device still has to do is part of the fitting
            tick = time.perf_counter()
            wait(device)
            guard.settle()
            elapsed += time.perf_counter() - tick
        report = Step(step, loss, lr, elapsed, progress_of(config, step, elapsed))
        if last or elapsed >= next_look:
            next_look = max(elapsed * 1.2, elapsed + 1.0)
            with optimizers.averaged():
                field.eval()
                report.metrics = signal.probe(field)
                if goal and _reached(goal, report.metrics):      # the probe sees a sample: make sure
                    report.metrics = signal.metrics(field)
                    last = last or _reached(goal, report.metrics)
                field.train()
        if last:
            optimizers.finish()
            field.eval()
        report.state = lambda s=step, e=elapsed: {
            "step": s, "seconds": e, "best": guard.best, "field": field.state_dict(),
            "optimizers": optimizers.state_dict(), "scaler": scaler.state_dict(),
            **({"errors": sampler.errors} if sampler.by_error else {})}
        if not last:
            report.averaged = optimizers.averaged
        yield report
        if last:
            return


@contextmanager
def resuming() -> Iterator[None]:
    """Within the block a state that does not fit is one of other settings."""
    try:
        yield
    except (RuntimeError, ValueError, KeyError):
        raise InrError("The state to resume from is that of other settings: give those the run was begun with, "
                       "or none, to take them from its config.toml.") from None


def fit(field: Field, signal: Signal, config: FitConfig | None = None, **changes) -> Result:
    """Fit to the end and measure the field over the whole signal. `changes` override the config, as steps=500.

    Without a config the field's own suggestion for this signal is used.
    """
    if config is None:
        recipe = signal.adapt(field.suggest(signal, "fast"), type(field), "fast")
        config = dataclasses.replace(FitConfig(), **recipe.fit)
    unknown = set(changes) - {f.name for f in dataclasses.fields(FitConfig)}
    if unknown:
        name = min(unknown)
        known = [f.name for f in dataclasses.fields(FitConfig)]
        raise InrError(f"fit has no option {name!r}.{suggestion(name, known)}")
    if "seconds" in changes and "steps" not in changes:
        changes["steps"] = None
    config = dataclasses.replace(config, **changes)
    history, last = [], None
    for last in steps(field, signal, config):
        if last.metrics:
            history.append({"step": last.step, "seconds": last.seconds, **last.metrics})
    field.eval()
    return Result(field, last.step if last else 0, last.seconds if last else 0.0, signal.metrics(field), history)


def check(config: FitConfig) -> None:
    """Raise InrError for settings that cannot work."""
    if config.steps is None and config.seconds is None:
        raise InrError("A fit needs an end: give --steps or --seconds.")
    if (config.steps is not None and config.steps < 0) or (config.seconds is not None and config.seconds <= 0):
        raise InrError("--steps and --seconds must be positive.")
    if config.batch < 0 or config.lr <= 0 or not 0 <= config.focus <= 1 or not 0 < config.final_lr <= 1:
        raise InrError("--batch must be 0 or more, --lr above 0, --focus between 0 and 1, --final-lr above 0 up to 1.")
    check_steps(config)
    resolve_device(config.device)
    for flag, known in CHOICES.items():
        value = getattr(config, flag)
        if value not in known:
            raise InrError(f"--{flag} {value!r} is not known.{suggestion(value, known)} Known: {', '.join(known)}.")
    parse_goal(config.until)


def ended(config, step: int, elapsed: float = 0.0) -> bool:
    """Say whether a fit or a training has had its steps or its seconds."""
    return (config.steps is not None and step >= config.steps) or \
        (config.seconds is not None and elapsed >= config.seconds)


def progress_of(config, step: int, elapsed: float) -> float:
    """Return how much of its steps or its seconds a fit or a training has had, in [0, 1]."""
    by_steps = step / config.steps if config.steps else 0.0
    by_time = elapsed / config.seconds if config.seconds else 0.0
    return min(1.0, max(by_steps, by_time))


def check_steps(config) -> None:
    """Raise InrError for what fits and trainings ask of a step that cannot be."""
    if min(config.warmup, config.clip, config.weight_decay) < 0:
        raise InrError("--warmup, --clip and --weight-decay must be 0 or more.")


def parse_goal(until: str | None) -> tuple[str, float] | None:
    """Return (metric, value) of a goal written psnr=35."""
    if until is None:
        return None
    match = re.fullmatch(r"(\w+)=([-+.\deE]+)", until)
    try:
        return match[1], float(match[2])
    except (TypeError, ValueError):
        raise InrError(f"--until {until!r} is not understood: write metric=value, as psnr=35.") from None


def _backward(field: Field, signal: Signal, parts: Iterable, dtype, scaler, device: torch.device,
              noted: bool) -> tuple[Tensor, Tensor | None]:
    """Accumulate the gradients of a step's parts, drawn one by one; return the loss, not waited for.

    noted: return the squared error of each measurement too.
    """
    total, errors = None, []
    for query, values, share in parts:
        with rounded_to(dtype, device), quick(device):
            predicted = signal.predict(field, query)
        loss = signal.loss(predicted, values) * share
        scaler.scale(loss).backward()
        total = loss.detach() if total is None else total + loss.detach()
        if noted:
            errors.append(_squared(predicted, values))
    penalty = field.penalty()
    if isinstance(penalty, Tensor):
        scaler.scale(penalty).backward()
        total = total + penalty.detach()
    return total, torch.cat(errors) if noted else None


def _squared(predicted, values) -> Tensor:
    """Return the squared error (n,) of each measurement."""
    if not isinstance(values, Tensor) or getattr(predicted, "shape", None) != values.shape:
        raise InrError("--sampling error needs measurements that are plain values. Take --sampling permuted.")
    return (predicted.detach().float() - values).square().flatten(1).mean(-1)


def _reached(goal: tuple[str, float], metrics: dict[str, float]) -> bool:
    name, value = goal
    if name not in metrics:
        raise InrError(f"--until {name}=…: this signal reports {', '.join(sorted(metrics))}.")
    return reaches(name, metrics[name], value)
