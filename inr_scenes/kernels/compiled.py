"""torch.compile for what is fitted or trained, with a self-check on first use and plain torch to fall back on."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ..errors import SetAside
from .choice import product_type

TOLERANCE = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}


class Compiled:
    """A module's forward, compiled.

    It serves where gradients of weights are recorded; evaluation stays plain. The first call is computed both ways;
    where compiling fails or the results differ, plain torch goes on, with one line. coordinates: the first argument is
    one of coordinates, and what wants derivatives by them stays plain too, for compiled code has no second ones.
    """

    def __init__(self, module: nn.Module, coordinates: bool = True):
        self.module, self.plain, self.coordinates = module, module.forward, coordinates
        self.quick = torch.compile(self.plain)
        self.proved, self.aside = False, ""

    @contextmanager
    def used(self) -> Iterator[None]:
        """Within the block the module computes by this."""
        if self.aside:
            yield
            return
        self.module.forward = self.forward
        try:
            yield
        finally:
            del self.module.forward

    def forward(self, x, *others, **named):
        """Compute what the module does."""
        derived = self.coordinates and getattr(x, "requires_grad", False)
        if self.aside or not torch.is_grad_enabled() or derived:
            return self.plain(x, *others, **named)
        if not self.proved:
            given, by_name = pytree.tree_map_only(torch.Tensor, lambda t: t.detach().requires_grad_(t.requires_grad),
                                                  ((x, *others), named))
            leaves = [t for t in (*self.module.parameters(), *pytree.tree_leaves((given, by_name)))
                      if isinstance(t, torch.Tensor) and t.requires_grad]
            try:
                _compare(leaves, self.quick(*given, **by_name), self.plain(*given, **by_name))
                self.proved = True
            except Exception as error:          # whatever a compiler raises
                reason = next(iter(str(error).strip().splitlines()), "")
                self.aside = f"{type(error).__name__}: {reason}"[:200]
                warnings.warn(f"torch.compile is set aside, plain torch goes on: {self.aside}", SetAside, stacklevel=2)
                return self.plain(x, *others, **named)
        return self.quick(x, *others, **named)


def _compare(leaves: list[torch.Tensor], mine: torch.Tensor, true: torch.Tensor) -> None:
    """Raise unless two results and the gradients of their mean square agree; the backward is compiled here too.

    leaves: what gradients are wanted by, weights or what a network is handed.
    """
    found, wanted = ([*torch.autograd.grad(y.float().square().mean(), leaves, allow_unused=True), y.detach()]
                     for y in (mine, true))
    for a, b in zip(found, wanted):
        if a is None and b is None:
            continue
        error = float((a - b).float().norm() / b.float().norm().clamp_min(1e-12))
        if not error <= TOLERANCE.get(product_type(a), 1e-3):
            raise RuntimeError(f"its results differ from plain torch's by {error:.1e}")
