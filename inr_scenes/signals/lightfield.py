"""Light fields: posed pictures as Plücker rays and their colours, training and held-out views strictly apart."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..camera import Cameras, pluecker
from ..errors import InrError
from ..metrics import psnr, ssim
from ..rays import colours, in_frame
from ..signal import Signal
from ..spec import UNIT_RANGE, Frame, Spec
from . import scene
from .posed import Posed, detect, read, read_picture

WHITE = (1.0, 1.0, 1.0)


class Views:
    """Pictures as 8-bit values, camera after camera, row-major; their rays are made on the fly.

    images: (h, w, 3) or, with alpha, (h, w, 4) uint8 · lenses: per camera its viewing directions (h·w, 3) in camera
    space, or None for a pinhole, whose directions are computed · masks: per camera (h, w), zero where a pixel is left
    out. Transparent pictures lie on `background`; their `alpha` is kept, (n,) uint8.
    """

    def __init__(self, cameras: Cameras, images: Sequence[np.ndarray], names: Sequence[str], *,
                 background: Sequence[float] = WHITE, lenses: Sequence[Tensor | None] | None = None,
                 masks: Sequence[np.ndarray] | None = None):
        for name, image, size in zip(names, images, cameras.size.tolist(), strict=True):
            if image.dtype != np.uint8 or image.shape not in ((*size, 3), (*size, 4)):
                raise InrError(f"{name} is {image.dtype} {image.shape}; its camera needs uint8 of {size} and 3 or 4.")
        self.cameras, self.names = cameras, list(names)
        counts = cameras.size.prod(-1)
        self.stop = counts.cumsum(0)
        self.start = self.stop - counts
        self.pixels = torch.cat([torch.from_numpy(_composite(image, background)).reshape(-1, 3) for image in images])
        self.alpha = None
        if any(image.shape[-1] == 4 for image in images):
            alpha = torch.cat([torch.from_numpy(_alpha(image)).flatten() for image in images])
            self.alpha = alpha if (alpha < 255).any() else None
        self.valid = None if masks is None else torch.from_numpy(np.concatenate([m.ravel() > 0 for m in masks]))
        self.lens, self.lens_start = _lens_table(cameras, lenses)
        self.seen = cameras

    @classmethod
    def read(cls, posed: Posed, background: Sequence[float]) -> Self:
        """Load pictures, several at a time."""
        sizes = [tuple(size) for size in posed.cameras.size.tolist()]
        with ThreadPoolExecutor(4) as pool:
            images = list(pool.map(read_picture, posed.files, sizes))
            masks = posed.masks and [mask[..., 0] for mask in pool.map(read_picture, posed.masks, sizes)]
        return cls(posed.cameras, images, [file.name for file in posed.files], background=background,
                   lenses=posed.lenses, masks=masks)

    def place(self, frame: Frame | None) -> None:
        """Give rays in a frame's unit coordinates from now on."""
        self.seen = in_frame(self.cameras, frame)

    def __len__(self) -> int:
        return len(self.cameras)

    def to(self, device) -> None:
        """Move everything a batch needs."""
        for name in ("pixels", "alpha", "valid", "start", "stop", "lens", "lens_start", "seen"):
            value = getattr(self, name)
            setattr(self, name, None if value is None else value.to(device))

    def rays(self, index: Tensor) -> Tensor:
        """Return the Plücker coordinates (n, 6) of flat pixel indices (n,)."""
        view = torch.bucketize(index, self.stop, right=True)
        pixel = index - self.start[view]
        if self.lens is not None:
            local = self.lens[self.lens_start[view] + pixel]
        else:
            width = self.seen.size[view, 1]
            y = torch.div(pixel, width, rounding_mode="floor")
            place = torch.stack([pixel - y * width, y], -1) + 0.5
            place = (place - self.seen.centre[view]) / self.seen.focal[view]
            local = torch.stack([place[:, 0], -place[:, 1], -torch.ones_like(place[:, 0])], -1)
        pose = self.seen.poses[view]
        return pluecker(pose[:, :, 3], normalize((pose[:, :, :3] @ local[:, :, None])[:, :, 0], dim=-1))

    @property
    def wide(self) -> bool:
        """Whether a lens sees further than 70° from its axis."""
        return self.lens is not None and bool(self.lens[:, 2].max() > -math.cos(math.radians(70)))

    def bend(self, i: int) -> Tensor | None:
        """Return where the pixels of view i look, right and down per unit ahead, (1, 2, h, w); None for a pinhole."""
        if self.lens is None:
            return None
        height, width = self.cameras.size[i].tolist()
        table = self.lens[int(self.lens_start[i]):][:height * width]
        flat = table[:, :2] * torch.tensor([-1.0, 1.0]) / table[:, 2:].clamp_max(-0.1)
        return flat.T.reshape(1, 2, height, width)

    def pixel_range(self, i: int) -> slice:
        """Return the flat pixel indices of view i."""
        return slice(int(self.start[i]), int(self.stop[i]))

    def image(self, i: int) -> np.ndarray:
        """Return picture i, (height, width, 3) in [0, 1]."""
        part = self.pixels[self.pixel_range(i)].cpu().float() / 255
        return part.reshape(*self.cameras.size[i].tolist(), 3).numpy()

    def render(self, field, i: int) -> np.ndarray:
        """Return what a field shows to camera i, (height, width, 3) in [0, 1]."""
        part = self.pixel_range(i)
        shown = colours(field, self.rays(torch.arange(part.start, part.stop, device=self.pixels.device)))
        return shown.clamp(0, 1).reshape(*self.cameras.size[i].tolist(), 3).numpy()

    def compare(self, field) -> tuple[float, float]:
        """Return the mean over views of each view's PSNR, and of its SSIM; masked pixels count as right."""
        scores = []
        for i in range(len(self)):
            truth, image = self.image(i), self.render(field, i)
            counted = 1.0
            if self.valid is not None:
                valid = self.valid[self.pixel_range(i)].cpu().numpy()
                image = np.where(valid.reshape(*truth.shape[:2], 1), image, truth)
                counted = max(float(valid.mean()), 1e-12)
            mse = float(np.square(truth - image, dtype=np.float64).mean()) / counted
            scores.append((psnr(mse), ssim(truth, image)))
        return tuple(float(np.mean(part)) for part in zip(*scores))


class LightFieldSignal(Signal):
    """Colours in [0, 1] along rays, whose Plücker coordinates (direction, moment) are taken in the scene's frame."""

    kind = "lightfield"
    one_size = "--size HEIGHT WIDTH and the same number of training views"
    suffixes = (".json",)

    @dataclass(frozen=True)
    class Options:
        """How to read a set of posed pictures."""

        dataparser: str = "auto"
        """auto, a dataparser of nerfstudio (nerfstudio-data, blender-data, …), srn, or grid: view_ROW_COLUMN.png."""
        size: tuple[int, int] | None = None
        """Resize the pictures to height and width (Lanczos)."""
        background: str = "auto"
        """Colour behind transparent pictures: a name or #rrggbb; auto is white."""
        test_views: str = "auto"
        """Views held out of the fit: auto (as the data says), none, 8 (every eighth), or names as view_01_*,…."""
        spacing: float = 1.0
        """Plain grids: distance between neighbouring cameras, in world units."""
        fov: float = 40.0
        """Plain grids: horizontal field of view in degrees."""
        surface: bool = True
        """Look for the scene's rough surface, about a second's work, from which fields interpolate far better."""

    def __init__(self, train: Views, test: Views | None = None, *, like: Spec | None = None,
                 background: Sequence[float] = WHITE, surface: bool = True, name: str = "scene"):
        """Choose the frame from the training views, or take that of `like`."""
        if like is None:
            found = scene.find(train, surface)
            meta = {"background": list(background), **found.meta}
            like = Spec("lightfield", (), 6, 3, UNIT_RANGE, found.frame, meta)
        held_out = {} if test is None else {"held_out": test.cameras.to_json()}     # its own, not those of `like`
        meta = {name: value for name, value in like.meta.items() if name != "held_out"}
        self.spec = like.replace(cameras=train.cameras, meta=meta | held_out)
        self.train, self.test, self.name = train, test, name
        for views in filter(None, (train, test)):
            views.place(self.spec.frame)
        self.index = None if train.valid is None else train.valid.nonzero()[:, 0]
        if train.alpha is not None:
            self.focus = ((train.alpha if self.index is None else train.alpha[self.index]) > 0).nonzero()[:, 0]

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Say whether `path` is a folder of posed pictures or its transforms file."""
        return bool(detect(Path(path)))

    @classmethod
    def load(cls, path, *, like: Spec | None = None, dataparser: str = "auto", size=None, background: str = "auto",
             test_views: str = "auto", spacing: float = 1.0, fov: float = 40.0, surface: bool = True) -> Self:
        """Read a folder of posed pictures, or its transforms file. like: also its background, and its views' size."""
        path = Path(path).expanduser()
        if not path.exists():
            raise InrError(f"{path} does not exist.")
        if size is None and like is not None and like.cameras is not None:
            sizes = like.cameras.size
            size = sizes[0].tolist() if (sizes == sizes[0]).all() else None
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise InrError(f"--size {size} needs a height and a width of at least 1.")
        colour = _colour(background, like)
        dataparser = (detect(path) or "grid") if dataparser == "auto" else dataparser
        train, test = read(path, dataparser, size and tuple(size), test_views, spacing, fov)
        name = path.resolve().parent.name if path.is_file() else path.resolve().name
        return cls(Views.read(train, colour), test and Views.read(test, colour), like=like, background=colour,
                   surface=surface, name=name)

    @classmethod
    def from_views(cls, cameras: Cameras, images: Sequence[np.ndarray], *,
                   test: tuple[Cameras, Sequence[np.ndarray]] | None = None, like: Spec | None = None,
                   background: Sequence[float] = WHITE, surface: bool = True, name: str = "scene") -> Self:
        """Make a signal of cameras and their images (h, w, 3) or (h, w, 4) uint8; test: held-out ones."""
        train, held = (part and Views(*part, [f"view {i}" for i in range(len(part[1]))], background=background)
                       for part in ((cameras, images), test))
        return cls(train, held, like=like, background=background, surface=surface, name=name)

    def __len__(self) -> int:
        return len(self.train.pixels) if self.index is None else len(self.index)

    def sample(self, index: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return Plücker rays (n, 6) of training pixels and their values (n, 3) in the network's range."""
        index = index if self.index is None else self.index[index]
        return self.train.rays(index), self.spec.values.to_net(self.train.pixels[index].float() / 255)

    def metrics(self, field) -> dict[str, float]:
        """Mean over views of each view's PSNR: of the training views, and with SSIM of the held-out ones."""
        result = {"psnr": self.train.compare(field)[0]}
        if self.test is not None:
            result["psnr_test"], result["ssim_test"] = self.test.compare(field)
        return result

    def pictures(self, field) -> list[tuple[np.ndarray, np.ndarray]]:
        """Four held-out views spread over the set (training views where there are none), and what the field shows."""
        views = self.test or self.train
        chosen = np.unique(np.linspace(0, len(views) - 1, 4).round().astype(int)).tolist()
        return [(views.image(i), views.render(field, i)) for i in chosen]

    @property
    def device(self) -> torch.device:
        """Where the pixels live."""
        return self.train.pixels.device

    def to(self, device) -> Self:
        """Move the training and the held-out views."""
        for views in filter(None, (self.train, self.test)):
            views.to(device)
        self.focus = None if self.focus is None else self.focus.to(device)
        self.index = None if self.index is None else self.index.to(device)
        return self


def _composite(image: np.ndarray, background: Sequence[float]) -> np.ndarray:
    """Lay a picture with straight alpha on a colour."""
    if image.shape[-1] == 3:
        return image
    alpha = image[..., 3:].astype(np.float32) / 255
    ground = 255 * np.asarray(background, np.float32)
    return (image[..., :3] * alpha + ground * (1 - alpha) + 0.5).astype(np.uint8)


def _alpha(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[..., 3]) if image.shape[-1] == 4 else np.full(image.shape[:2], 255, np.uint8)


def _colour(name: str, like: Spec | None) -> tuple[float, ...]:
    """Return the red, green and blue in [0, 1] of a colour's name; "auto": that of `like`, or white."""
    from PIL import ImageColor

    if name == "auto":
        return tuple(like.meta.get("background", WHITE)) if like is not None else WHITE
    try:
        return tuple(c / 255 for c in ImageColor.getrgb(name)[:3])
    except ValueError:
        raise InrError(f"--background {name!r} is no colour: give a name as white or #rrggbb.") from None


def _lens_table(cameras: Cameras, lenses: Sequence[Tensor | None] | None) -> tuple[Tensor | None, Tensor | None]:
    """Return all distinct lenses one after another (m, 3), and where each camera's begins; none if all are pinholes."""
    if lenses is None or all(lens is None for lens in lenses):
        return None, None
    table, begins, known = [], [], {}
    for i, lens in enumerate(lenses):
        key = (*cameras.focal[i].tolist(), *cameras.centre[i].tolist(), *cameras.size[i].tolist()) \
            if lens is None else id(lens)
        if key not in known:
            known[key] = sum(len(part) for part in table)
            table.append(cameras.directions(i) if lens is None else lens)
        begins.append(known[key])
    return torch.cat(table), torch.tensor(begins)
