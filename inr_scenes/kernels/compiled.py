"""torch.compile for a field while it is fitted, with a self-check on first use and plain torch to fall back on."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..errors import SetAside

TOLERANCE = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}


class Compiled:
    """A field's forward, compiled.

    It serves where gradients of weights are recorded. What wants derivatives by coordinates stays plain, for compiled
    code has no second ones, and so does evaluation. The first call is computed both ways; where compiling fails or the
    results differ, plain torch goes on, with one line.
    """

    def __init__(self, field: nn.Module):
        self.field, self.plain = field, field.forward
        self.quick = torch.compile(self.plain)
        self.proved, self.aside = False, ""

    @contextmanager
    def used(self) -> Iterator[None]:
        """Within the block the field computes by this."""
        if self.aside:
            yield
            return
        self.field.forward = self.forward
        try:
            yield
        finally:
            del self.field.forward

    def forward(self, x):
        """Compute the field's values."""
        if self.aside or not torch.is_grad_enabled() or getattr(x, "requires_grad", False):
            return self.plain(x)
        if not self.proved:
            try:
                _compare(self.field, self.quick(x), self.plain(x))
                self.proved = True
            except Exception as error:          # whatever a compiler raises
                reason = next(iter(str(error).strip().splitlines()), "")
                self.aside = f"{type(error).__name__}: {reason}"[:200]
                warnings.warn(f"torch.compile is set aside, plain torch goes on: {self.aside}", SetAside, stacklevel=2)
                return self.plain(x)
        return self.quick(x)


def _compare(field: nn.Module, mine: torch.Tensor, true: torch.Tensor) -> None:
    """Raise unless two results and the gradients of their mean square agree; the backward is compiled here too."""
    parameters = [p for p in field.parameters() if p.requires_grad]
    found, wanted = ([*torch.autograd.grad(y.float().square().mean(), parameters, allow_unused=True), y.detach()]
                     for y in (mine, true))
    for a, b in zip(found, wanted):
        if a is None and b is None:
            continue
        error = float((a - b).float().norm() / b.float().norm().clamp_min(1e-12))
        half = torch.get_autocast_dtype(mine.device.type) if torch.is_autocast_enabled(mine.device.type) else a.dtype
        if not error <= TOLERANCE.get(half, 1e-3):
            raise RuntimeError(f"its results differ from plain torch's by {error:.1e}")
