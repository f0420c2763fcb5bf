"""Denoising: an image from a noisy copy, by a fit too short and too smooth to follow noise."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InrError
from ..field import Field, Recipe
from ..signal import GridSignal
from ..signals.image import ImageSignal
from . import changed
from .priors import PriorOptions, RegularisedProblem


class Denoising(RegularisedProblem):
    """An image behind photon and readout noise."""

    name = "denoise"
    suffixes = ImageSignal.suffixes

    @dataclass(frozen=True)
    class Options(PriorOptions):
        """The noise that is simulated; a file of measurements brings its own."""

        photons: float = 40.0
        """Photons counted at full scale: the fewer, the noisier."""
        readout: float = 2.0
        """Standard deviation of the readout noise, in photons."""
        noise_seed: int = 0
        """Seeds the noise."""

    @classmethod
    def simulate(cls, signal: GridSignal, options: Options) -> "Denoising":
        """Count photons and read them out as in the studies of WIRE and INCODE; nothing is clipped."""
        if options.photons <= 0 or options.readout < 0:
            raise InrError("--photons must be above 0 and --readout not negative.")
        generator = torch.Generator().manual_seed(options.noise_seed)
        counts = torch.poisson(signal.stored(slice(None)).clamp_min(0) * options.photons, generator)
        counts += options.readout * torch.randn(counts.shape, generator=generator)
        return cls(signal.spec, signal.spec.values.to_net(counts / options.photons), signal, options)

    @classmethod
    def read(cls, path, options: Options) -> "Denoising":
        """Read the noisy image itself."""
        noisy = ImageSignal.load(path)
        return cls(noisy.spec, noisy.sample(torch.arange(len(noisy)))[1], None, options)

    def array(self) -> Tensor:
        """Return the noisy image, (h, w, channels)."""
        return super().array().reshape(*self.spec.shape, -1)

    def adapt(self, recipe: Recipe, field: type[Field], preset: str) -> Recipe:
        """Both presets start from low frequencies. Published: 501 steps of all pixels at 1.5e-4.

        Fast: part of them, and slowly, blocks too: a quicker fit comes to the noise (siren 25.5 dB; at 1e-3 20.6).
        """
        config = {"first_omega_0": 10.0, "aux_features": (32, 16, 8), "aux_bias": 0.0005, "aux_norm": True,
                  "local_rate": 1.0}
        if preset == "published":
            return changed(recipe, field, config=config, steps=501, lr=1.5e-4, batch=0, schedule="exponential")
        return changed(recipe, field, config=config, steps=600, lr=2e-4, batch=16384, schedule="cosine")
