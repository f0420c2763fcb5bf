"""Poisson reconstruction: an image from its gradients or its Laplacian, and two images composed by their gradients."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..derivatives import hessian, jacobian
from ..errors import InrError
from ..field import Field, Recipe, decode_all
from ..metrics import psnr, ssim
from ..signal import GridSignal
from ..signals.image import ImageSignal
from ..spec import UNIT_RANGE, Axis, Spec
from . import Problem, changed, read_measured

ANCHORS = 512                       # pixels at which the values themselves are compared, or their mean


class Poisson(Problem):
    """An image of which only derivatives were measured; a field's own derivatives are fitted to them.

    Gradients leave a constant open, so the mean level is held at that of the truth, or at mid-grey, and PSNR is taken
    after the best constant shift of each channel. A Laplacian leaves every harmonic function open: what is recovered
    from it alone looks uneven, and right where the values along the border are known too.
    """

    name = "poisson"
    suffixes = (".npy",)

    @dataclass(frozen=True)
    class Options:
        """What was measured. A file holds gradients (h, w, 2) or (h, w, channels, 2), d/dy before d/dx, per pixel."""

        derivative: str = "gradient"
        """gradient or laplacian."""
        stencil: str = "corners"
        """Gradients of an image: corners (differences of 2×2 pixels, taken between them) or sobel (as published)."""
        border: bool = False
        """Images: the values of the pixels along the border are known as well."""
        other: str | None = None
        """Second image, of the same size when read as the first: its derivatives are composed with the first one's."""
        mix: str = "mean"
        """How two images are composed: mean, or strongest (the larger derivative at each place)."""

    def __init__(self, spec: Spec, values: Tensor, places: Tensor, anchors: Tensor, known: Tensor,
                 truth: GridSignal | None = None):
        """Take derivatives per pixel in the network's range at coords `places`: gradients (n, c, 2), Laplacians (n, c).

        anchors: coords (m, 2) at which values (m, c) are known, or their mean (1, c).
        """
        self.size = float(values.std()) or 1.0          # the loss then starts near 1 whatever the image
        super().__init__(spec, values / self.size, truth)
        self.places, self.anchors, self.known = places, anchors, known
        self.step = torch.tensor([axis.step for axis in spec.axes])

    @classmethod
    def simulate(cls, signal: GridSignal, options: Options) -> "Poisson":
        """Differentiate one image, or compose two."""
        _check(options)
        spec, image, truth = signal.spec, signal.array(), signal
        values, places = differentiate(image, spec, options)
        if options.other is not None:
            second = ImageSignal.load(options.other, **getattr(signal, "read_as", {})).array()
            if second.shape != image.shape:
                raise InrError(f"{options.other} is {tuple(second.shape)}, the first image {tuple(image.shape)} "
                               f"(height, width, channels): they must agree.")
            more, _ = differentiate(second, spec, options)
            values = _strongest(values, more) if options.mix == "strongest" else (values + more) / 2
            image = (image + second) / 2
            truth = ImageSignal.from_array(image.numpy(), grid=spec.grid) if options.mix == "mean" else None
        anchors = _spread(_border(spec) if options.border else torch.arange(spec.size))
        known = spec.values.to_net(image.flatten(0, 1)[anchors])
        known = known if options.border else known.mean(0, keepdim=True)
        return cls(spec, values / spec.values.scale, places, spec.coords(anchors), known, truth)

    @classmethod
    def read(cls, path, options: Options) -> "Poisson":
        """Read gradients (h, w[, channels], 2) or a Laplacian (h, w[, channels]) at pixel centres, per pixel."""
        _check(options)
        array = read_derivatives(path, options.derivative)
        height, width, channels = array.shape[:3]
        spec = Spec("image", (Axis.regular(height), Axis.regular(width)), 2, channels, UNIT_RANGE, meta={"bits": 16})
        anchors = spec.coords(_spread(torch.arange(spec.size)))
        values = torch.from_numpy(array).flatten(0, 1) / spec.values.scale
        return cls(spec, values, spec.coords(torch.arange(spec.size)), anchors, torch.zeros(1, channels))

    def regrid(self, grid: str) -> "Poisson":
        """Keep the grid: the places of the measurements belong to it."""
        return self

    def sample(self, index: Tensor, generator=None) -> tuple[Tensor, Tensor]:
        """Return coords (n, 2), and gradients (n, channels, 2) or Laplacians (n, channels)."""
        return self.places[index], self.values[index]

    def measure(self, field, query: Tensor) -> Tensor:
        """Differentiate the field at the measured places, per pixel."""
        if self.values.ndim == 3:
            return jacobian(field, query) * (self.step / self.size)
        return (hessian(field, query).diagonal(dim1=-2, dim2=-1) * (self.step.square() / self.size)).sum(-1)

    def predict(self, field, query: Tensor) -> tuple[Tensor, Tensor]:
        """Return the derivatives at the measured places, and the values at the anchors or their mean."""
        known = field(self.anchors).float()
        return self.measure(field, query), known if len(self.known) > 1 else known.mean(0, keepdim=True)

    def loss(self, predicted, values: Tensor) -> Tensor:
        """Return the mean squared error of the derivatives and that of the known values."""
        derivatives, known = predicted
        return super().loss(derivatives, values) + torch.nn.functional.mse_loss(known, self.known)

    def metrics(self, field) -> dict[str, float]:
        """PSNR and SSIM after the best constant shift of each channel."""
        if self.truth is None:
            return self.misfit(field)
        truth, image = self.truth.array().cpu(), decode_all(field, self.spec)
        image = (image + (truth - image).mean((0, 1))).clamp(0, 1)
        error = (truth - image).double().square().mean().item()
        return {"psnr": psnr(error), "ssim": ssim(truth.numpy(), image.numpy())}

    def probe(self, field, samples: int = 1 << 16) -> dict[str, float]:
        """Estimate the PSNR after the best constant shift from at most `samples` pixels."""
        if self.truth is None:
            return self.misfit(field, samples)
        index = torch.randint(len(self.truth), (min(samples, len(self.truth)),),
                              generator=torch.Generator().manual_seed(0)).to(self.device)
        with torch.no_grad():
            error = torch.cat([field.stored(self.spec.coords(part)) - self.truth.stored(part)
                               for part in index.split(1 << 14)])
        return {"psnr": psnr((error - error.mean(0)).double().square().mean().item())}

    @property
    def full_scale(self) -> float:
        """The largest derivative."""
        return float(self.values.abs().max())

    def adapt(self, recipe: Recipe, field: type[Field], preset: str) -> Recipe:
        """Published: the field's own settings. Fast: small steps of few points, as derivatives cost several passes."""
        return recipe if preset == "published" else changed(recipe, field, batch=8192)

    def array(self) -> Tensor:
        """Return the derivatives in rows as they were measured, (n, channels·2) or (n, channels)."""
        return self.values.flatten(1)


def differentiate(image: Tensor, spec: Spec, options: Poisson.Options) -> tuple[Tensor, Tensor]:
    """Return derivatives per pixel of an image (h, w, c), (n, c, 2) or (n, c), and their coordinates (n, 2)."""
    height, width, _ = image.shape
    if min(height, width) < 3:
        raise InrError(f"An image of {height}×{width} pixels is too small to differentiate.")
    if options.derivative == "gradient" and options.stencil == "corners":
        rows, columns = torch.arange(height - 1) + 0.5, torch.arange(width - 1) + 0.5
        down, right = image[1:] - image[:-1], image[:, 1:] - image[:, :-1]
        values = torch.stack([(down[:, 1:] + down[:, :-1]) / 2, (right[1:] + right[:-1]) / 2], -1)
    else:
        rows, columns = torch.arange(1, height - 1), torch.arange(1, width - 1)
        up, down, left, right = image[:-2], image[2:], image[:, :-2], image[:, 2:]
        if options.derivative == "laplacian":
            values = (up + down)[:, 1:-1] + (left + right)[1:-1] - 4 * image[1:-1, 1:-1]
        else:
            y, x = (down - up) / 2, (right - left) / 2
            values = torch.stack([(y[:, :-2] + 2 * y[:, 1:-1] + y[:, 2:]) / 4,
                                  (x[:-2] + 2 * x[1:-1] + x[2:]) / 4], -1)
    y, x = (axis.at(at + axis.first) for axis, at in zip(spec.axes, (rows, columns)))
    places = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1)
    return values.flatten(0, 1), places.flatten(0, 1)


def read_derivatives(path, kind: str) -> np.ndarray:
    """Read an array of derivatives per pixel as (h, w, channels, 2) or, of Laplacians, (h, w, channels), float32."""
    if kind == "gradient":
        return read_measured(path, "a gradient of an image", "(h, w, 2) or (h, w, channels, 2)", (2,))
    return read_measured(path, "a laplacian of an image", "(h, w) or (h, w, channels)")


def _border(spec: Spec) -> Tensor:
    """Return the flat indices of the pixels along the border."""
    inside = torch.zeros(spec.shape, dtype=torch.bool)
    inside[1:-1, 1:-1] = True
    return (~inside).flatten().nonzero()[:, 0]


def _spread(index: Tensor) -> Tensor:
    """Return at most `ANCHORS` of the indices, evenly spread."""
    return index[torch.linspace(0, len(index) - 1, min(ANCHORS, len(index))).long()]


def _strongest(first: Tensor, second: Tensor) -> Tensor:
    """Return at each place the measurement with the larger norm."""
    longer = first.flatten(1).norm(dim=1) >= second.flatten(1).norm(dim=1)
    return torch.where(longer.reshape(-1, *[1] * (first.ndim - 1)), first, second)


def _check(options: Poisson.Options) -> None:
    for flag, known in (("derivative", ("gradient", "laplacian")), ("stencil", ("corners", "sobel")),
                        ("mix", ("mean", "strongest"))):
        value = getattr(options, flag)
        if value not in known:
            raise InrError(f"--{flag} {value!r} is not known: {' or '.join(known)}.")
