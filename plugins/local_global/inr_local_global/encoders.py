"""What a harmoniser sees of a signal: features of fixed length from a random, untrained network or from a cepstrum."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inr_scenes.signal import GridSignal, Signal
from inr_scenes.signals.image import ImageSignal

LONGEST = 64                                # frames, rows, voxels: longer sides are averaged down before 3-D layers
SEEN = 1 << 24                              # pixels that are looked at
LISTED = 8192                               # measurements that an encoder of lists looks at


def encoder(signal: Signal) -> tuple[nn.Module, Tensor]:
    """Return an encoder for a signal's kind and its input: encoder(input) is one row of features, (features,).

    Images: the stem and first stage of a ResNet-34. Sound: mean mel cepstrum. Video and shapes: the stem and first two
    stages of a 3-D ResNet-18. Other measurements: three 1-D convolutions over their list.
    """
    kind, d = signal.spec.kind, len(signal.spec.axes)
    if d == 3 and isinstance(signal, GridSignal):
        return VolumeStem(), _three_channels(_small(signal))
    seen = signal.thinned(SEEN) if isinstance(signal, ImageSignal) else signal
    array = seen.array() if hasattr(seen, "array") else None
    if kind == "audio" and array is not None and array.ndim == 2:
        return Cepstrum(int(signal.spec.meta.get("sample_rate", 44100))), array.mean(-1)
    if array is not None and array.ndim == 3 and d == 2:
        return ResNetStem(), _three_channels(array.movedim(-1, 0)[None])
    index = torch.arange(len(signal), device=signal.device)
    index = index[:: max(1, len(signal) // LISTED)]
    values = signal.sample(index, torch.Generator(signal.device).manual_seed(0))[1]
    values = values[0] if isinstance(values, tuple) else values        # oriented points: their normals
    return ListEncoder(), _three_channels(values.flatten(1).mT[None])


def _small(signal: GridSignal) -> Tensor:
    """Return a volume (1, channels, d, h, w), averaged down; one slice at a time is held in float32."""
    count, *size = signal.spec.shape
    rows, small = len(signal) // count, [min(n, LONGEST) for n in size]
    kept = []
    for i in range(min(count, LONGEST)):
        first, last = i * count // min(count, LONGEST), -(-(i + 1) * count // min(count, LONGEST))
        pictures = [signal.stored(slice(t * rows, (t + 1) * rows)).reshape(*size, -1).movedim(-1, 0)
                    for t in range(first, last)]
        kept.append(F.adaptive_avg_pool2d(torch.stack(pictures).mean(0), small))
    return torch.stack(kept, 1)[None]


class Normed(nn.Sequential):
    """Convolution and batch normalisation by the statistics of the one signal at hand."""

    def __init__(self, dims: int, in_features: int, out_features: int, kernel, stride=1, padding=0):
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1]
        super().__init__(conv(in_features, out_features, kernel, stride, padding, bias=False),
                         norm(out_features, track_running_stats=False))
        nn.init.kaiming_normal_(self[0].weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map (1, in, …) to (1, out, …); a single place has no statistics and stays as it is."""
        x = self[0](x)
        return self[1](x) if x[0, 0].numel() > 1 else x


class Residual(nn.Module):
    """A basic residual block of two 3-wide convolutions."""

    def __init__(self, dims: int, in_features: int, out_features: int, stride: int = 1):
        super().__init__()
        self.first = Normed(dims, in_features, out_features, 3, stride, 1)
        self.second = Normed(dims, out_features, out_features, 3, 1, 1)
        same = in_features == out_features and stride == 1
        self.skip = nn.Identity() if same else Normed(dims, in_features, out_features, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (1, in, …) to (1, out, …)."""
        return F.relu(self.second(F.relu(self.first(x))) + self.skip(x))


class ResNetStem(nn.Module):
    """The first five children of ResNet-34, averaged over the image: (1, 3, h, w) to (64,)."""

    features = 64

    def __init__(self):
        super().__init__()
        self.stem = Normed(2, 3, 64, 7, 2, 3)
        self.blocks = nn.Sequential(*(Residual(2, 64, 64) for _ in range(3)))

    def forward(self, image: Tensor) -> Tensor:
        """Encode an image."""
        return self.blocks(F.max_pool2d(F.relu(self.stem(image)), 3, 2, 1)).mean((0, 2, 3))


class VolumeStem(nn.Module):
    """The first three children of a 3-D ResNet-18, averaged over the volume: (1, 3, d, h, w) to (128,)."""

    features = 128

    def __init__(self):
        super().__init__()
        self.stem = Normed(3, 3, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3))
        self.blocks = nn.Sequential(Residual(3, 64, 64), Residual(3, 64, 64),
                                    Residual(3, 64, 128, 2), Residual(3, 128, 128))

    def forward(self, volume: Tensor) -> Tensor:
        """Encode a volume."""
        return self.blocks(F.relu(self.stem(volume))).mean((0, 2, 3, 4))


class ListEncoder(nn.Module):
    """Three 1-D convolutions over a list of measured values, averaged: (1, 3, n) to (64,)."""

    features = 64

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv1d(3, 32, 3, padding=1), nn.Conv1d(32, 64, 5, padding=2, groups=32),
                                     nn.Conv1d(64, 64, 7, padding=3, groups=64)])

    def forward(self, values: Tensor) -> Tensor:
        """Encode a list of values."""
        for layer in self.layers:
            values = F.relu(layer(values))
            values = F.max_pool1d(values, 2) if values.shape[-1] > 1 else values
        return values.mean((0, 2))


class Cepstrum(nn.Module):
    """Mel-frequency cepstrum averaged over time and normalised: (n,) to (50,). Windows of 400, hops of 160 samples."""

    features = 50

    def __init__(self, rate: int, window: int = 400, hop: int = 160):
        super().__init__()
        self.window, self.hop = window, hop
        self.register_buffer("hann", torch.hann_window(window), persistent=False)
        self.register_buffer("mel", mel_filters(self.features, window // 2 + 1, rate / 2), persistent=False)
        k = torch.arange(self.features)
        cosines = torch.cos(math.pi / self.features * (k + 0.5) * k[:, None]) * math.sqrt(2 / self.features)
        cosines[0] /= math.sqrt(2)
        self.register_buffer("cosines", cosines, persistent=False)

    def forward(self, sound: Tensor) -> Tensor:
        """Encode a sound."""
        sound = F.pad(sound, (0, max(0, self.window - len(sound))))
        spectrum = torch.stft(sound, self.window, self.hop, window=self.hann, center=False, return_complex=True)
        decibels = 10 * torch.log10((self.mel @ spectrum.abs().square()).clamp_min(1e-10))
        decibels = torch.maximum(decibels, decibels.max() - 80)
        return F.layer_norm((self.cosines @ decibels).mean(-1), [self.features])    # decibels span hundreds


def mel_filters(filters: int, bins: int, highest: float) -> Tensor:
    """Return triangles (filters, bins) spaced evenly on the mel scale from 0 to `highest` Hz."""
    top = 2595 * math.log10(1 + highest / 700)
    corners = 700 * (10 ** (torch.linspace(0, top, filters + 2) / 2595) - 1)
    frequency = torch.linspace(0, highest, bins)
    low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    return torch.minimum((frequency - low) / (middle - low), (high - frequency) / (high - middle)).clamp_min(0)


def _three_channels(picture: Tensor) -> Tensor:
    """Return (1, 3, …) from (1, channels, …): one channel three times, two with their mean, the first three of more."""
    channels = picture.shape[1]
    if channels == 1:
        return picture.expand(-1, 3, *picture.shape[2:])
    if channels == 2:
        return torch.cat([picture, picture.mean(1, keepdim=True)], 1)
    return picture[:, :3]
