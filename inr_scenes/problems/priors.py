"""Priors on the unknown, taken at random places of its domain, and the base of the problems that use them."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..derivatives import hessian, jacobian
from ..errors import InrError, suggestion
from ..field import Field
from . import Problem


def total_variation(field: Field, coords: Tensor) -> Tensor:
    """Return the mean length of the Jacobian, a scalar: it favours flat regions with edges common to all channels."""
    return jacobian(field, coords).flatten(-2).norm(dim=-1).mean()


def bending(field: Field, coords: Tensor) -> Tensor:
    """Return the mean Frobenius norm of the Hessian, a scalar: it favours planes with creases."""
    return hessian(field, coords).flatten(-3).norm(dim=-1).mean()


PRIORS: dict[str, Callable[[Field, Tensor], Tensor] | None] = {"none": None, "tv": total_variation, "hessian": bending}


class RegularisedProblem(Problem):
    """Measurements of values, with a prior added to the loss: `weight` times its mean at half as many random points.

    The prior's derivatives are with respect to coordinates in [-1, 1], values in the network's range.
    """

    def __init__(self, spec, values: Tensor, truth=None, *, prior: str = "none", weight: float = 0.0):
        super().__init__(spec, values, truth)
        if prior not in PRIORS:
            raise InrError(f"--prior {prior!r} is not known.{suggestion(prior, PRIORS)} Known: {', '.join(PRIORS)}.")
        if weight < 0:
            raise InrError("--weight must not be negative.")
        self.prior, self.weight = PRIORS[prior] if weight else None, weight

    def coords(self, index: Tensor) -> Tensor:
        """Return the coordinates of measurements `index`: (n, in), or more than one place each."""
        return self.spec.coords(index)

    def sample(self, index: Tensor, generator=None) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Return the coords of measurements, half as many random coords (m, in) for the prior, and values (n, out)."""
        count = len(index) * self.points // 8 + 1
        free = torch.rand(count, self.spec.in_features, generator=generator, device=index.device)
        return (self.coords(index), 2 * free - 1), self.values[index]

    def measure(self, field, query) -> Tensor:
        """Return what the field says the measurements should be, (n, out)."""
        return field(query[0])

    def predict(self, field, query) -> tuple[Tensor, Tensor | float]:
        """Return the measurements (n, out) and the prior's mean over the random points."""
        return self.measure(field, query), self.prior(field, query[1]) if self.prior else 0.0

    def loss(self, predicted, values: Tensor) -> Tensor:
        """Return the mean squared error plus the weighted prior."""
        return super().loss(predicted[0], values) + self.weight * predicted[1]
