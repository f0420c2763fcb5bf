"""Latent diffusion: the prior over latent tokens of Lee, Kim, Cho, Han (NeurIPS 2023), section 4.4."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inr_scenes.errors import InrError
from inr_scenes.field import Recipe
from inr_scenes.generalizable import BoundField, Latents
from inr_scenes.latents import LatentBatch, LatentSet
from inr_scenes.prior import Prior

from .encoder import Block
from .sizes import Sizes


class Denoiser(nn.Module):
    """A transformer over latent tokens without any two-dimensional structure, told the noise level and the class.

    Noise level and class enter as two tokens of their own. shapes: {name: (…, features)} of the latents.
    """

    def __init__(self, config, shapes: dict[str, tuple[int, ...]], classes: int):
        super().__init__()
        self.steps = config.diffusion_steps
        self.counts = {name: math.prod(shape[:-1]) for name, shape in shapes.items()}
        width = config.width
        self.inputs = nn.ModuleDict({name: nn.Linear(shape[-1], width) for name, shape in shapes.items()})
        self.places = nn.Parameter(0.5 * torch.randn(sum(self.counts.values()), width))
        self.level = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.classes = nn.Embedding(classes + 1, width)         # the last stands for "any"
        self.blocks = nn.Sequential(*(Block(width, config.heads, config.head_features) for _ in range(config.blocks)))
        self.norm = nn.LayerNorm(width)
        self.outputs = nn.ModuleDict({name: nn.Linear(width, shape[-1]) for name, shape in shapes.items()})

    def forward(self, noisy: Latents, step: Tensor, label: Tensor) -> Latents:
        """Map noisy latents (B, …, features), noise steps (B,) and classes (B,) to what they were before the noise."""
        rows = {name: value.reshape(len(value), -1, value.shape[-1]) for name, value in noisy.items()}
        tokens = torch.cat([self.inputs[name](value) for name, value in rows.items()], 1) + self.places
        half = self.places.shape[-1] // 2
        turns = torch.exp(torch.linspace(0, math.log(self.steps), half, device=step.device))
        angles = step[:, None] / self.steps * turns
        odd = angles.new_zeros(len(step), self.places.shape[-1] % 2)
        level = self.level(torch.cat([angles.cos(), angles.sin(), odd], -1))
        told = torch.stack([level, self.classes(label).to(level.dtype)], 1)
        x = self.norm(self.blocks(torch.cat([told, tokens.to(told.dtype)], 1))[:, 2:])
        parts = x.split(list(self.counts.values()), 1)
        return {name: self.outputs[name](part).reshape(noisy[name].shape).float()
                for name, part in zip(self.counts, parts)}


class LatentDiffusion(Prior):
    """Denoising diffusion over latent tokens that predicts the tokens themselves (x₀), with classifier-free guidance.

    Ho, Jain, Abbeel, NeurIPS 2020 (linear schedule); Song, Meng, Ermon, ICLR 2021 (DDIM); Ho and Salimans, 2022.
    """

    name = "latent-diffusion"

    @dataclass(frozen=True)
    class Config(Sizes):
        """Settings of a latent diffusion model; --preset published is the paper's size."""

        width: int = 256
        """Features of the transformer's tokens."""
        blocks: int = 6
        """Pre-norm transformer blocks."""
        heads: int = 4
        """Attention heads."""
        head_features: int = 64
        """Features of each head."""
        diffusion_steps: int = 1000
        """Steps of the noise schedule, which is linear from 0.0001 to 0.02 (scaled for other numbers of steps)."""
        drop_class: float = 0.1
        """Share of training latents that are shown without their class."""

    def __init__(self, config, like: BoundField, classes: tuple[str, ...] = ()):
        super().__init__(config, like, classes)
        if not 0 < config.drop_class <= 1:
            raise InrError("--drop-class is a share above 0, up to 1: without it nothing is known of any class at all.")
        self.denoiser = Denoiser(config, {name: tuple(v.shape) for name, v in like.latents.items()}, len(classes))
        scale = 1000 / config.diffusion_steps
        noise = torch.linspace(1e-4 * scale, min(0.999, 0.02 * scale), config.diffusion_steps, dtype=torch.float64)
        self.register_buffer("signal_share", torch.cumprod(1 - noise, 0).float(), persistent=False)

    def compilable(self) -> list[nn.Module]:
        """The denoiser's blocks."""
        return [*self.denoiser.blocks]

    def loss(self, batch: LatentBatch) -> Tensor:
        """Return the mean squared error of the predicted, standardised latents at random steps of the schedule."""
        clean = self.standardised(batch.latents)
        n, device = len(batch.labels), self.device
        step = torch.randint(self.config.diffusion_steps, (n,)).to(device)
        dropped = (torch.rand(n) < self.config.drop_class).to(device)
        label = torch.where(dropped, len(self.classes), batch.labels) if self.classes else batch.labels
        noisy = {name: self._mixed(value, torch.randn(value.shape).to(device), step) for name, value in clean.items()}
        guess = self.denoiser(noisy, step.float(), label)
        errors = sum((guess[name] - value).square().sum() for name, value in clean.items())
        return errors / sum(value.numel() for value in clean.values())

    def draw(self, count: int, label: int | None, generator: torch.Generator, *, steps: int | None = None,
             guidance: float = 2.5) -> Latents:
        """Return `count` standardised latents by deterministic steps (DDIM), 50 unless told.

        guidance: how far to go from what any class would be towards the one asked for; 1: the class alone.
        """
        steps = min(50, self.config.diffusion_steps) if steps is None else steps
        if not 1 <= steps <= self.config.diffusion_steps:
            raise InrError(f"--steps {steps} is not possible: 1 to {self.config.diffusion_steps}.")
        if not math.isfinite(guidance):
            raise InrError(f"--guidance {guidance} is not a number.")
        x = {name: torch.randn((count, *value.shape), generator=generator, device=self.device)
             for name, value in self.like.latents.items()}
        for step, following in self._levels(steps):
            clean = self._clean(x, step, label, guidance)
            a, b = self.signal_share[step], self.signal_share[following] if following >= 0 else torch.ones(())
            for name, value in x.items():
                noise = (value - a.sqrt() * clean[name]) / (1 - a).sqrt()
                x[name] = b.sqrt() * clean[name] + (1 - b).clamp_min(0).sqrt() * noise
        return x

    def _clean(self, x: Latents, step: int, label: int | None, guidance: float) -> Latents:
        """Return the latents without noise that are guessed at a step, led towards a class."""
        n = len(next(iter(x.values())))
        levels = torch.full((n,), float(step), device=self.device)
        anything = torch.full((n,), len(self.classes), device=self.device)
        if label is None:
            return self.denoiser(x, levels, anything)
        led = self.denoiser(x, levels, torch.full_like(anything, label))
        if guidance == 1:
            return led
        free = self.denoiser(x, levels, anything)
        return {name: free[name] + guidance * (value - free[name]) for name, value in led.items()}

    def _levels(self, steps: int) -> Iterator[tuple[int, int]]:
        """Yield each step of the schedule that is taken, with the one that follows; -1 is no noise at all."""
        taken = torch.linspace(self.config.diffusion_steps - 1, 0, steps).round().long().tolist()
        yield from zip(taken, [*taken[1:], -1])

    def _mixed(self, clean: Tensor, noise: Tensor, step: Tensor) -> Tensor:
        share = self.signal_share[step].reshape(-1, *[1] * (clean.ndim - 1))
        return share.sqrt() * clean + (1 - share).sqrt() * noise

    @classmethod
    def suggest(cls, latents: LatentSet, preset: str) -> Recipe:
        """Published: 24 blocks of width 1024, Adam at 1e-4, batches of 256 for 400 epochs. Fast: small, minutes."""
        if preset == "published":
            return Recipe({"width": 1024, "blocks": 24, "heads": 16},
                          {"optimizer": "adam", "lr": 1e-4, "schedule": "constant", "warmup": 0, "batch": 256,
                           "ema": 0.9999, "steps": max(1, 400 * len(latents) // min(256, len(latents)))})
        return Recipe({}, {"optimizer": "muon", "lr": 1e-2, "batch": min(32, len(latents)), "ema": 0.995})
