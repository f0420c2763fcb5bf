"""Voxel grids: the files that hold them (.npy .npz .binvox), and what a mesh has in them."""

import json
import math
from pathlib import Path

import numpy as np
import torch

from .. import geometry
from ..errors import InrError
from ..spec import UNIT_RANGE, Axis, Frame, Spec

SUFFIXES = (".npy", ".npz", ".binvox")
LARGEST = 2048                      # voxels along a side; beyond this a number is more likely a slip
BLOCKS = (8, 2, 1)                  # voxels along a side of what is settled at once, each a multiple of the next
SLACK = 1.1                         # on the radius of a block: covers grids whose voxels are not quite cubes


def voxelize(mesh, spec: Spec) -> np.ndarray:
    """Return what `spec` stores of a mesh at its samples, (n,): float32 signed distance, or occupancy as 0 to 255.

    A block of voxels that the surface and its surroundings do not reach is settled by its centre; the others are
    divided, down to single voxels.
    """
    sdf = spec.meta["quantity"] == "sdf"
    voxel = (spec.frame.scale if spec.frame else 1.0) * math.prod(axis.step for axis in spec.axes) ** (1 / 3)
    measured = sdf or geometry.measures_distance()      # without distances: every voxel, and hard steps
    reach = spec.values.scale if sdf else spec.meta.get("blend", 0.0) * voxel / 2 if measured else 0.0
    is_open = geometry.open_edges(mesh) > 0
    sizes = BLOCKS if measured else (1,)
    shape = [-(-n // sizes[0]) for n in spec.shape]     # in the largest blocks; cropped in the end
    values = np.empty([n * sizes[0] for n in shape], np.float32 if sdf else np.uint8)
    blocks = np.stack(np.unravel_index(np.arange(math.prod(shape)), shape), 1) * sizes[0]
    start = np.array([axis.start + axis.first * axis.step for axis in spec.axes])
    step = np.array([axis.step for axis in spec.axes])
    for size, smaller in zip(sizes, (*sizes[1:], 1)):
        radius = (size - 1) / 2 * 3**0.5 * voxel * SLACK
        left = []
        for part in np.array_split(blocks, math.ceil(len(blocks) / 8192) or 1):
            points = spec.to_world(torch.from_numpy(start + (part + (size - 1) / 2) * step)).numpy()
            inside = geometry.occupancy(mesh, points)
            distance = geometry.distance(mesh, points) if measured and (reach or size > 1) else None
            voxels = tuple(np.moveaxis(part[:, None] + _cube(size), 2, 0))
            values[voxels] = _stored(inside, distance, sdf, reach)[:, None]
            if size > 1:
                near = distance <= reach + radius
                if is_open:                             # the winding number may pass 1/2 away from the surface too
                    near |= np.abs(np.abs(geometry.winding(mesh, points)) - 0.5) < 0.3
                left.append((part[near][:, None] + _cube(size, smaller)).reshape(-1, 3))
        blocks = np.concatenate(left) if left else blocks
    return np.ascontiguousarray(values[tuple(map(slice, spec.shape))]).reshape(-1)


def _cube(size: int, step: int = 1) -> np.ndarray:
    """Offsets (n, 3) of every step-th voxel of a block."""
    return np.stack(np.meshgrid(*[np.arange(0, size, step)] * 3, indexing="ij"), -1).reshape(-1, 3)


def _stored(inside: np.ndarray, distance: np.ndarray | None, sdf: bool, reach: float) -> np.ndarray:
    """Signed distances cut off at ±reach, or occupancies in bytes that pass from 0 to 255 over ±reach."""
    if sdf:
        return np.where(inside, -1, 1).astype(np.float32) * np.minimum(distance, reach)
    depth = np.minimum(distance / (2 * reach), 0.5) if reach else np.float32(0.5)
    return to_bytes(np.where(inside, 0.5 + depth, 0.5 - depth), inside)


def to_bytes(share: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Round shares in [0, 1] to 0 … 255, those of voxels inside to at least 128 and of others to at most 127."""
    rounded = np.clip(np.rint(share * 255), 0, 255)
    return np.where(inside, np.maximum(rounded, 128), np.minimum(rounded, 127)).astype(np.uint8)


def read_grid(path: Path) -> tuple[np.ndarray, Spec | None]:
    """Read a grid file: values (z, y, x), and the spec where the file carries one. Raises InrError when damaged."""
    if path.suffix.lower() == ".binvox":
        return _read_binvox(path)
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded, None
            arrays = {name: loaded[name] for name in loaded.files}
    except Exception as error:              # numpy and zipfile raise many kinds for damaged files
        raise InrError(f"{path} is not a {path.suffix.lower()} file that can be read ({error}).") from None
    if "values" in arrays and "spec" in arrays:
        try:
            spec = Spec.from_json(json.loads(str(arrays["spec"])))
        except (KeyError, TypeError, ValueError) as error:
            raise InrError(f"{path} is damaged: its spec cannot be read ({error!r}).") from None
        if spec.kind != "shape" or spec.shape != arrays["values"].shape or "quantity" not in spec.meta:
            raise InrError(f"{path} is damaged: its spec does not fit its values.")
        return arrays["values"], spec
    grids = [name for name, array in arrays.items() if array.ndim == 3]
    if len(grids) != 1:
        raise InrError(f"{path} needs one array with three axes (z, y, x); it holds "
                       f"{', '.join(f'{name} {array.shape}' for name, array in arrays.items()) or 'nothing'}.")
    return arrays[grids[0]], None


def write_grid(path: Path, values: np.ndarray, spec: Spec) -> None:
    """Write values (z, y, x) at the samples of `spec`: .npz keeps the spec, .binvox the place, .npy neither."""
    suffix = path.suffix.lower()
    if suffix == ".binvox":
        _write_binvox(path, values, spec)
        return
    with path.open("wb") as file:
        if suffix == ".npz":
            np.savez_compressed(file, values=values, spec=np.array(json.dumps(spec.to_json())))
        else:
            np.save(file, values)


def _read_binvox(path: Path) -> tuple[np.ndarray, Spec]:
    """Read Patrick Min's run-length format; its file order is (x, z, y)."""
    header: dict[str, list[str]] = {}
    try:
        with path.open("rb") as file:
            if not file.readline().startswith(b"#binvox"):
                raise ValueError("it does not start with #binvox")
            while (line := file.readline().split()) != [b"data"]:
                if not line:
                    raise ValueError("its header has no end")
                header[line[0].decode()] = [word.decode() for word in line[1:]]
            runs = np.frombuffer(file.read(), np.uint8)
        shape = tuple(int(n) for n in header["dim"])
        shift, scale = [float(v) for v in header.get("translate", ["0"] * 3)], float(header.get("scale", ["1"])[0])
        if len(shape) != 3 or not 0 < min(shape) <= max(shape) <= LARGEST or len(shift) != 3 or not scale > 0:
            raise ValueError("its header makes no sense")
        if len(runs) % 2 or int(runs[1::2].sum(dtype=np.int64)) != math.prod(shape):
            raise ValueError("its voxels are cut short")
    except (ValueError, KeyError, IndexError, UnicodeDecodeError) as error:
        raise InrError(f"{path} is not a whole .binvox file ({error}).") from None
    values = np.repeat(runs[::2], runs[1::2]).reshape(shape).transpose(1, 2, 0)
    centre = [low + scale * n / max(shape) / 2 for low, n in zip(shift, (shape[0], shape[2], shape[1]))]
    axes = tuple(Axis.regular(n, half=n / max(shape)) for n in values.shape)
    return values, Spec("shape", axes, 3, 1, UNIT_RANGE, Frame.of(centre, scale / 2),
                        {"quantity": "occupancy", "level": 0.5, "grid": "centers"})


def _write_binvox(path: Path, inside: np.ndarray, spec: Spec) -> None:
    """Write Patrick Min's run-length format: cubic, so shorter sides are filled up with empty voxels."""
    frame = spec.frame or Frame.of((0, 0, 0), 1.0)
    steps = [axis.step * frame.scale for axis in spec.axes]
    if not torch.allclose(frame.tensor[:3, :3], frame.scale * torch.eye(3, dtype=torch.float64), rtol=1e-4,
                          atol=1e-6 * frame.scale) or not np.allclose(steps, steps[0], rtol=1e-4):
        raise InrError(".binvox holds cubic voxels along the world's axes only. Write .npz, which keeps the frame.")
    side = max(inside.shape)
    cube = np.zeros((side,) * 3, np.uint8)
    cube[tuple(map(slice, inside.shape))] = inside
    first = torch.tensor([axis.start + (axis.first - 0.5) * axis.step for axis in spec.axes])
    low, scale = spec.to_world(first).tolist(), steps[0] * side
    flat = cube.transpose(2, 0, 1).reshape(-1)          # the file's order is (x, z, y)
    change = np.flatnonzero(np.diff(flat)) + 1
    starts = np.concatenate([[0], change])
    lengths = np.diff(np.concatenate([starts, [len(flat)]]))
    full = np.maximum(1, -(-lengths // 255))            # a run holds at most 255 voxels
    counts = np.full(full.sum(), 255)
    counts[np.cumsum(full) - 1] = lengths - 255 * (full - 1)
    runs = np.stack([np.repeat(flat[starts], full), counts], 1).astype(np.uint8)
    header = f"#binvox 1\ndim {side} {side} {side}\ntranslate {' '.join(map(repr, low))}\nscale {scale!r}\ndata\n"
    path.write_bytes(header.encode() + runs.tobytes())
