"""Posed multi-view sets: many meshes, each seen by cameras all around it, in NeRF-synthetic's layout."""

import functools
import itertools
import json
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .camera import Cameras, look_at
from .errors import InrError
from .files import atomic
from .geometry import SUFFIXES, cast_views, read_mesh
from .media import to_bytes, write_image

if TYPE_CHECKING:
    from trimesh import Trimesh

FIELD_OF_VIEW = 50.0                # degrees, both ways
PACK = ("v", "f", "v_off", "f_off", "names")
GOLDEN = math.pi * (3 - math.sqrt(5))
WHOLE = "transforms_train.json"     # written last: it says that an object is whole


def meshes(source) -> Iterator[tuple[str, Callable[[], "Trimesh"]]]:
    """Yield (name, function that reads the mesh) of a folder of mesh files, a mesh file, or an .npz pack.

    A pack holds all vertices v, all faces f (indices of their own object), where each object begins and ends (v_off,
    f_off), names, and, if it has colours, c: sRGB bytes of every face.
    """
    source = Path(source).expanduser()
    if not source.exists():
        raise InrError(f"{source} does not exist.")
    if source.suffix.lower() == ".npz":
        yield from _pack(source)
        return
    paths = sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES) if source.is_dir() else [source]
    if not paths:
        raise InrError(f"{source} holds no meshes ({' '.join(SUFFIXES)}) and is no .npz pack of them.")
    for path in paths:
        name = path.relative_to(source).with_suffix("").as_posix() if source.is_dir() else path.stem
        yield name, functools.partial(read_mesh, path)


def _pack(path: Path) -> Iterator[tuple[str, Callable[[], "Trimesh"]]]:
    import zipfile

    try:
        with np.load(path, allow_pickle=False) as pack:
            missing = [name for name in PACK if name not in pack.files]
            if missing:
                raise InrError(f"{path} is no pack of meshes: it has no {', '.join(missing)}.")
            v, f, v_off, f_off, names = (pack[name] for name in PACK)
            c = pack["c"] if "c" in pack.files else None
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise InrError(f"{path} is not a whole .npz file ({error}).") from None
    for i, name in enumerate(names):
        part = slice(f_off[i], f_off[i + 1])
        yield str(name), functools.partial(_packed, v[v_off[i]:v_off[i + 1]], f[part], None if c is None else c[part])


def _packed(vertices: np.ndarray, faces: np.ndarray, colours: np.ndarray | None) -> "Trimesh":
    import trimesh

    return trimesh.Trimesh(vertices, faces.astype(np.int64), process=False, face_colors=colours)


def around(views: int, size: int) -> Cameras:
    """Return cameras spread evenly over the sphere that look at the origin and just hold the unit ball.

    They lie on a golden spiral between 60 degrees below and above the horizon, so any number is spread well.
    """
    height = math.sin(math.radians(60)) * (1 - 2 * (torch.arange(views) + 0.5) / views)
    angle = GOLDEN * torch.arange(views)
    ring = (1 - height**2).sqrt()
    distance = 1.02 / math.sin(math.radians(FIELD_OF_VIEW / 2))
    origins = distance * torch.stack([ring * angle.cos(), ring * angle.sin(), height], -1)
    focal = size / 2 / math.tan(math.radians(FIELD_OF_VIEW / 2))
    return Cameras(look_at(origins, torch.zeros(3), torch.tensor([0.0, 0.0, 1.0])), torch.full((views, 2), focal),
                   torch.full((views, 2), size / 2), torch.full((views, 2), size))


def render_set(source, output, *, views: int = 24, size: int = 128, test: int = 4, shading: str = "lambert",
               alpha: bool = False, up: str = "z", limit: int | None = None, samples: int = 2,
               workers: int = 2) -> Iterator[dict[str, str | int]]:
    """Render every mesh to OUTPUT/NAME as transforms_train.json, transforms_test.json and PNGs; yield a line an object.

    test: how many of the views, spread evenly, are held out · alpha: RGBA instead of a white background · up: the
    meshes' upward axis, "y" or "z" · limit: only the first so many. Meshes are moved and scaled into the unit ball. An
    object that is there is kept, unless it was rendered with other settings, which is an error; one that cannot be read
    or rendered is reported by an "error" and left out.
    """
    if min(views, size, samples, 1 if limit is None else limit) < 1 or not 0 <= test < views:
        raise InrError("--views, --size, --samples and --limit must be at least 1; --test at least 0, below --views.")
    if up not in ("y", "z"):
        raise InrError(f"--up {up!r} is not known: y or z.")
    settings = {"size": size, "views": views, "test": test, "shading": shading, "alpha": alpha, "up": up,
                "samples": samples}
    todo = [(name, load, Path(output).expanduser() / name.replace("/", "_"))
            for name, load in itertools.islice(meshes(source), limit)]
    for _, _, folder in todo:               # all of them, before any is rendered
        _check_same(folder, settings)
    cameras = around(views, size)
    held_out = {i * views // test + views // (2 * test) for i in range(test)} if test else set()
    with ThreadPoolExecutor(workers) as pool:
        for name, load, folder in todo:
            if (folder / WHOLE).is_file():
                yield {"name": name, "kept": 1}
                continue
            try:
                images = list(cast_views(_unit(load(), up), cameras, shading=shading, samples=samples,
                                         background=None if alpha else 1.0))
            except (InrError, ValueError, IndexError) as error:
                yield {"name": name, "error": str(error)}
                continue
            _write(pool, folder, cameras, images, held_out, settings)
            yield {"name": name, "views": len(images)}


def _check_same(folder: Path, settings: dict[str, Any]) -> None:
    """Refuse an object that is there and was rendered with other settings; an older one tells its size alone."""
    from PIL import Image

    if not (folder / WHOLE).is_file():
        return
    try:
        found = json.loads((folder / WHOLE).read_text()).get("rendered")
        if found is None:
            with Image.open(folder / "train/r_0.png") as picture:
                found = {"size": picture.height}
    except (OSError, ValueError) as error:
        raise InrError(f"{folder} is damaged ({error}). Delete it, and it is rendered anew.") from None
    for name, value in settings.items():
        if found.get(name, value) != value:
            raise InrError(f"{folder} was rendered with --{name} {found[name]}, not {value}: choose another folder, or "
                           f"delete this one.")


def _unit(mesh: "Trimesh", up: str) -> "Trimesh":
    """Return a mesh with +Z up, its bounding box's centre at the origin, scaled to touch the unit ball from within."""
    mesh = mesh.copy()
    vertices = np.asarray(mesh.vertices, np.float64)
    if up == "y":
        vertices = vertices @ np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    vertices = vertices - (vertices.min(0) + vertices.max(0)) / 2
    radius = float(np.linalg.norm(vertices, axis=1).max())
    if not radius > 0:
        raise InrError("it has no extent.")
    mesh.vertices = vertices / radius
    return mesh


def _write(pool, folder: Path, cameras: Cameras, images, held_out: set[int], settings: dict[str, Any]) -> None:
    frames: dict[str, list] = {"train": [], "test": []}
    jobs = []
    for i, image in enumerate(images):
        part = "test" if i in held_out else "train"
        place = f"{part}/r_{len(frames[part])}"
        pose = torch.cat([cameras.poses[i], torch.tensor([[0.0, 0.0, 0.0, 1.0]])])
        frames[part].append({"file_path": f"./{place}", "transform_matrix": pose.tolist()})
        path = folder / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        jobs.append(pool.submit(write_image, path, to_bytes(image.numpy())))
    for job in jobs:
        job.result()
    angle = math.radians(FIELD_OF_VIEW)
    for part in ("test", "train"):          # the train split last: it says that the object is whole
        if not frames[part]:
            continue
        with atomic(folder / f"transforms_{part}.json") as temporary:
            temporary.write_text(json.dumps({"camera_angle_x": angle, "rendered": settings, "frames": frames[part]}))
