"""Tomography: an image from its line integrals (parallel beam)."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample
from torch.utils.checkpoint import checkpoint

from ..errors import InrError
from ..field import Field, Recipe
from ..files import readable
from ..kernels.choice import choose, chosen
from ..signal import GridSignal
from ..spec import UNIT_RANGE, Axis, Spec
from . import Problem, changed, read_measured

ROWS = 8192                         # points decoded at once; their activations are computed again in the backward pass


class Tomography(Problem):
    """An image of which sums along parallel rays were measured, one view an angle.

    A measurement is a whole view: the image is decoded once at its pixels and serves all views of a step.
    """

    name = "ct"
    suffixes = (".npy",)

    @dataclass(frozen=True)
    class Options:
        """How the views were taken. A file holds an array (views, detectors) or (views, detectors, channels)."""

        angles: int = 150
        """Views that are simulated, at equal steps; a file says itself how many it has."""
        span: float = 180.0
        """Degrees the views are spread over, the last not included."""
        angles_file: str | None = None
        """File of the views' angles in degrees, text or .npy, one number a view; goes before --angles and --span."""
        detectors: int | None = None
        """Detectors that are simulated, one pixel apart; default: as many as the longer side has pixels."""
        centre: float | None = None
        """Detector on which the axis of rotation falls, counted from 0; default: the middle."""
        noise: float = 0.0
        """Standard deviation of the noise that is simulated, as a share of the largest sum."""
        noise_seed: int = 0
        """Seeds the noise."""

    def __init__(self, spec: Spec, sinogram: Tensor, angles: Tensor, centre: float, truth: GridSignal | None = None):
        self.size = float(sinogram.std()) or 1.0        # the loss then starts near 1 whatever the image
        super().__init__(spec, sinogram / self.size, truth)
        self.angles, self.centre = angles, centre

    @classmethod
    def simulate(cls, signal: GridSignal, options: Options) -> "Tomography":
        """Sum a clean image along rays."""
        if options.angles < 1 or options.noise < 0:
            raise InrError("--angles must be at least 1 and --noise not negative.")
        if options.detectors is not None and options.detectors < 1:
            raise InrError(f"--detectors {options.detectors} must be at least 1.")
        count = options.detectors or max(signal.spec.shape)
        centre = (count - 1) / 2 if options.centre is None else options.centre
        angles = read_angles(options.angles_file) if options.angles_file else view_angles(options.angles, options.span)
        sinogram = project(signal.array(), angles, count, centre)
        generator = torch.Generator().manual_seed(options.noise_seed)
        sinogram += options.noise * sinogram.max() * torch.randn(sinogram.shape, generator=generator)
        return cls(signal.spec, sinogram, angles, centre, signal)

    @classmethod
    def read(cls, path, options: Options) -> "Tomography":
        """Read views (views, detectors[, channels]); the unknown has as many rows and columns as there are detectors.

        Values are divided so that the image lies about in [0, 1]; the spec's meta says by how much ("attenuation").
        """
        sinogram = read_views(path)
        views, count, channels = sinogram.shape
        angles = read_angles(options.angles_file) if options.angles_file else view_angles(views, options.span)
        if len(angles) != views:
            raise InrError(f"{options.angles_file} holds {len(angles)} angles, {path} {views} views: they must agree.")
        centre = (count - 1) / 2 if options.centre is None else options.centre
        scale = float(np.quantile(back_project(sinogram, angles).numpy(), 0.995))   # torch's takes 2^24 values at most
        if scale <= 0:
            raise InrError(f"{path} back-projects to nothing bright. Are its rows views, and "
                           f"{'the angles theirs' if options.angles_file else f'--span {options.span:g}'}?")
        spec = Spec("image", (Axis.regular(count), Axis.regular(count)), 2, channels, UNIT_RANGE,
                    meta={"bits": 16, "attenuation": scale})
        return cls(spec, sinogram / scale, angles, centre)

    def sample(self, index: Tensor, generator=None) -> tuple[Tensor, Tensor]:
        """Return angles (n,) and views (n, detectors, channels)."""
        return self.angles[index], self.values[index]

    def predict(self, field, query: Tensor) -> Tensor:
        """Decode the image and take its views at the angles `query` (n,), (n, detectors, channels)."""
        index = torch.arange(self.spec.size, device=query.device)
        parts = [self.spec.coords(part) for part in index.split(ROWS)]
        if torch.is_grad_enabled():
            kernel = chosen()               # decoded again in backward, whose thread knows of no choice

            def decode(part: Tensor) -> Tensor:
                with choose(kernel):
                    return field(part)

            # fields draw nothing; and a device's random state cannot be asked for while a step is recorded
            parts = [checkpoint(decode, part, use_reentrant=False, preserve_rng_state=False) for part in parts]
        else:
            parts = [field(part) for part in parts]
        image = self.spec.values.to_stored(torch.cat(parts).float()).reshape(*self.spec.shape, -1)
        return project(image, query, self.values.shape[1], self.centre) / self.size

    def array(self) -> Tensor:
        """Return the sinogram, (views, detectors, channels), scaled to a largest sum of 1."""
        return self.values / self.values.max()

    @property
    def full_scale(self) -> float:
        """The largest sum."""
        return float(self.values.max())

    def adapt(self, recipe: Recipe, field: type[Field], preset: str) -> Recipe:
        """Published: 2001 steps of all views at 2e-4. Fast: the field's rate, 30 views a step."""
        if preset == "published":
            return changed(recipe, field, steps=2001, lr=2e-4, batch=0, schedule="exponential", final_lr=0.4)
        # INCODE begins as a SIREN: the phantom comes out at 29.7 dB, with the published scalars at 14.3.
        # Blocks learn at the fit's rate: in the benchmark's small setting 34.1 dB, at their own, quicker one 30.4.
        return changed(recipe, field, config={"aux_bias": 0.0, "local_rate": 1.0}, steps=600, batch=30)


def view_angles(count: int, span: float) -> Tensor:
    """Return `count` angles in radians, from 0 on in equal steps, the end of `span` degrees not included."""
    return torch.arange(count, dtype=torch.float64) * (math.radians(span) / count)


def read_angles(path) -> Tensor:
    """Read angles in degrees, one a line or a .npy array (n,), as radians (n,) float64."""
    path = readable(path)
    try:
        degrees = np.load(path, allow_pickle=False) if path.suffix.lower() == ".npy" else np.loadtxt(path, ndmin=1)
    except (ValueError, OSError, EOFError):
        degrees = np.empty(0)
    if degrees.ndim != 1 or degrees.dtype.kind not in "iuf" or not degrees.size or not np.isfinite(degrees).all():
        raise InrError(f"{path} does not hold angles: degrees are needed, one finite number a line, or an array (n,).")
    return torch.from_numpy(np.deg2rad(degrees.astype(np.float64)))


def project(image: Tensor, angles: Tensor, detectors: int, centre: float) -> Tensor:
    """Sum an image (h, w, c) along parallel rays one pixel apart; return views (n, detectors, c). Differentiable.

    angles: (n,) radians. View and sign are those of scikit-image's `radon`: at angle 0 columns are summed, and detector
    j of angle a looks along (sin a, cos a) in (x, y) through (j − centre)·(cos a, −sin a) from the image's centre.
    Between pixels values are bilinear, outside they are 0.
    """
    height, width, _ = image.shape
    length = height + 2 * math.ceil((math.hypot(height, width) - height) / 2)   # at angle 0 steps fall on pixel centres
    sine, cosine, off = angles.sin(), angles.cos(), (detectors - 1) / 2 - centre
    x = torch.stack([cosine * detectors, sine * length, 2 * off * cosine], -1) / width
    y = torch.stack([-sine * detectors, cosine * length, -2 * off * sine], -1) / height
    pixels = image.movedim(-1, 0)[None]
    views = []
    for turn in torch.stack([x, y], 1).to(image.dtype).split(8):        # few at a time bounds memory
        n = len(turn)
        places = affine_grid(turn, [n, 1, length, detectors], align_corners=False)
        views.append(grid_sample(pixels.expand(n, -1, -1, -1), places, align_corners=False).sum(2).mT)
    return torch.cat(views)


def back_project(sinogram: Tensor, angles: Tensor) -> Tensor:
    """Return the filtered back-projection (detectors, detectors, c) of views (n, detectors, c)."""
    from skimage.transform import iradon

    degrees = np.rad2deg(angles.cpu().numpy())
    channels = [iradon(channel.T, theta=degrees, circle=True) for channel in sinogram.cpu().movedim(-1, 0).numpy()]
    return torch.from_numpy(np.stack(channels, -1)).float()


def read_views(path) -> Tensor:
    """Read an array (views, detectors[, channels]) of finite numbers as (views, detectors, channels) float32."""
    return torch.from_numpy(read_measured(path, "a sinogram", "(views, detectors) or (views, detectors, channels)"))
