"""Super-resolution: an image from one of fewer pixels, each the average over its area."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InrError
from ..field import Field, Recipe
from ..signal import GridSignal
from ..signals.image import ImageSignal
from ..spec import Axis, Spec
from . import changed
from .priors import PriorOptions, RegularisedProblem


class SuperResolution(RegularisedProblem):
    """An image of factor² times as many pixels as were measured.

    A measured pixel is the average over its area: the field is averaged over the factor² pixel centres in it. Pixels
    as points are the published way instead: the field is fitted to the small image at its own pixels and then read out
    on a finer grid.
    """

    name = "superres"
    suffixes = ImageSignal.suffixes

    @dataclass(frozen=True)
    class Options(PriorOptions):
        """How the pixels were measured."""

        factor: int = 4
        """Unknown pixels per measured one, along each axis."""
        pixels: str = "area"
        """area: a pixel is the average over its area; point: the value at its centre, as published."""

    def __init__(self, spec: Spec, values: Tensor, options: Options, truth: GridSignal | None = None):
        super().__init__(spec, values, truth, options)
        if options.pixels not in ("area", "point"):
            raise InrError(f"--pixels {options.pixels!r} is not known: area or point.")
        self.factor, self.area = options.factor, options.pixels == "area"
        self.points = options.factor**2 if self.area else 1
        self.rows, self.columns = self._coordinates(spec.grid)

    @classmethod
    def simulate(cls, signal: GridSignal, options: Options) -> "SuperResolution":
        """Average a clean image; rows and columns beyond a multiple of the factor are left out."""
        factor = _sensible(options.factor)
        height, width = (count // factor for count in signal.spec.shape)
        if not height or not width:
            raise InrError(f"An image of {signal.spec.shape} pixels is too small for --factor {factor}.")
        image = signal.array()[:height * factor, :width * factor]
        values = image.reshape(height, factor, width, factor, -1).mean((1, 3)).flatten(0, 1)
        truth = ImageSignal.from_array(image.numpy(), bits=signal.spec.meta.get("bits"), grid=signal.spec.grid,
                                       name=signal.name)
        return cls(truth.spec, truth.spec.values.to_net(values), options, truth)

    @classmethod
    def read(cls, path, options: Options) -> "SuperResolution":
        """Read the small image; the unknown has factor times as many rows and columns."""
        factor = _sensible(options.factor)
        small = ImageSignal.load(path)
        spec = small.spec.replace(axes=tuple(Axis.regular(count * factor) for count in small.spec.shape))
        return cls(spec, small.sample(torch.arange(len(small)))[1], options)

    def regrid(self, grid: str) -> "SuperResolution":
        """Move the unknown's samples, and with them the places that were measured."""
        super().regrid(grid)
        self.rows, self.columns = (table.to(self.device) for table in self._coordinates(grid))
        return self

    def coords(self, index: Tensor) -> Tensor:
        """Return coords (n, points, 2) of the pixel centres within each measured pixel."""
        y, x = self.rows[index // len(self.columns)], self.columns[index % len(self.columns)]
        coords = torch.stack([y[:, :, None].expand(-1, -1, x.shape[1]), x[:, None, :].expand(-1, y.shape[1], -1)], -1)
        return coords.flatten(1, 2)

    def measure(self, field, query) -> Tensor:
        """Average the field over each measured pixel, (n, channels)."""
        return field(query[0]).mean(1)

    def array(self) -> Tensor:
        """Return the small image, (h, w, channels)."""
        return super().array().reshape(len(self.rows), len(self.columns), -1)

    def adapt(self, recipe: Recipe, field: type[Field], preset: str) -> Recipe:
        """Published: 501 steps of the whole small image at 9e-4. Fast: as many field evaluations a step as usual."""
        if preset == "published":
            return changed(recipe, field, steps=501, lr=9e-4, batch=0, schedule="exponential")
        return changed(recipe, field, batch=max(256, 16384 // self.points))

    def _coordinates(self, grid: str) -> list[Tensor]:
        """Return for each axis the coordinates measured by each row or column of small pixels, (count, per pixel)."""
        if self.area:
            return [axis.at(torch.arange(axis.count)).reshape(-1, self.factor) for axis in self.spec.axes]
        small = [Axis.regular(axis.count // self.factor, grid) for axis in self.spec.axes]
        return [axis.at(torch.arange(axis.count))[:, None] for axis in small]


def _sensible(factor: int) -> int:
    if not 2 <= factor <= 16:
        raise InrError(f"--factor {factor} must be between 2 and 16.")
    return factor
