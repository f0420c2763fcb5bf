"""Sound: WAV of every sample format, FLAC, OGG; mono or stereo."""

from dataclasses import dataclass

import numpy as np
import torch

from ..errors import InrError
from ..field import decode_all
from ..files import readable
from ..metrics import psnr
from ..signal import GridSignal
from ..spec import Axis, Spec, ValueMap


class AudioSignal(GridSignal):
    """Sound with values scaled to a peak of 1; one axis (t), one feature per channel."""

    kind = "audio"
    one_size = "--seconds-long SECONDS, --mono"
    suffixes = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff")

    @dataclass(frozen=True)
    class Options:
        """How to read a sound."""

        start: float = 0.0
        """First second to take."""
        seconds_long: float | None = None
        """How many seconds to take; none: to the end."""
        mono: bool = False
        """Average the channels."""
        grid: str = "centers"
        """Samples at cell "centers", or a grid that includes both "ends" of [-1, 1]."""

    @classmethod
    def load(cls, path, *, like: Spec | None = None, start: float = 0.0, seconds_long: float | None = None,
             mono: bool = False, grid: str = "centers"):
        """Read a sound file. Raises InrError when it cannot be decoded or holds no sample."""
        import soundfile

        path = readable(path)
        if start < 0 or (seconds_long is not None and seconds_long <= 0):
            raise InrError("--start must be 0 or more and --seconds-long above 0.")
        try:
            with soundfile.SoundFile(path) as file:
                rate, total = file.samplerate, file.frames
                low = min(round(start * rate), total)
                file.seek(low)
                count = total - low if seconds_long is None else min(round(seconds_long * rate), total - low)
                samples = file.read(count, dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
            raise InrError(f"{path} is not a sound file that can be decoded ({error}).") from None
        if not len(samples):
            raise InrError(f"{path} holds no samples{' after --start' if start else ''}.")
        if mono:
            samples = samples.mean(1, keepdims=True)
        signal = cls.from_array(samples, rate, grid=grid, name=path.stem)
        if like is not None:
            signal = signal.beside(like, path)
        return signal

    @classmethod
    def from_array(cls, samples, rate: int, *, grid: str = "centers", name: str = "audio") -> "AudioSignal":
        """Make a signal of samples (n,) or (n, channels) at `rate` per second."""
        samples = np.asarray(samples, dtype=np.float32)
        samples = samples[:, None] if samples.ndim == 1 else samples
        if not np.isfinite(samples).all():
            raise InrError("The sound holds values that are not numbers.")
        peak = float(np.abs(samples).max())
        if peak == 0:
            raise InrError("The sound is silent: there is nothing to fit.")
        spec = Spec("audio", (Axis.regular(len(samples), grid),), 1, samples.shape[1], ValueMap(peak, 0.0),
                    meta={"sample_rate": int(rate), "grid": grid})
        return cls(spec, torch.from_numpy(samples), 1.0, name)

    def metrics(self, field) -> dict[str, float]:
        """PSNR with the peak as 1, and the signal-to-noise ratio, both in dB."""
        truth = self.array().cpu().numpy()
        error = float(np.square(truth - decode_all(field, self.spec).numpy(), dtype=np.float64).mean())
        power = float(np.square(truth, dtype=np.float64).mean())
        return {"psnr": psnr(error, self.peak), "snr": psnr(error, power**0.5)}

    def pictures(self, field) -> list[tuple[np.ndarray, np.ndarray]]:
        """The waveforms of the first channel: the whole, and a twentieth of a second from its loudest part."""
        truth = self.array().cpu().numpy()[:, 0] / self.peak
        guess = decode_all(field, self.spec).numpy()[:, 0] / self.peak
        width = max(16, self.spec.meta["sample_rate"] // 20)
        middle = int(np.clip(np.abs(truth).argmax(), width // 2, max(width // 2, len(truth) - width // 2)))
        part = slice(middle - width // 2, middle + width // 2)
        return [(waveform(truth), waveform(guess)), (waveform(truth[part]), waveform(guess[part]))]


def waveform(samples: np.ndarray, width: int = 640, height: int = 160) -> np.ndarray:
    """Draw samples in [-1, 1] as a picture (height, width, 3): the range of each column in dark on white."""
    picture = np.ones((height, width, 3), np.float32)
    edges = np.linspace(0, len(samples), width + 1).astype(int)
    for x in range(width):
        column = samples[edges[x]:max(edges[x] + 1, edges[x + 1])]
        if len(column):
            high, low = ((1 - np.clip(v, -1, 1)) / 2 * (height - 1) for v in (column.max(), column.min()))
            picture[int(high):int(np.ceil(low)) + 1, x] = (0.1, 0.2, 0.5)
    return picture
