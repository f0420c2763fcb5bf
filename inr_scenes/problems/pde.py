"""Differential equations without any signal: the Helmholtz and the wave equation in two dimensions."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..derivatives import hessian, jacobian, value_and_jacobian
from ..errors import InrError
from ..field import Field, Recipe
from ..spec import Axis, Spec, ValueMap
from . import Problem, changed

GRID = 128                          # samples along each axis at which solutions are shown and measured
COLLOCATION = 230**2                # points that make an epoch, as published


class Equation(Problem):
    """An equation that a field fulfils: its residual at random points of the domain is what is fitted, to zero.

    A subclass gives `predict`, the residuals, and `solution`, the closed form the field is measured against.
    """

    kinds = frozenset()
    main_metric = "relative_error"

    def __init__(self, spec: Spec):
        super().__init__(spec, torch.zeros(COLLOCATION, 1))

    def regrid(self, grid: str) -> "Equation":
        """Keep the grid: points are drawn anywhere."""
        return self

    def array(self) -> Tensor:
        """Return an empty list of measurements, (0, out)."""
        return torch.zeros(0, self.spec.out_features)

    def solution(self) -> tuple[Tensor, Tensor]:
        """Return the closed form at the spec's samples, (size, out) in stored units, and where it holds (size,)."""
        raise NotImplementedError(f"{type(self).__name__} must implement solution")

    def metrics(self, field) -> dict[str, float]:
        """relative_error: the distance to the closed form where that holds, as a share of its norm."""
        truth, valid = self.solution()
        found = field.stored_at(self.spec.coords(valid.nonzero()[:, 0]))
        error = (found - truth[valid]).norm() / truth[valid].norm()
        return {"relative_error": error.item()}

    def probe(self, field, samples: int = 1 << 16) -> dict[str, float]:
        """The same."""
        return self.metrics(field)

    def pictures(self, field) -> list[tuple[np.ndarray, np.ndarray]]:
        """No pictures."""
        return []


class Helmholtz(Equation):
    """Waves of one frequency around a source in the middle: ∇²u + k²u = source on [-1, 1]², u complex.

    A perfectly matched layer along the border lets waves out. Values are the real and the imaginary part. Outside the
    source the closed form is that of a point, i/4 H₀⁽²⁾(k r), damped by the source's width.
    """

    name = "helmholtz"

    @dataclass(frozen=True)
    class Options:
        """The medium and the source; the defaults are SIREN's."""

        wavenumber: float = 20.0
        """k: radians per unit of coordinate."""
        source_width: float = 0.01
        """Standard deviation of the Gaussian source."""
        layer: float = 0.5
        """Width of the matched layer along every side."""
        damping: float = 5.0
        """Strength of the matched layer."""

    def __init__(self, options: Options):
        if options.wavenumber <= 0 or options.source_width <= 0 or not 0 < options.layer < 1 or options.damping <= 0:
            raise InrError("--wavenumber, --source-width and --damping must be above 0, --layer between 0 and 1.")
        axes = (Axis.regular(GRID), Axis.regular(GRID))
        super().__init__(Spec("image", axes, 2, 2, ValueMap(0.25, 0.0), meta={"equation": "helmholtz"}))
        self.options = options

    @classmethod
    def simulate(cls, signal, options: Options) -> "Helmholtz":
        """State the equation."""
        return cls(options)

    def sample(self, index: Tensor, generator=None) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Return random coords (n, 2) of the domain and (n / 16, 2) around the source, and zeros."""
        draw = {"generator": generator, "device": index.device}
        near = torch.randn(len(index) // 16 + 1, 2, **draw) * (2 * self.options.source_width)
        return (torch.rand(len(index), 2, **draw) * 2 - 1, near.clamp(-1, 1)), self.values[index]

    def predict(self, field, query) -> tuple[Tensor, Tensor]:
        """Return the residuals in the domain and around the source, complex, as shares of k² u."""
        residual = self.residual(lambda x: field(x) * self.spec.values.scale, torch.cat(query))
        residual = residual / (self.options.wavenumber**2 * self.spec.values.scale)
        return residual.split([len(part) for part in query])

    def loss(self, predicted, values: Tensor) -> Tensor:
        """Return the mean squares of the residuals, those around the source weighted by 0.3.

        The publication takes absolute values; squares come nearer to the solution in a short fit.
        """
        everywhere, near = (torch.view_as_real(part).square().mean() for part in predicted)
        return everywhere + 0.3 * near

    def residual(self, function, coords: Tensor) -> Tensor:
        """Return ∇·(A ∇u) + B k² u − source, complex (n,), of a function from coords (n, 2) to real and imaginary part.

        The layer stretches coordinates into the complex plane: A and B are 1 outside it.
        """
        k = self.options.wavenumber
        stretch_y, stretch_x = self._stretch(coords).unbind(-1)

        def flux(x: Tensor) -> Tensor:
            rows = torch.view_as_complex(jacobian(function, x).mT.contiguous())     # (n, 2): ∂u/∂y, ∂u/∂x
            e_y, e_x = self._stretch(x).unbind(-1)
            return torch.view_as_real(rows * torch.stack([e_x / e_y, e_y / e_x], -1)).flatten(-2)

        rows = jacobian(flux, coords)                   # (n, 4, 2): real and imaginary part of both components
        spread = torch.complex(rows[:, 0, 0] + rows[:, 2, 1], rows[:, 1, 0] + rows[:, 3, 1])
        value = torch.view_as_complex(function(coords).float().contiguous())
        return spread + stretch_y * stretch_x * k**2 * value - self.source(coords)

    def source(self, coords: Tensor) -> Tensor:
        """Return the source (n,): a Gaussian of unit mass."""
        variance = self.options.source_width**2
        return torch.exp(-coords.square().sum(-1) / (2 * variance)) / (2 * math.pi * variance)

    def solution(self) -> tuple[Tensor, Tensor]:
        """Return the closed form in front of the layer and away from the source."""
        from scipy.special import hankel2

        coords = self.spec.coords(torch.arange(self.spec.size)).double()
        radius, k = coords.norm(dim=-1), self.options.wavenumber
        wave = 0.25j * hankel2(0, k * radius.numpy()) * math.exp(-(k * self.options.source_width)**2 / 2)
        valid = (coords.abs().amax(-1) < 1 - self.options.layer) & (radius > 4 * self.options.source_width)
        return torch.from_numpy(np.stack([wave.real, wave.imag], -1)).float(), valid

    def adapt(self, recipe: Recipe, field: type[Field], preset: str) -> Recipe:
        """Published: 50,000 steps of all points at 2e-5. Fast: fewer points at a higher rate that falls."""
        if preset == "published":
            return changed(recipe, field, steps=50_000, lr=2e-5, batch=0, schedule="constant")
        config = {"first_omega_0": 10.0, "omega_0": 10.0}
        return changed(recipe, field, config=config, steps=3000, lr=3e-3, batch=1024, schedule="cosine")

    def _stretch(self, coords: Tensor) -> Tensor:
        """Return the complex stretch of each coordinate, (..., 2): 1 outside the layer."""
        depth = (coords.abs() - (1 - self.options.layer)).clamp_min(0) / self.options.layer
        return torch.complex(torch.ones_like(depth), -self.options.damping * depth.square())


class Wave(Equation):
    """A bump that spreads: ∂²u/∂t² = c² ∇²u on the square [-1, 1]² from a Gaussian at rest.

    Coordinates are (t, y, x), all in [-1, 1]: time 0 is at t = -1, the end of the duration at t = 1. The closed form is
    that of the open plane, which holds until the border could be felt.
    """

    name = "wave"

    @dataclass(frozen=True)
    class Options:
        """The medium and the start."""

        duration: float = 0.4
        """Length of time, in seconds."""
        speed: float = 1.0
        """c: units of coordinate per second."""
        source_width: float = 0.1
        """Standard deviation of the bump at the start (published: 0.022)."""

    def __init__(self, options: Options):
        if min(options.duration, options.speed, options.source_width) <= 0:
            raise InrError("--duration, --speed and --source-width must be above 0.")
        axes = (Axis.regular(32, "ends"), Axis.regular(64), Axis.regular(64))
        fps = (axes[0].count - 1) / options.duration
        super().__init__(Spec("video", axes, 3, 1, ValueMap(1.0, 0.0), meta={"equation": "wave", "fps": fps}))
        self.options = options
        # residuals in units of the bump: its width is the length, the time to cross it the time
        half = options.duration / 2
        self.per_time = options.source_width / options.speed / half

    @classmethod
    def simulate(cls, signal, options: Options) -> "Wave":
        """State the equation."""
        return cls(options)

    def sample(self, index: Tensor, generator=None) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Return coords (n, 3) of the domain and (n / 4, 3) at the start, and zeros.

        Half of the places are drawn anywhere, half from the disc the bump has reached by then.
        """
        draw = {"generator": generator, "device": index.device}
        inside = torch.rand(len(index), 3, **draw) * 2 - 1
        start = torch.rand(len(index) // 4 + 2, 3, **draw) * 2 - 1
        start[:, 0] = -1
        for places in (inside, start):
            some = places[:len(places) // 2]
            travelled = (some[:, 0] + 1) / 2 * (self.options.duration * self.options.speed)
            radius = torch.rand(len(some), **draw) * (travelled + 3 * self.options.source_width)
            angle = torch.rand(len(some), **draw) * (2 * math.pi)
            some[:, 1:] = (radius[:, None] * torch.stack([angle.sin(), angle.cos()], -1)).clamp(-1, 1)
        return (inside, start), self.values[index]

    def predict(self, field, query) -> tuple[Tensor, Tensor, Tensor]:
        """Return the residual in the domain (n,), and at the start the error of value and of speed (m,)."""
        everywhere, start = query
        second = hessian(field, everywhere)[:, 0].diagonal(dim1=-2, dim2=-1)
        residual = second[:, 0] * self.per_time**2 - second[:, 1:].sum(-1) * self.options.source_width**2
        value, rows = value_and_jacobian(field, start)
        return residual, value[:, 0].float() - self.bump(start), rows[:, 0, 0] * self.per_time

    def loss(self, predicted, values: Tensor) -> Tensor:
        """Return the mean squares of the three, the value at the start weighted by 0.3 and its speed by 0.1.

        Larger weights, the publication's among them, hold the start and let the wave fade (measured in short fits).
        """
        residual, start, speed = (part.square().mean() for part in predicted)
        return residual + 0.3 * start + 0.1 * speed

    def bump(self, coords: Tensor) -> Tensor:
        """Return the values (n,) at the start."""
        return torch.exp(-coords[:, 1:].square().sum(-1) / (2 * self.options.source_width**2))

    def solution(self) -> tuple[Tensor, Tensor]:
        """Return u(r, t) = σ² ∫ κ exp(-σ²κ²/2) J₀(κ r) cos(c κ t) dκ, and where no border can have been felt."""
        from scipy.special import j0

        width, speed = self.options.source_width, self.options.speed
        coords = self.spec.coords(torch.arange(self.spec.size)).double()
        radius = coords[:, 1:].norm(dim=-1).reshape(self.spec.shape).numpy()
        travelled = (coords[:, 0] + 1) / 2 * (self.options.duration * speed)
        kappa = np.linspace(0, 8 / width, 1500)
        weight = np.gradient(kappa) * width**2 * kappa * np.exp(-(width * kappa)**2 / 2)
        table = np.linspace(0, radius.max(), 400)
        profile = j0(np.outer(table, kappa)) * weight
        times = travelled.reshape(self.spec.shape)[:, 0, 0].numpy()
        frames = [np.interp(r, table, profile @ np.cos(kappa * t)) for r, t in zip(radius, times)]
        valid = coords[:, 1:].abs().amax(-1) + travelled < 1
        return torch.from_numpy(np.stack(frames)).float().reshape(-1, 1), valid

    def adapt(self, recipe: Recipe, field: type[Field], preset: str) -> Recipe:
        """Published: 100,000 steps of 340² points at 2e-5. Fast: fewer points at a higher rate that falls."""
        config = {"first_omega_0": 5.0, "omega_0": 10.0}
        if preset == "published":
            return changed(recipe, field, steps=100_000, lr=2e-5, batch=0, schedule="constant")
        return changed(recipe, field, config=config, steps=2000, lr=2e-3, batch=1024, schedule="cosine")
