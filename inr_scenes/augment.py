"""Random parts of signals: what a model sees of a set when it is to learn more than its whole signals show."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from .errors import InrError
from .signal import GridSignal, Signal
from .spec import Spec
from .windows import window_spec

BRIGHTNESS, CONTRAST, COLOUR = 0.1, 0.2, 0.1        # greatest changes; a stored range is 1 wide


class Turned(Signal):
    """A light field whose rays were turned and mirrored about its scene's centre, as if its cameras were elsewhere."""

    kind = "lightfield"

    def __init__(self, signal: Signal, matrix: Tensor):
        self.signal, self.matrix, self.spec, self.name = signal, matrix, signal.spec, signal.name

    def __len__(self) -> int:
        return len(self.signal)

    def sample(self, index: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return turned rays (n, 6) and values (n, out)."""
        rays, values = self.signal.sample(index, generator)
        direction, moment = rays.split(3, -1)
        turn = self.matrix.to(rays)         # a moment is a cross product: mirroring turns it round
        return torch.cat([direction @ turn.T, moment @ turn.T * torch.linalg.det(turn)], -1), values

    @property
    def device(self) -> torch.device:
        """Where the measurements live."""
        return self.signal.device


class Parts:
    """Draws a part of `crop` samples, taken from up to `zoom` times as many, and varied if `augment`.

    Images are mirrored and recoloured, light fields turned about the vertical axis and mirrored. A pure function of
    signal and seed. `spec` is that of what is drawn. Without any of these, signals pass unchanged.
    """

    def __init__(self, spec: Spec, crop: tuple[int, ...] = (), zoom: float = 1.0, augment: bool = False):
        self.crop, self.zoom, self.augment = crop, zoom, augment
        if crop and spec.kind == "lightfield":
            raise InrError("--crop is for signals on a grid, not for light fields.")
        if augment and spec.kind not in ("image", "lightfield"):
            raise InrError(f"--augment varies images and light fields; these signals are of kind {spec.kind!r}.")
        if crop and (len(crop) != len(spec.axes) or any(n > count for n, count in zip(crop, spec.shape))):
            raise InrError(f"--crop {' '.join(map(str, crop))} is no part of signals of "
                           f"{' × '.join(map(str, spec.shape))} samples.")
        self.spec = window_spec(spec, crop) if crop else spec

    def __call__(self, signal: Signal, seed: int) -> Signal:
        """Return a part of a signal, or the signal itself when nothing was asked for."""
        if not self.crop and not self.augment:
            return signal
        generator = torch.Generator().manual_seed(seed)
        if self.spec.kind == "lightfield":
            return Turned(signal, _turn(generator))
        values = signal.data.reshape(*signal.spec.shape, -1)
        if self.crop:
            values = self._cut(values, generator)
        values = values.float() * signal.gain
        if self.crop and values.shape[:-1] != self.crop:
            values = _averaged(values, self.crop)
        if self.augment:
            values = _recoloured(values, generator)
        spec = window_spec(signal.spec, self.crop) if self.crop else signal.spec        # each sound has its own scale
        return GridSignal(spec, values.reshape(-1, values.shape[-1]), 1.0, signal.name)

    def _cut(self, values: Tensor, generator: torch.Generator) -> Tensor:
        most = min(self.zoom, *(count / n for count, n in zip(values.shape, self.crop)))
        factor = most ** float(torch.rand((), generator=generator))         # octaves are equally likely
        for dim, n in enumerate(self.crop):
            size = round(n * factor)
            low = int(torch.randint(values.shape[dim] - size + 1, (), generator=generator))
            values = values.narrow(dim, low, size)
        return values


def _averaged(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Bring (*shape', c) to another shape, as an image is made smaller: each sample averages what it covers."""
    way = {"mode": "bilinear", "antialias": True} if len(shape) == 2 else {"mode": "area"}
    found = functional.interpolate(values.movedim(-1, 0)[None], size=shape, **way)
    return found[0].movedim(0, -1)


def _turn(generator: torch.Generator) -> Tensor:
    """Return a random turn about the vertical axis, every other time with a reflection, (3, 3)."""
    angle, mirror = torch.rand(2, generator=generator).tolist()
    cos, sin = math.cos(2 * math.pi * angle), math.sin(2 * math.pi * angle)
    flip = -1.0 if mirror < 0.5 else 1.0
    return torch.tensor([[cos, -sin * flip, 0.0], [sin, cos * flip, 0.0], [0.0, 0.0, 1.0]])


def _recoloured(values: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror (h, w, c) in [0, 1] every other time, and move its brightness, contrast and colours a little.

    Of 2 and of 4 channels the last is how opaque a pixel is, and stays.
    """
    if torch.rand((), generator=generator) < 0.5:
        values = values.flip(1)
    moved = 2 * torch.rand(2 + values.shape[-1], generator=generator) - 1
    gain = (1 + CONTRAST * moved[0]) * (1 + COLOUR * moved[2:])
    found = ((values - 0.5) * gain + 0.5 + BRIGHTNESS * moved[1]).clamp(0, 1)
    if values.shape[-1] in (2, 4):
        found[..., -1] = values[..., -1]
    return found
