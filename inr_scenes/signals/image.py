"""Images: PNG, JPEG, WebP, TIFF; grey, RGB or RGBA; 8 and 16 bit; upright by their EXIF orientation."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from ..errors import InrError, need
from ..field import decode_all, decode_bands
from ..files import readable
from ..media import LARGEST
from ..metrics import psnr_ssim
from ..signal import GridSignal
from ..spec import UNIT_RANGE, Axis, Spec

HELD = 1 << 26                      # pixels of a TIFF that are held in memory
SHOWN = 1 << 22                     # pixels of a picture in a sheet


class ImageSignal(GridSignal):
    """An image with values in [0, 1]; axes (y, x), rows downwards."""

    kind = "image"
    one_size = "--size HEIGHT WIDTH, --mode rgb"
    suffixes = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
    read_as: Mapping[str, Any] = MappingProxyType({})       # options that its file was read with, to read another alike

    @dataclass(frozen=True)
    class Options:
        """How to read an image."""

        size: tuple[int, int] | None = None
        """Resize to height and width (Lanczos)."""
        mode: str = "auto"
        """auto, grey, rgb or rgba."""
        grid: str = "centers"
        """Samples at cell "centers", or a grid that includes both "ends" of [-1, 1]."""

    @classmethod
    def load(cls, path, *, like: Spec | None = None, size=None, mode: str = "auto", grid: str = "centers"):
        """Read an image. Raises InrError for anything that is not a whole, sensible image file."""
        path = readable(path)
        array, bits = read_image(path, mode, size)
        signal = cls.from_array(array, bits=bits, grid=grid, name=path.stem)
        if like is not None:
            signal = signal.suited(like).beside(like.replace(meta={**like.meta, "bits": bits}), path)
        signal.read_as = {"size": size, "mode": mode}
        return signal

    @classmethod
    def from_array(cls, array, *, bits: int | None = None, grid: str = "centers", name: str = "image") -> "ImageSignal":
        """Make a signal of an array (h, w) or (h, w, c): uint8, uint16, or floats in [0, 1].

        A numpy.memmap is not copied: its values stay in its file.
        """
        array = np.asanyarray(array)
        array = array[..., None] if array.ndim == 2 else array
        if array.ndim != 3 or not array.size:
            raise InrError(f"An image needs shape (h, w) or (h, w, channels), not {array.shape}.")
        gain = {np.uint8: 1 / 255, np.uint16: 1 / 65535}.get(array.dtype.type, 1.0)
        if gain == 1.0 and not np.isfinite(array).all():
            raise InrError("The image holds values that are not numbers.")
        if not isinstance(array, np.memmap):
            array = np.array(array, array.dtype if gain != 1.0 else np.float32, order="C")     # Pillow's is read-only
        height, width, channels = array.shape
        spec = Spec("image", (Axis.regular(height, grid), Axis.regular(width, grid)), 2, channels, UNIT_RANGE,
                    meta={"bits": bits or (8 if array.dtype == np.uint8 else 16), "grid": grid})
        return cls(spec, torch.from_numpy(array).reshape(-1, channels), gain, name)

    def suited(self, spec: Spec) -> "ImageSignal":
        """Return a grey picture as three equal channels where `spec` has colours."""
        if self.spec.out_features != 1 or spec.out_features != 3:
            return self
        data = self.data.expand(-1, 3).contiguous()
        return ImageSignal(self.spec.replace(out_features=3), data, self.gain, self.name)

    def metrics(self, field) -> dict[str, float]:
        """PSNR and SSIM over every pixel, values clipped to [0, 1]."""
        return psnr_ssim((self.stored(part).cpu().reshape(image.shape).numpy(), image.clamp(0, 1).numpy())
                         for part, image in decode_bands(field, self.spec))

    def pictures(self, field) -> list[tuple[np.ndarray, np.ndarray]]:
        """The image and its reconstruction, of a large one every so many-th pixel."""
        seen = self.thinned(SHOWN)
        return [(seen.array().cpu().numpy(), decode_all(field, seen.spec).clamp(0, 1).numpy())]


def read_image(path: Path, mode: str = "auto", size=None) -> tuple[np.ndarray, int]:
    """Read an image file as an array (h, w, c), uint8 or float32 in [0, 1], with its bits per channel.

    A TIFF of more than `HELD` pixels comes as a numpy.memmap, uint8 or uint16, of a temporary file without a name.
    """
    import warnings

    from PIL import Image, ImageOps, UnidentifiedImageError

    modes = {"grey": "L", "rgb": "RGB", "rgba": "RGBA"}
    if mode != "auto" and mode not in modes:
        raise InrError(f"--mode {mode!r} is not known: auto, grey, rgb or rgba.")
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise InrError(f"--size {size} needs a height and a width of at least 1.")
    if (huge := _huge_tiff(path)) is not None:
        if size is not None or mode not in ("auto", {1: "grey", 3: "rgb", 4: "rgba"}[huge.shape[2]]):
            raise InrError(f"{path} has {huge.shape[0]}×{huge.shape[1]} pixels, too many to be resized or recoloured "
                           f"here: leave --size and --mode away, or change it beforehand.")
        return huge, 8 * huge.dtype.itemsize
    if (deep := _deep(path)) is not None:
        return _shaped(deep, mode, size), 16
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height > LARGEST:
                    raise InrError(f"{path} claims {image.width}×{image.height} pixels, more than {LARGEST}: refused. "
                                   f"A picture of that size is read from a TIFF of 8 or 16 bits, bare or deflated.")
                image.load()
                image = ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise InrError(f"{path} is not an image that Pillow can read.") from None
    except Image.DecompressionBombError:
        raise InrError(f"{path} claims more pixels than is sensible (a decompression bomb?): refused.") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise InrError(f"{path} is damaged: {error}.") from None
    deep = image.mode.startswith("I") or image.mode == "F"      # Pillow keeps 16-bit images as one grey channel
    if deep:
        array = np.asarray(image, dtype=np.float32)
        return _shaped((array if image.mode == "F" else array / 65535)[..., None], mode, size), 16
    if mode != "auto":
        image = image.convert(modes[mode])
    elif image.mode not in ("L", "RGB", "RGBA"):
        transparent = "A" in image.mode or "transparency" in image.info
        image = image.convert("RGBA" if transparent else "L" if image.mode == "1" else "RGB")
    if size is not None:
        image = image.resize((size[1], size[0]), Image.Resampling.LANCZOS)
    array = np.asarray(image)
    return (array[..., None] if array.ndim == 2 else array), 8


def _shaped(array: np.ndarray, mode: str, size) -> np.ndarray:
    """Bring a deep image (h, w, c), which Pillow knows no mode for, to the channels and the size asked for."""
    from PIL import Image

    channels = {"auto": array.shape[2], "grey": 1, "rgb": 3, "rgba": 4}[mode]
    if channels == 1 and array.shape[2] > 1:
        array = array[..., :3] @ np.array([[0.299], [0.587], [0.114]], np.float32)      # as Pillow's "L"
    elif channels > array.shape[2]:
        opaque = np.ones_like(array[..., :1])
        array = np.concatenate([array if array.shape[2] == 3 else np.repeat(array, 3, -1), opaque], -1)
    array = array[..., :channels]
    if size is not None:
        parts = [Image.fromarray(np.ascontiguousarray(array[..., i])).resize((size[1], size[0]),
                                                                             Image.Resampling.LANCZOS)
                 for i in range(channels)]
        array = np.stack([np.asarray(part) for part in parts], -1)
    return np.clip(array, 0, 1)


def _deep(path: Path) -> np.ndarray | None:
    """Read an image of 16 bits and several channels, which Pillow would cut to 8, as (h, w, c) in [0, 1]; None for
    any other."""
    if path.suffix.lower() in (".tif", ".tiff"):
        return _deep_tiff(path)
    with path.open("rb") as file:
        head = file.read(26)
    if head[:8] != b"\x89PNG\r\n\x1a\n" or head[24:] not in (b"\x10\x02", b"\x10\x06"):     # depth 16, RGB or RGBA
        return None
    width, height = (int.from_bytes(head[i:i + 4], "big") for i in (16, 20))
    if width * height > LARGEST:
        return None                     # Pillow says what is wrong
    av = need("av", extra="video", why="for colour images of 16 bits")
    try:
        with av.open(str(path), format="png_pipe") as file:
            frame = next(file.decode(video=0))
            layout = "rgb48le" if head[25] == 2 else "rgba64le"
            return frame.reformat(format=layout).to_ndarray().astype(np.float32) / 65535
    except (av.FFmpegError, StopIteration):
        return None


def _huge_tiff(path: Path) -> np.ndarray | None:
    """Unpack a TIFF of more than `HELD` pixels, strip by strip or tile by tile, to disk, where it stays; None for any
    other file."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return None
    import tifffile

    pixels = 0
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            pixels = page.imagelength * page.imagewidth
            if pixels <= HELD:
                return None
            turned = page.tags.get("Orientation")
            plain = (page.axes in ("YX", "YXS") and page.samplesperpixel in (1, 3, 4)
                     and page.photometric in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB))
            if not plain or page.dtype not in (np.uint8, np.uint16) or (turned and turned.value > 1):
                raise InrError(f"{path} is a large TIFF of another kind than 8 or 16 bits, grey, RGB or RGBA, upright, "
                               f"channels together: convert it to one of these.")
            if page.nbytes > (free := shutil.disk_usage(tempfile.gettempdir()).free):
                raise InrError(f"{path} takes {page.nbytes / 2**30:.1f} GiB unpacked, {tempfile.gettempdir()} has "
                               f"{free / 2**30:.1f} free: name a larger folder in TMPDIR.")
            if max(map(sum, zip(page.dataoffsets, page.databytecounts))) > path.stat().st_size:
                raise InrError(f"{path} is damaged: it ends before its pixels do.")
            array = page.asarray(out="memmap")
            return array[..., None] if array.ndim == 2 else array
    except InrError:
        raise
    except Exception as error:          # whatever a broken file raises in a decoder
        if pixels > LARGEST:
            raise InrError(f"{path} cannot be unpacked: {error}.") from None
        return None                     # Pillow tries next and says what is wrong


def _deep_tiff(path: Path) -> np.ndarray | None:
    """Read a TIFF of 16 bits and several channels as (h, w, c) in [0, 1]; None for any other."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            if page.dtype != np.uint16 or page.ndim != 3 or page.shape[2] not in (3, 4) or page.size > 4 * LARGEST:
                return None
            return page.asarray().astype(np.float32) / 65535
    except Exception:                   # not for tifffile: Pillow tries next and says what is wrong
        return None
