"""Export images, videos and sound, at any size or rate and of any sub-box."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InrError
from ..field import Field, decode, decode_all, decode_bands
from ..hookspecs import Exporter
from ..media import FILMS, IMAGES, to_bytes, write_audio, write_bands, write_image, write_video
from ..spec import Spec
from ..units import index_box


def _region(spec: Spec, box) -> Spec:
    return spec.cropped(index_box(spec, box)) if box else spec


def _sized(spec: Spec, size, scale: float) -> Spec:
    """Give the last two axes `size`, or their own size times `scale`."""
    if size is None and scale == 1.0:
        return spec
    height, width = size or (round(n * scale) for n in spec.shape[-2:])
    if min(height, width) < 1:
        raise InrError("The size to export must be at least 1×1.")
    axes = (*spec.axes[:-2], spec.axes[-2].resampled(height), spec.axes[-1].resampled(width))
    return spec.replace(axes=axes)      # frames keep their numbers


@dataclass(frozen=True)
class ImageOptions:
    """How to write an image."""

    size: tuple[int, int] | None = None
    """Height and width; default: the original's."""
    scale: float = 1.0
    """Or: times the original's height and width."""
    box: tuple[int, ...] | None = None
    """Only these rows and columns: row column row column, half open."""
    bits: int = 8
    """8 or 16 bits per channel (16: TIFF, or grey PNG)."""
    precision: str = "32"
    """32, or auto: products in what the device is quick at (bf16, fp16), a noise of about 50 dB."""


def write_image_field(field: Field, path: Path, options: ImageOptions) -> dict[str, Any]:
    """Write an image field."""
    if options.bits not in (8, 16):
        raise InrError("--bits must be 8 or 16.")
    spec = _sized(_region(field.spec, options.box), options.size, options.scale)
    shape = (*spec.shape, spec.out_features)
    bands = ((slice(part.start // shape[1], part.stop // shape[1]), band.numpy())
             for part, band in decode_bands(field, spec, options.precision))
    write_bands(path, shape, bands, options.bits)
    return {"shape": list(shape)}


@dataclass(frozen=True)
class VideoOptions:
    """How to write a video."""

    size: tuple[int, int] | None = None
    """Height and width; default: the original's."""
    scale: float = 1.0
    """Or: times the original's height and width."""
    box: tuple[int, ...] | None = None
    """Only these frames, rows and columns: frame row column frame row column, half open."""
    fps: float | None = None
    """Frames per second, over the same duration: the field is evaluated in between; default: the original's."""
    frame: int | None = None
    """For a picture: which frame; default: the middle one."""
    precision: str = "auto"
    """Of a film. auto: products in what the device is quick at (bf16, fp16), a noise of about 50 dB; or 32."""


def write_video_field(field: Field, path: Path, options: VideoOptions) -> dict[str, Any]:
    """Write a video field as a film, or one of its frames as a picture."""
    spec = _sized(_region(field.spec, options.box), options.size, options.scale)
    rate = field.spec.meta.get("fps", 24.0)
    if path.suffix.lower() in IMAGES:
        axis = spec.axes[0]
        frame = axis.first + axis.count // 2 if options.frame is None else options.frame
        if not axis.first <= frame < axis.stop:
            raise InrError(f"--frame {frame} is not among frames {axis.first} to {axis.stop - 1}.")
        image = decode_all(field, spec.along(frame, frame + 1))[0]
        write_image(path, to_bytes(image.numpy()))
        return {"shape": list(image.shape)}
    if options.fps:
        spec = spec.resampled((max(1, round(spec.shape[0] * options.fps / rate)), *spec.shape[1:]))
    count = write_video(path, frames(field, spec, options.precision), options.fps or rate)
    return {"shape": [count, *spec.shape[1:], spec.out_features], "fps": options.fps or rate}


def frames(field: Field, spec: Spec, precision: str = "32") -> Iterator[np.ndarray]:
    """Yield a video field's frames (h, w, 3) uint8, a band of them in memory at a time."""
    for _, band in decode_bands(field, spec, precision):
        yield from to_bytes(band.numpy())


@dataclass(frozen=True)
class AudioOptions:
    """How to write a sound."""

    rate: int | None = None
    """Samples per second; default: the original's."""
    box: tuple[float, ...] | None = None
    """Only these seconds: start end."""
    bits: int = 16
    """16, 24, or 32 for float samples."""


def write_audio_field(field: Field, path: Path, options: AudioOptions) -> dict[str, Any]:
    """Write a sound field."""
    spec = _region(field.spec, options.box)
    original = field.spec.meta["sample_rate"]
    rate = options.rate or original
    if rate != original:
        spec = spec.resampled((max(1, round(spec.shape[0] * rate / original)),))
    samples = np.concatenate([values.numpy() for _, values in decode(field, spec)])
    write_audio(path, samples, rate, options.bits)
    return {"samples": len(samples), "rate": rate, "seconds": len(samples) / rate}


@dataclass(frozen=True)
class ArrayOptions:
    """How to write bare values."""

    box: tuple[float, ...] | None = None
    """Only this box, in the signal's own units: LOW… HIGH…."""


def write_array(field: Field, path: Path, options: ArrayOptions) -> dict[str, Any]:
    """Write stored values, float32, with the signal's axes and its features last."""
    values = decode_all(field, _region(field.spec, options.box)).numpy()
    with path.open("wb") as file:
        np.save(file, values)
    return {"shape": list(values.shape)}


EXPORTERS = [
    Exporter("image", frozenset({"image"}), IMAGES, ImageOptions, write_image_field),
    Exporter("video", frozenset({"video"}), (*FILMS, *IMAGES), VideoOptions,
             write_video_field),
    Exporter("audio", frozenset({"audio"}), (".wav", ".flac", ".ogg", ".mp3"), AudioOptions,
             write_audio_field),
    Exporter("array", frozenset({"image", "video", "audio"}), (".npy",), ArrayOptions, write_array),
]
