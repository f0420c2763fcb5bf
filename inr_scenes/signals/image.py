"""Images: PNG, JPEG, WebP, TIFF; grey, RGB or RGBA; 8 and 16 bit; upright by their EXIF orientation."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..errors import InrError, need
from ..field import decode_all, decode_bands
from ..files import readable
from ..metrics import psnr_ssim
from ..signal import GridSignal
from ..spec import UNIT_RANGE, Axis, Spec

LARGEST = 1 << 28                   # pixels; beyond this a file is more likely a decompression bomb than a photo


class ImageSignal(GridSignal):
    """An image with values in [0, 1]; axes (y, x), rows downwards."""

    kind = "image"
    one_size = "--size HEIGHT WIDTH, --mode rgb"
    suffixes = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")

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
        return signal

    @classmethod
    def from_array(cls, array, *, bits: int | None = None, grid: str = "centers", name: str = "image") -> "ImageSignal":
        """Make a signal of an array (h, w) or (h, w, c): uint8, or floats in [0, 1]."""
        array = np.asarray(array)
        array = array[..., None] if array.ndim == 2 else array
        if array.ndim != 3 or not array.size:
            raise InrError(f"An image needs shape (h, w) or (h, w, channels), not {array.shape}.")
        if not np.isfinite(array).all():
            raise InrError("The image holds values that are not numbers.")
        gain = 1 / 255 if array.dtype == np.uint8 else 1.0
        raw = array if gain != 1.0 else array.astype(np.float32)
        data = torch.from_numpy(np.array(raw, order="C"))      # a copy: Pillow hands out read-only memory
        height, width, channels = array.shape
        spec = Spec("image", (Axis.regular(height, grid), Axis.regular(width, grid)), 2, channels, UNIT_RANGE,
                    meta={"bits": bits or (8 if gain != 1.0 else 16), "grid": grid})
        return cls(spec, data.reshape(-1, channels), gain, name)

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
        """The image and its reconstruction."""
        return [(self.array().cpu().numpy(), decode_all(field, self.spec).clamp(0, 1).numpy())]


def read_image(path: Path, mode: str = "auto", size=None) -> tuple[np.ndarray, int]:
    """Read an image file as an array (h, w, c), uint8 or float32 in [0, 1], with its bits per channel."""
    import warnings

    from PIL import Image, ImageOps, UnidentifiedImageError

    modes = {"grey": "L", "rgb": "RGB", "rgba": "RGBA"}
    if mode != "auto" and mode not in modes:
        raise InrError(f"--mode {mode!r} is not known: auto, grey, rgb or rgba.")
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise InrError(f"--size {size} needs a height and a width of at least 1.")
    if (deep := _deep(path)) is not None:
        return _shaped(deep, mode, size), 16
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height > LARGEST:
                    raise InrError(f"{path} claims {image.width}×{image.height} pixels, more than {LARGEST}: refused.")
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
