"""Make chord.wav: one second of a plucked A major chord, mono, 16 kHz."""

from pathlib import Path

import numpy as np

from inr_scenes.media import write_audio

RATE = 16_000


def chord(seconds: float = 1.0) -> np.ndarray:
    """Return samples (n, 1) of three decaying strings with overtones, peak 0.8."""
    t = np.arange(round(seconds * RATE)) / RATE
    tones = sum(np.sin(2 * np.pi * f * k * t + k) * np.exp(-(2 + k) * np.maximum(t - start, 0)) / k * (t >= start)
                for f, start in ((220.0, 0.0), (277.18, 0.08), (329.63, 0.16)) for k in (1, 2, 3, 5))
    return (0.8 * tones / np.abs(tones).max())[:, None].astype(np.float32)


if __name__ == "__main__":
    write_audio(Path(__file__).with_name("chord.wav"), chord(), RATE)
