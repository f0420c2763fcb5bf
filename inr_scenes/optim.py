"""Optimisers by name, learning-rate schedules, and the split of parameters between Muon and Adam."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from .errors import InrError, need, suggestion
from .muon import Muon

OPTIMIZERS = ("adam", "adamw", "muon", "schedule-free")
SHORT, NARROW = 16, 8               # least side of matrices that Muon takes; of stacked ones, whose networks are narrow
SCHEDULES = ("cosine", "constant", "exponential")


class Optimizers:
    """One or two torch optimisers driven as one: Muon takes the hidden matrices, Adam the rest.

    recorded: keep learning rates in tensors on the device, so that a recorded step follows them (not schedule-free's).
    """

    def __init__(self, module: nn.Module, name: str, lr: float, weight_decay: float, warmup: int,
                 recorded: bool = False):
        matrices, rest = split_parameters(module)
        factors = getattr(module, "rates", dict)()
        self.schedule_free, self.recorded = name == "schedule-free", recorded
        # one pass, not one a tensor
        fused = {"fused": all(p.device.type in ("cpu", "cuda", "mps") for p in matrices + rest), "capturable": recorded}
        if name == "adam":
            made = [torch.optim.Adam(_groups(matrices + rest, factors, lr), **fused)]
        elif name == "adamw":
            made = [torch.optim.AdamW(_groups(matrices + rest, factors, lr), weight_decay=weight_decay, **fused)]
        elif name == "muon":
            made = [torch.optim.Adam(_groups(rest, factors, lr), **fused)] if rest else []
            if matrices:
                made.append(Muon(_groups(matrices, factors, lr), weight_decay=weight_decay))
        elif name == "schedule-free":
            AdamWScheduleFree = need("schedulefree").AdamWScheduleFree
            made = [AdamWScheduleFree(_groups(matrices + rest, factors, lr), weight_decay=weight_decay,
                                      warmup_steps=warmup)]
        else:
            raise InrError(f"There is no optimizer {name!r}.{suggestion(name, OPTIMIZERS)} "
                           f"Known: {', '.join(OPTIMIZERS)}.")
        self.made = made
        self._hold_rates()

    def _hold_rates(self) -> None:
        """Keep learning rates where a recorded step looks for them."""
        for optimizer in self.made if self.recorded else ():
            optimizer._warned_capturable_if_run_uncaptured = True       # some steps are not recorded
            for group in optimizer.param_groups:
                group["capturable"] = True
                group["lr"] = torch.tensor(group["lr"], dtype=torch.float32, device=group["params"][0].device)

    def start(self) -> None:
        """Make the parameters those that training goes on from: a run that ended left the average in their place."""
        if self.schedule_free:
            self.made[0].train()

    def set_rate(self, lr: float) -> None:
        """Set the learning rate of the steps to come."""
        if self.schedule_free:                  # has a schedule of its own
            return
        for optimizer in self.made:
            for group in optimizer.param_groups:
                value = lr * group.get("factor", 1.0)
                if self.recorded:
                    group["lr"].fill_(value)
                else:
                    group["lr"] = value

    def step(self) -> None:
        """Take one step and clear the gradients."""
        for optimizer in self.made:
            optimizer.step()
        self.clear()

    def clear(self) -> None:
        """Let go of all gradients."""
        for optimizer in self.made:
            optimizer.zero_grad(set_to_none=True)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block the parameters are those to evaluate: schedule-free's average, else the current ones.

        The training parameters are put back exactly, so that looking at a fit does not change it.
        """
        if not self.schedule_free:
            yield
            return
        parameters = [p for group in self.made[0].param_groups for p in group["params"]]
        saved = [p.detach().clone() for p in parameters]
        self.made[0].eval()
        try:
            yield
        finally:
            self.made[0].train()
            with torch.no_grad():
                for p, value in zip(parameters, saved):
                    p.copy_(value)

    def finish(self) -> None:
        """Leave the parameters as they are to be kept."""
        if self.schedule_free:
            self.made[0].eval()

    def state_dict(self) -> list[dict]:
        """Return what a resumed fit needs."""
        states = [optimizer.state_dict() for optimizer in self.made]
        for state in states if self.recorded else ():
            for group in state["param_groups"]:
                group |= {"lr": float(group["lr"]), "capturable": False}
        return states

    def load_state_dict(self, states: list[dict]) -> None:
        """Restore what `state_dict` returned, on whatever device that was."""
        for optimizer, state in zip(self.made, states, strict=True):
            optimizer.load_state_dict(state)
        self._hold_rates()


def settle(optimizers: Optimizers, parameters: list[nn.Parameter], scaler: torch.amp.GradScaler, clip: float) -> None:
    """Take a step on gradients that a scaler enlarged, unscaled and clipped to a norm; clip 0: not clipped.

    Half precision that overflowed skips the step and halves the scale. On an accelerator the skipped step is one with
    gradients of zero, which nobody has to wait for.
    """
    if clip or scaler.is_enabled():
        for optimizer in optimizers.made:
            scaler.unscale_(optimizer)
    if clip:
        torch.nn.utils.clip_grad_norm_(parameters, clip)
    if scaler.is_enabled():
        found = [flag for optimizer in optimizers.made for flag in scaler._found_inf_per_device(optimizer).values()]
        overflow = torch.stack(found).sum() > 0
        for p in parameters:
            if p.grad is not None and overflow.device.type != "cpu":
                p.grad.masked_fill_(overflow, 0.0)
        if overflow.device.type == "cpu" and overflow:
            optimizers.clear()
            scaler.update()
            return
    optimizers.step()
    if scaler.is_enabled():
        scaler.update()


def forget(optimizers: Optimizers, scaler: torch.amp.GradScaler) -> None:
    """Drop what a step that was broken off has left: gradients, and which of them were unscaled."""
    optimizers.clear()
    getattr(scaler, "_per_optimizer_states", {}).clear()         # a scaler that is off has none


def _groups(parameters: list[nn.Parameter], factors: dict[nn.Parameter, float], lr: float) -> list[dict]:
    """Return the parameters in groups of one factor on the learning rate each."""
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(factors.get(parameter, 1.0), []).append(parameter)
    return [{"params": group, "lr": lr * factor, "factor": factor} for factor, group in groups.items()]


def split_parameters(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Split trainable parameters into hidden matrices, of one network or as stacked weights of many, and the rest.

    Coordinate layers and gates have a side that is too short, outputs too or they are called so: they stay with the
    rest, as Muon's authors advise for first and last layers. So do biases and tokens, whatever shape they have.
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    matrices = [p for name, p in named if _is_matrix(name, p)]
    chosen = {id(p) for p in matrices}
    return matrices, [p for _, p in named if id(p) not in chosen]


def _is_matrix(name: str, p: nn.Parameter) -> bool:
    if name.startswith("output"):
        return False
    if p.ndim == 3:
        return name.endswith("weight") and min(p.shape[1:]) >= NARROW
    return p.ndim == 2 and min(p.shape) >= SHORT and not name.endswith("bias")


def rate(schedule: str, progress: float, step: int, warmup: int, final: float = 0.1) -> float:
    """Return the factor on the learning rate at `progress` in [0, 1] of the fit; "exponential" ends at `final`."""
    ramp = min(1.0, (step + 1) / (warmup + 1))
    if schedule == "constant":
        return ramp
    if schedule == "exponential":
        return ramp * final ** min(1.0, progress)
    return ramp * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
