"""Posed pictures on disk: whatever nerfstudio's dataparsers read, SRN folders, and plain regular grids of views."""

import contextlib
import copy
import dataclasses
import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..camera import Cameras
from ..errors import InrError, need, suggestion
from ..media import IMAGES

# what makes a dataparser leave the poses in the file's own frame and units, ask nothing, and load no points
AS_IT_IS = {"orientation_method": "none", "center_method": "none", "auto_scale_poses": False, "load_3D_points": False}


@dataclass
class Posed:
    """Pictures and the cameras that took them.

    lenses: per camera its viewing directions in camera space (height·width, 3), or None for a pinhole; cameras with one
    lens share one tensor · masks: per camera the picture whose zeros are to be left out.
    """

    files: list[Path]
    cameras: Cameras
    lenses: list[Tensor | None]
    masks: list[Path] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def chosen(self, keep: list[int]) -> "Posed":
        """Return some of the pictures."""
        return Posed([self.files[i] for i in keep], self.cameras[keep], [self.lenses[i] for i in keep],
                     self.masks and [self.masks[i] for i in keep])

    def joined(self, other: "Posed") -> "Posed":
        """Return these pictures and those of `other`."""
        if (self.masks is None) != (other.masks is None):
            raise InrError("Either all pictures have a mask or none.")
        cameras = Cameras(*(torch.cat([getattr(self.cameras, f.name), getattr(other.cameras, f.name)])
                            for f in dataclasses.fields(Cameras)))
        return Posed(self.files + other.files, cameras, self.lenses + other.lenses,
                     self.masks and self.masks + other.masks)


def detect(path: Path) -> str:
    """Return the dataparser that reads a folder (or its transforms file), "srn", "grid" for a plain grid, or ""."""
    name = path.name.lower()
    if path.is_file():
        if path.suffix.lower() != ".json" or not name.startswith("transforms"):
            return ""
        return "blender-data" if re.fullmatch(r"transforms_(train|val|test)\.json", name) else "nerfstudio-data"
    if (path / "transforms.json").is_file():
        return "nerfstudio-data"
    if (path / "transforms_train.json").is_file():
        return "blender-data"
    if _sparse(path):
        return "colmap"
    if (path / "intrinsics.txt").is_file() and (path / "pose").is_dir():
        return "srn"
    return "grid" if path.is_dir() and len(_grid_files(path)) > 1 else ""


def read(path: Path, dataparser: str, size: tuple[int, int] | None, test_views: str, spacing: float,
         fov: float) -> tuple[Posed, Posed | None]:
    """Return the training pictures and the held-out ones (None: there are none), poses in the file's own units.

    size: height and width the pictures will be brought to; cameras and lenses are those of the final pictures.
    test_views: "auto" (what the data says; odd rows and columns of a grid), "none", "8" (every eighth), or patterns of
    file names separated by commas. spacing, fov: what a plain grid does not say.
    """
    if dataparser == "grid":
        train, test = _read_grid(path, size, spacing, fov, test_views == "auto")
    elif dataparser == "srn":
        train, test = _read_srn(path, size), None
    else:
        train, test = _read_nerfstudio(path, dataparser, size)
    if test_views != "auto":
        every = train if test is None else train.joined(test)
        train, test = _split(every, test_views)
    _check_poses(train)
    if test is not None:
        _check_poses(test)
    return train, test


def _split(posed: Posed, test_views: str) -> tuple[Posed, Posed | None]:
    order = sorted(range(len(posed)), key=lambda i: posed.files[i])
    if test_views == "none":
        return posed.chosen(order), None
    if test_views.isdigit() and int(test_views) > 1:
        held = {order[i] for i in range(0, len(order), int(test_views))}
    else:
        patterns = [part.strip() for part in test_views.split(",")]
        held = {i for i in order for pattern in patterns
                if fnmatch(posed.files[i].name, pattern) or fnmatch(posed.files[i].stem, pattern)}
    if not held or len(held) == len(posed):
        raise InrError(f"--test-views {test_views!r} holds out {len(held)} of {len(posed)} pictures: give auto, none, "
                       f"a number as 8 (every eighth), or names as view_01_*.")
    return posed.chosen([i for i in order if i not in held]), posed.chosen([i for i in order if i in held])


def _check_poses(posed: Posed) -> None:
    """Refuse poses that place no camera; take a common scale out of those that hold one."""
    for file, pose in zip(posed.files, posed.cameras.poses):
        stretch = torch.linalg.svdvals(pose[:, :3]) if torch.isfinite(pose).all() else torch.zeros(3)
        if not stretch.min() > 1e-6 * stretch.max():
            raise InrError(f"The pose of {file.name} is singular or not a number: correct its transform_matrix, or "
                           f"remove the picture from the set.")
        if stretch.max() > 1.02 * stretch.min():
            raise InrError(f"The pose of {file.name} is no rotation: its axes are stretched by {stretch.max():.3g} to "
                           f"{stretch.min():.3g}. Correct its transform_matrix.")
        pose[:, :3] /= stretch.mean()


# plain grids ----------------------------------------------------------------------------------------------------------

def _grid_files(folder: Path) -> dict[tuple[int, int], Path]:
    """Pictures named by row and column, as view_03_07.png, by (row, column)."""
    found = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = re.fullmatch(r".*?(\d+)[_x-](\d+)", file.stem)
        if match and file.suffix.lower() in IMAGES:
            found[int(match[1]), int(match[2])] = file
    return found


def _read_grid(path: Path, size, spacing: float, fov: float, held_out: bool) -> tuple[Posed, Posed | None]:
    """Parallel cameras on a plane, `spacing` apart; columns to the right, rows down, the middle one at the origin."""
    files = _grid_files(path)
    if len(files) < 2:
        raise InrError(f"{path} is no set of posed pictures: it has no transforms.json, transforms_train.json or "
                       f"sparse/, and no grid of views named by row and column as view_00_03.png.")
    if spacing <= 0 or not 0 < fov < 179:
        raise InrError("--spacing must be above 0, --fov between 0 and 179 degrees.")
    rows, columns = np.array(sorted(files)).T
    height, width = size or picture_size(next(iter(files.values())))
    focal = width / 2 / math.tan(math.radians(fov) / 2)
    n = len(files)
    poses = torch.zeros(n, 3, 4)
    poses[:, :3, :3] = torch.eye(3)
    poses[:, 0, 3] = torch.from_numpy(spacing * (columns - columns.mean()))
    poses[:, 1, 3] = torch.from_numpy(spacing * (rows.mean() - rows))
    cameras = Cameras(poses, torch.full((n, 2), focal), torch.tensor([[width / 2, height / 2]]).repeat(n, 1),
                      torch.tensor([[height, width]]).repeat(n, 1))
    every = Posed([files[r, c] for r, c in zip(rows, columns)], cameras, [None] * n)
    if not held_out or rows.max() - rows.min() < 2 or columns.max() - columns.min() < 2:
        return every, None
    rows, columns = rows - rows.min(), columns - columns.min()
    return (every.chosen(np.flatnonzero((rows % 2 == 0) & (columns % 2 == 0)).tolist()),
            every.chosen(np.flatnonzero((rows % 2 == 1) & (columns % 2 == 1)).tolist()))


# folders of scene representation networks (Sitzmann et al., 2019), which nerfstudio does not read ---------------------

def _read_srn(path: Path, size) -> Posed:
    """An object's rgb/NAME.png and pose/NAME.txt (camera to world, y down, z ahead) beside one intrinsics.txt."""
    try:
        lines = [line.split() for line in (path / "intrinsics.txt").read_text().splitlines() if line.strip()]
        focal, x, y = (float(word) for word in lines[0][:3])
        height, width = (int(word) for word in lines[-1][:2])
        poses = {file.stem: np.array(file.read_text().split(), dtype=np.float32).reshape(4, 4)[:3]
                 for file in sorted((path / "pose").glob("*.txt"))}
    except (ValueError, IndexError, OSError) as error:
        raise InrError(f"{path} cannot be read as srn: {_line(error)}") from None
    pictures = {file.stem: file for file in sorted((path / "rgb").glob("*")) if file.suffix.lower() in IMAGES}
    if missing := sorted(poses.keys() - pictures.keys()):
        raise InrError(f"The picture {path / 'rgb' / missing[0]}.png is missing: restore it, or remove its pose.")
    if not poses:
        raise InrError(f"{path / 'pose'} holds no poses.")
    names, n = list(poses), len(poses)
    scale = torch.tensor(size or picture_size(pictures[names[0]])).flip(0) / torch.tensor([width, height])
    turned = torch.from_numpy(np.stack(list(poses.values()))) * torch.tensor([1.0, -1.0, -1.0, 1.0])
    sizes = torch.tensor([size or picture_size(pictures[name]) for name in names])
    return Posed([pictures[name] for name in names],
                 Cameras(turned, (focal * scale).expand(n, 2).contiguous(),
                         (torch.tensor([x, y]) * scale).expand(n, 2).contiguous(), sizes), [None] * n)


def picture_size(file: Path) -> tuple[int, int]:
    """Return a picture's height and width from its header, as it is stored: cameras know nothing of EXIF."""
    with _opened(file) as image:
        return image.height, image.width


def read_picture(file: Path, size: tuple[int, int]) -> np.ndarray:
    """Return a picture resized to height and width (Lanczos), (h, w, 3) uint8, or (h, w, 4) with straight alpha."""
    from PIL import Image

    with _opened(file) as image:
        image.load()
        if image.mode.startswith("I") or image.mode == "F":     # 16 bits; the fit keeps 8
            deep = np.asarray(image, dtype=np.float32) * (255 if image.mode == "F" else 1 / 257)
            image = Image.fromarray(np.clip(deep, 0, 255).astype(np.uint8))
        clear = "A" in image.getbands() or "transparency" in image.info
        image = image.convert("RGBA" if clear else "RGB")
        if image.size != size[::-1]:
            image = image.resize(size[::-1], Image.Resampling.LANCZOS)
        return np.array(image)


@contextlib.contextmanager
def _opened(file: Path):
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            yield image
    except FileNotFoundError:
        raise InrError(f"The picture {file} is missing: restore it, or remove its entry from the set.") from None
    except UnidentifiedImageError:
        raise InrError(f"{file} is not an image that Pillow can read.") from None
    except Image.DecompressionBombError:
        raise InrError(f"{file} claims more pixels than is sensible (a decompression bomb?): refused.") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise InrError(f"{file} is damaged: {error}.") from None


# whatever nerfstudio reads --------------------------------------------------------------------------------------------

def _sparse(path: Path) -> Path | None:
    """Where a folder keeps its COLMAP reconstruction."""
    for name in ("sparse/0", "sparse", "colmap/sparse/0"):
        if any((path / name / f"cameras.{kind}").is_file() for kind in ("bin", "txt")):
            return Path(name)
    return None


def _read_nerfstudio(path: Path, name: str, size) -> tuple[Posed, Posed | None]:
    parser = _parser(path, name)
    train = _outputs(parser, path, name, "train")
    held = next((found for split in ("test", "val") if (found := _outputs(parser, path, name, split))), None)
    if train is None or not len(train.image_filenames):
        raise InrError(f"{path} names no training picture.")
    known = set(train.image_filenames)
    train = _posed(train, range(len(train.image_filenames)), size)
    if held is None:
        return train, None
    # some parsers answer with training pictures where a set has no others
    keep = [i for i, file in enumerate(held.image_filenames) if file not in known]
    return train, _posed(held, keep, size) if keep else None


def _parser(path: Path, name: str):
    """Return nerfstudio's dataparser `name`, set to leave the poses as they are."""
    configs = need("nerfstudio.configs.dataparser_configs", extra="nerfstudio", why="to read posed pictures")
    known = configs.all_dataparsers
    if name not in known:
        raise InrError(f"There is no dataparser {name!r}.{suggestion(name, known)} Known: {', '.join(sorted(known))}, "
                       f"srn, or grid for a plain grid of views.")
    config = copy.deepcopy(known[name])
    options = {f.name for f in dataclasses.fields(config)}
    for option, value in AS_IT_IS.items():
        if option in options:
            setattr(config, option, value)
    if getattr(config, "downscale_factor", 1) is None:
        config.downscale_factor = 1
    config.data = path.parent if path.is_file() and name != "nerfstudio-data" else path
    if name == "colmap" and (sparse := _sparse(config.data)):
        config.colmap_path = sparse
    with _quiet():
        return config.setup()


def _outputs(parser, path: Path, name: str, split: str):
    """Return a dataparser's outputs for a split; None where a set has no such held-out split."""
    try:
        with _quiet():
            return parser.get_dataparser_outputs(split=split)
    except FileNotFoundError as error:
        missing = Path(error.filename or str(error))
        if missing.suffix.lower() in IMAGES:
            raise InrError(f"The picture {missing} is missing: restore it, or remove its entry from the set.") from None
        if split != "train":
            return None
        raise InrError(f"{path} cannot be read as {name}: {missing} does not exist.") from None
    except RuntimeError as error:
        if split != "train" and "is missing" in str(error):
            return None
        raise InrError(f"{path} cannot be read as {name}: {_line(error)}") from None
    except Exception as error:              # dataparsers raise anything on data they were not made for
        raise InrError(f"{path} cannot be read as {name}: {type(error).__name__}: {_line(error)}") from None


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep nerfstudio's remarks off stdout, which belongs to results, and its warnings to itself."""
    from nerfstudio.utils.rich_utils import CONSOLE

    before, CONSOLE.quiet = CONSOLE.quiet, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        CONSOLE.quiet = before


def _posed(outputs, keep, size) -> Posed:
    """Turn some of a dataparser's outputs into pictures and cameras of the final size."""
    keep = list(keep)
    files = [Path(outputs.image_filenames[i]) for i in keep]
    theirs = outputs.cameras[torch.tensor(keep)]
    sizes = []
    for file, height, width in zip(files, theirs.height[:, 0].tolist(), theirs.width[:, 0].tolist()):
        real = picture_size(file)
        if abs(real[0] * width / (real[1] * height) - 1) > 0.02:
            raise InrError(f"{file} is {real[0]}×{real[1]} pixels, but its camera says {height}×{width}.")
        sizes.append(tuple(size) if size else real)
    sizes = torch.tensor(sizes)
    scale = sizes / torch.cat([theirs.height, theirs.width], 1)
    focal = torch.cat([theirs.fx, theirs.fy], 1) * scale.flip(1)
    centre = torch.cat([theirs.cx, theirs.cy], 1) * scale.flip(1)
    poses = theirs.camera_to_worlds[:, :3, :4].float().clone()
    cameras = Cameras(poses, focal.float(), centre.float(), sizes)
    masks = outputs.mask_filenames and [Path(outputs.mask_filenames[i]) for i in keep]
    return Posed(files, cameras, _lenses(theirs, cameras, files), masks)


def _lenses(theirs, cameras: Cameras, files: list[Path]) -> list[Tensor | None]:
    """Return each camera's viewing directions by nerfstudio's own rays, once per distinct lens; None for a pinhole."""
    from nerfstudio.cameras import cameras as nerfstudio

    bent = theirs.distortion_params
    bent = torch.zeros(len(files), 6) if bent is None else bent
    kinds = theirs.camera_type[:, 0].tolist()
    known: dict[tuple, Tensor] = {}
    lenses: list[Tensor | None] = []
    for i, kind in enumerate(kinds):
        if kind == nerfstudio.CameraType.PERSPECTIVE.value and not bent[i].any():
            lenses.append(None)
            continue
        fx, fy, cx, cy = [*cameras.focal[i].tolist(), *cameras.centre[i].tolist()]
        height, width = cameras.size[i].tolist()
        key = (kind, *bent[i].tolist(), fx, fy, cx, cy, height, width)
        if key not in known:
            camera_type = nerfstudio.CameraType(kind)
            with _quiet():
                bundle = nerfstudio.Cameras(torch.eye(4)[None, :3], fx, fy, cx, cy, width, height, bent[i][None],
                                            camera_type).generate_rays(0)
            if bundle.origins.any():
                raise InrError(f"{files[i].name}: a camera of type {camera_type.name} sees from more than one point, "
                               f"which is not supported; perspective, fisheye and equirectangular ones are.")
            if not torch.isfinite(bundle.directions).all():
                raise InrError(f"{files[i].name}: its distortion parameters cannot be undone over the whole picture.")
            known[key] = bundle.directions.reshape(-1, 3)
        lenses.append(known[key])
    return lenses
