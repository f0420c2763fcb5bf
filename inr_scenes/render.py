"""render: novel views of light fields and shapes, to a film or a folder of pictures, without a display."""

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from . import camera
from .camera import Cameras
from .errors import InrError
from .field import Field
from .files import atomic
from .media import FILMS, PICTURES, to_bytes, write_image, write_video
from .rays import colours, in_frame
from .spec import Spec

SHAPE_SIZE, SHAPE_FOV = 512, 35.0   # default cameras of a shape: pixels along a side, degrees
Item = TypeVar("Item")


def orbit(spec: Spec, frames: int = 120, elevation: float | None = None) -> Cameras:
    """Return cameras on a circle around the scene; where the training cameras stand side by side, on a spiral.

    elevation: degrees above the horizon; default: the training cameras' median, 20 for shapes.
    """
    cameras, target = _stand(spec)
    return camera.orbit(cameras, target, frames, elevation)


def spiral(spec: Spec, frames: int = 120) -> Cameras:
    """Return cameras winding through the region where the training cameras stand; around a shape, rising."""
    cameras, target = _stand(spec)
    return camera.spiral(cameras, target, frames)


def held_out(spec: Spec) -> Cameras:
    """Return the cameras of the views that were held out of the fit."""
    try:
        return Cameras.from_json(spec.meta["held_out"])
    except KeyError:
        raise InrError("No views were held out of this fit: use --path train, orbit or spiral.") from None
    except (TypeError, ValueError) as error:
        raise InrError(f"The cameras of the held-out views do not make sense ({error}).") from None


def render(field: Field, cameras: Cameras, path, *, fps: float = 24.0, resolution: int = 256) -> Path:
    """Render a field from cameras in world units to a film (.mp4 .gif …), a picture (one camera), or a folder of PNG.

    resolution: of the mesh that stands for a shape. A GPU evaluates frames while earlier ones are encoded; a CPU, all
    of which evaluation takes, does one after the other: both at once take a quarter longer.
    """
    path = Path(path).expanduser()
    suffix = path.suffix.lower()
    if suffix and suffix not in FILMS + PICTURES:
        raise InrError(f"Views cannot be written as {suffix}: give {' '.join(FILMS + PICTURES)}, or a folder.")
    if suffix in PICTURES and len(cameras) != 1:
        raise InrError(f"{path} is one picture, but {len(cameras)} views were asked for: choose one with --frame, "
                       f"or give .mp4, .gif or a folder.")
    if fps <= 0:
        raise InrError("--fps must be above 0.")
    views = frames(field, cameras, resolution=resolution)
    alone = next(field.parameters()).device.type == "cpu"
    with nullcontext(views) if alone else _ahead(views) as views:
        if suffix in FILMS:
            with atomic(path) as temporary:
                write_video(temporary, views, fps)
        elif suffix:
            with atomic(path) as temporary:
                write_image(temporary, next(views))
        else:
            digits = max(4, len(str(len(cameras) - 1)))
            for i, view in enumerate(views):
                with atomic(path / f"frame_{i:0{digits}d}.png") as temporary:
                    write_image(temporary, view)
    return path


def frames(field: Field, cameras: Cameras, *, resolution: int = 256) -> Iterator[np.ndarray]:
    """Yield what each camera sees of a field, (height, width, 3) uint8.

    Light fields answer for rays; shapes are meshed once and ray-cast with shading.
    """
    field.eval()
    if field.spec.kind == "lightfield":
        yield from _rays(field, cameras)
    elif field.spec.kind == "shape":
        from .geometry import cast_views
        from .mesh import mesh
        for view in cast_views(mesh(field, resolution), cameras):
            yield to_bytes(view.numpy())
    else:
        raise InrError(f"Views are rendered of light fields and shapes; this is a field of kind {field.spec.kind!r}: "
                       f"use inr export.")


def _rays(field: Field, cameras: Cameras) -> Iterator[np.ndarray]:
    seen = in_frame(cameras, field.spec.frame)
    for i in range(len(seen)):
        shown = colours(field, seen.pluecker(i), quick=True)
        yield to_bytes(shown.reshape(*seen.size[i].tolist(), -1).numpy())


def _stand(spec: Spec) -> tuple[Cameras, torch.Tensor]:
    """Return the cameras a path goes by, and the point they look at."""
    if spec.cameras is not None:
        centre = spec.frame.centre.float() if spec.frame is not None else camera.focus(spec.cameras)
        return spec.cameras, centre
    if spec.kind != "shape":
        raise InrError(f"There is no camera path around a field of kind {spec.kind!r}.")
    low, high = ([getattr(axis, end) for axis in spec.axes] for end in ("first", "stop"))
    corners = torch.cartesian_prod(*(axis.at(torch.tensor([a - 0.5, b - 0.5]))
                                     for axis, a, b in zip(spec.axes, low, high)))
    corners = spec.to_world(corners).float()
    centre = corners.mean(0)
    focal = SHAPE_SIZE / 2 / torch.tan(torch.deg2rad(torch.tensor(SHAPE_FOV / 2)))
    distance = (corners - centre).norm(dim=-1).max() / torch.sin(torch.deg2rad(torch.tensor(SHAPE_FOV / 2)))
    angle = torch.deg2rad(torch.arange(0.0, 360.0, 30.0))
    tilt = torch.deg2rad(torch.tensor([5.0, 20.0, 35.0])).repeat(4)
    ring = torch.stack([tilt.cos() * angle.cos(), tilt.cos() * angle.sin(), tilt.sin()], -1)
    poses = camera.look_at(centre + distance * ring, centre, torch.tensor([0.0, 0.0, 1.0]))
    n = len(poses)
    return Cameras(poses, focal.expand(n, 2), torch.full((n, 2), SHAPE_SIZE / 2),
                   torch.full((n, 2), SHAPE_SIZE)), centre


class _ahead:
    """Within the block, an iterator whose items are made in a thread, at most three ahead of their use."""

    END = object()

    def __init__(self, items: Iterable[Item]):
        self.items, self.made, self.stop = items, queue.Queue(3), threading.Event()
        self.thread = threading.Thread(target=self._make, daemon=True)

    def _make(self) -> None:
        try:
            for item in self.items:
                self._put((item, None))
                if self.stop.is_set():
                    return
            self._put((self.END, None))
        except BaseException as error:          # raised again where the items are used
            self._put((self.END, error))

    def _put(self, entry) -> None:
        while not self.stop.is_set():
            try:
                return self.made.put(entry, timeout=0.1)
            except queue.Full:
                continue

    def __enter__(self) -> Iterator[Item]:
        self.thread.start()
        return self._items()

    def _items(self) -> Iterator[Item]:
        while True:
            item, error = self.made.get()
            if error is not None:
                raise error
            if item is self.END:
                return
            yield item

    def __exit__(self, *_) -> None:
        self.stop.set()
        self.thread.join()
