"""Write pictures, videos and sound; the suffix decides the format."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from .errors import InrError

TIFF = (".tif", ".tiff")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")       # of views and sheets
IMAGES = (*PICTURES, *TIFF, ".bmp")
FILMS = (".mp4", ".mkv", ".mov", ".webm", ".gif")
LARGEST = 1 << 28                   # pixels of other pictures, which Pillow holds in memory
PNG_LEVEL = 4                       # a third of the time of Pillow's 6, for about as many bytes


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Round values in [0, 1] to uint8."""
    return (np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)


def to_words(values: np.ndarray) -> np.ndarray:
    """Round values in [0, 1] to uint16."""
    return (np.clip(values, 0, 1) * 65535 + 0.5).astype(np.uint16)


def write_image(path: Path, array: np.ndarray, bits: int = 8) -> None:
    """Write (h, w) or (h, w, c) values, uint8, uint16 or floats in [0, 1], as .png .jpg .webp .tif or .bmp.

    bits: of floats; 16 keeps 16 bits per channel, for TIFF and for grey PNG.
    """
    from PIL import Image

    array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if array.dtype not in (np.uint8, np.uint16):
        array = to_words(array) if bits == 16 else to_bytes(array)
    if array.ndim == 3 and array.shape[2] not in (3, 4):
        raise InrError(f"An image of {array.shape[2]} channels cannot be written as {path.suffix}; use .npy.")
    suffix = path.suffix.lower()
    if suffix in TIFF:
        with _tiff(path, array.shape, array.dtype) as image:
            image[:] = array
    elif array.dtype == np.uint16:
        if suffix != ".png" or array.ndim != 2:
            raise InrError("16 bits are written as .tif, or as .png for grey images.")
        Image.fromarray(array).save(path, compress_level=PNG_LEVEL)
    elif suffix in (".jpg", ".jpeg"):
        image = Image.fromarray(array)
        image.convert("L" if image.mode == "L" else "RGB").save(path, quality=95)
    else:
        try:
            Image.fromarray(array).save(path, compress_level=PNG_LEVEL)        # which others ignore
        except ValueError as error:         # Pillow knows a format by its suffix
            raise InrError(f"A picture cannot be written as {suffix or path.name!r} ({error}); use .png.") from None


def write_bands(path: Path, shape: tuple[int, int, int], bands: Iterable[tuple[slice, np.ndarray]],
                bits: int = 8) -> None:
    """Write a picture (h, w, c) that comes as (rows, their values in [0, 1]); a TIFF is never held in memory whole."""
    rounding, dtype = (to_words, np.uint16) if bits == 16 else (to_bytes, np.uint8)
    if path.suffix.lower() in TIFF and shape[2] in (1, 3, 4):
        with _tiff(path, shape[:2] if shape[2] == 1 else shape, dtype) as image:
            for rows, values in bands:
                image[rows] = rounding(values).reshape(-1, *image.shape[1:])
        return
    if shape[0] * shape[1] > LARGEST:
        raise InrError(f"{shape[0]}×{shape[1]} pixels are too many for {path.suffix}: write .tif.")
    image = np.empty(shape, dtype)
    for rows, values in bands:
        image[rows] = rounding(values)
    write_image(path, image)


@contextmanager
def _tiff(path: Path, shape: tuple[int, ...], dtype) -> Iterator[np.ndarray]:
    """Yield an array whose values go into an uncompressed TIFF."""
    import tifffile

    image = tifffile.memmap(path, shape=shape, dtype=dtype, photometric="minisblack" if len(shape) == 2 else "rgb")
    if hasattr(os, "posix_fallocate"):          # a disk that is full says so now, and not by killing the process later
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    yield image
    image.flush()


def write_video(path: Path, frames: Iterable[np.ndarray], fps: float) -> int:
    """Write frames (h, w, 3), or grey (h, w, 1), uint8, as .mp4 .mkv .mov .webm (through PyAV) or .gif; return how many
    there were."""
    frames = (np.repeat(frame, 3, -1) if frame.shape[-1] == 1 else frame for frame in frames)
    if path.suffix.lower() == ".gif":
        return _write_gif(path, frames, fps)
    from fractions import Fraction

    import av

    count = 0
    try:
        with av.open(str(path), "w") as container:
            codec = "libvpx-vp9" if path.suffix.lower() == ".webm" else "libx264"
            # half the time of x264's own choice, for as many bytes: frames are evaluated beside it
            speed = {} if codec == "libvpx-vp9" else {"preset": "veryfast"}
            stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
            for frame in frames:
                frame = _even(frame)
                if not count:
                    stream.height, stream.width = frame.shape[:2]
                    stream.pix_fmt = "yuv420p"
                    stream.options = {"crf": "16", **speed}
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
                count += 1
            if not count:
                raise InrError("There is no frame to write.")
            container.mux(stream.encode())
    except av.FFmpegError as error:
        raise InrError(f"{path.suffix} could not be encoded ({error.strerror or error}).") from None
    return count


def _even(frame: np.ndarray) -> np.ndarray:
    """Repeat the last row or column where 4:2:0 colour needs an even size."""
    pad = [(0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)]
    return np.ascontiguousarray(np.pad(frame, pad, mode="edge") if pad[0][1] or pad[1][1] else frame)


def _write_gif(path: Path, frames: Iterable[np.ndarray], fps: float) -> int:
    from PIL import Image

    images = [Image.fromarray(frame) for frame in frames]
    if not images:
        raise InrError("There is no frame to write.")
    images[0].save(path, save_all=True, append_images=images[1:], duration=max(20, round(1000 / fps)), loop=0)
    return len(images)


def write_audio(path: Path, samples: np.ndarray, rate: int, bits: int = 16) -> None:
    """Write samples (n, channels), peak at most 1, as .wav .flac .ogg or another format of libsndfile."""
    import soundfile

    subtypes = {16: "PCM_16", 24: "PCM_24", 32: "FLOAT"}
    if bits not in subtypes:
        raise InrError(f"--bits {bits} is not known for sound: 16, 24 or 32 (float).")
    lossy = path.suffix.lower() in (".ogg", ".mp3")
    try:
        soundfile.write(path, np.clip(samples, -1, 1) if bits != 32 else samples, rate,
                        subtype=None if lossy else subtypes[bits])
    except (soundfile.LibsndfileError, ValueError) as error:
        raise InrError(f"{path.suffix} could not be written with {bits} bits at {rate} Hz ({error}).") from None
