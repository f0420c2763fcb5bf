"""Priors on the unknown, taken at random places of its domain, and the base of the problems that use them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..derivatives import hessian, jacobian
from ..errors import InrError, suggestion
from ..field import Field
from ..signal import Signal
from ..spec import Spec
from . import Problem


def total_variation(field: Field, coords: Tensor) -> Tensor:
    """Return the mean length of the Jacobian, a scalar: it favours flat regions with edges common to all channels."""
    return jacobian(field, coords).flatten(-2).norm(dim=-1).mean()


def bending(field: Field, coords: Tensor) -> Tensor:
    """Return the mean Frobenius norm of the Hessian, a scalar: it favours planes with creases."""
    return hessian(field, coords).flatten(-3).norm(dim=-1).mean()


PRIORS: dict[str, Callable[[Field, Tensor], Tensor] | None] = {"none": None, "tv": total_variation, "hessian": bending}
# of derivatives by samples, for photographs in [0, 1], with the order of the derivatives
WEIGHTS = {"none": (0.0, 0), "tv": (0.05, 1), "hessian": (0.035, 2)}

PLACES = 64                         # at least, at which a prior is taken in a step


@dataclass(frozen=True)
class PriorOptions:
    """What is held of the values that were not measured."""

    prior: str = "tv"
    """tv (total variation), hessian (Frobenius norm of the Hessian) or none."""
    weight: float | None = None
    """Weight of the prior; default: 0.05 pixels for tv, 0.035 square pixels for hessian, a picture being 2 wide: 1.5e-4
    and 3.5e-7 at 512 × 768."""


def default_weight(prior: str, spec: Spec) -> float:
    """Return the weight at which a prior smooths over as many samples, however many there are."""
    weight, order = WEIGHTS[prior]
    return weight * (sum(axis.step for axis in spec.axes) / len(spec.axes)) ** order


class RegularisedProblem(Problem):
    """Measurements of values, with a prior added to the loss: `weight` times its mean at random places.

    The prior's derivatives are with respect to coordinates in [-1, 1], values in the network's range.
    """

    def __init__(self, spec: Spec, values: Tensor, truth: Signal | None, options: PriorOptions):
        super().__init__(spec, values, truth)
        prior, weight = options.prior, options.weight
        if prior not in PRIORS:
            raise InrError(f"--prior {prior!r} is not known.{suggestion(prior, PRIORS)} Known: {', '.join(PRIORS)}.")
        self.weight = default_weight(prior, spec) if weight is None else weight
        if self.weight < 0:
            raise InrError("--weight must not be negative.")
        self.prior = PRIORS[prior] if self.weight else None

    def coords(self, index: Tensor) -> Tensor:
        """Return the coordinates of measurements `index`: (n, in), or more than one place each."""
        return self.spec.coords(index)

    def sample(self, index: Tensor, generator=None) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Return the coords of measurements, random coords (m, in) for the prior, and values (n, out).

        A 24th as many random places as field evaluations, so that derivatives do not cost more than these, but PLACES.
        """
        count = max(PLACES, len(index) * self.points // 24)
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
