"""Export shapes: closed meshes refined near the surface, and voxel grids, at any resolution and of any sub-box."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import InrError
from ..field import Field, decode_all
from ..geometry import is_watertight
from ..hookspecs import Exporter
from ..mesh import mesh
from ..signals.voxels import write_grid
from ..surface import rounded, volume
from ..units import index_box

WITH_NORMALS = {".ply": {"vertex_normal": True}, ".obj": {"include_normals": True}, ".glb": {"include_normals": True}}


@dataclass(frozen=True)
class MeshOptions:
    """How to write a shape as a mesh."""

    resolution: int = 256
    """Cells along the longest side; only those near the surface are evaluated."""
    box: tuple[float, ...] | None = None
    """Only this part, closed at its border: world x y z low, then x y z high."""
    level: float | None = None
    """Stored value at the surface; default: the shape's own (0.5 of an occupancy, 0 of a signed distance)."""
    specks: bool = True
    """Remove separate parts with less than 0.2 % of the largest one's area."""
    unit: bool = False
    """Write the coordinates of the cube [-1, 1] instead of world units."""


def write_mesh(field: Field, path: Path, options: MeshOptions) -> dict[str, Any]:
    """Write a shape as a mesh, in the units and the pose it came in; report whether it is watertight."""
    surface = mesh(field, options.resolution, box=options.box, level=options.level, specks=options.specks)
    facts = {name: surface.metadata[name] for name in ("specks_removed", "evaluated", "dense")}
    if options.unit and field.spec.frame is not None:
        normals = surface.vertex_normals @ field.spec.frame.tensor[:3, :3].numpy()
        surface.apply_transform(torch.linalg.inv(field.spec.frame.tensor).numpy())
        surface.vertex_normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    surface = rounded(surface)
    settings = WITH_NORMALS.get(path.suffix.lower(), {})
    data = surface.export(file_type=path.suffix.lower()[1:], **settings)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return {"watertight": is_watertight(surface), "faces": len(surface.faces), "volume": volume(surface),
            "bounds": surface.bounds.tolist(), **facts}


@dataclass(frozen=True)
class VoxelOptions:
    """How to write a shape as a grid of voxels."""

    resolution: int | None = None
    """Voxels along the longest side; default: those of the fit."""
    box: tuple[float, ...] | None = None
    """Only the voxels in this part: world x y z low, then x y z high."""
    level: float | None = None
    """Occupancy above this is written as 1; default: the shape's own."""
    soft: bool = False
    """Write occupancies as the field has them, float32, instead of 0 and 1 (.npy and .npz)."""


def write_voxels(field: Field, path: Path, options: VoxelOptions) -> dict[str, Any]:
    """Write a shape's values (z, y, x): occupancy as 0 and 1, signed distances in world units.

    .npz carries the spec, so that it loads back in its place; .binvox holds occupancy, in a cube; .npy the bare array.
    """
    suffix, spec = path.suffix.lower(), field.spec
    if options.resolution is not None:
        if not 1 <= options.resolution <= 2048:
            raise InrError(f"--resolution {options.resolution} must be between 1 and 2048.")
        share = options.resolution / max(spec.shape)
        spec = spec.resampled([max(1, round(n * share)) for n in spec.shape])
    if options.box:
        spec = spec.cropped(index_box(spec, options.box))
    values = decode_all(field, spec)[..., 0]
    distances = spec.meta.get("quantity") == "sdf"
    level = spec.meta.get("level", 0.5) if options.level is None else options.level
    inside = values < level if distances else values > level
    written = values if (distances or options.soft) and suffix != ".binvox" else inside.to(torch.uint8)
    write_grid(path, written.numpy(), spec)
    return {"shape": list(values.shape), "inside": float(inside.double().mean())}


EXPORTERS = [
    Exporter("mesh", frozenset({"shape"}), (".glb", ".ply", ".obj", ".stl", ".off"), MeshOptions, write_mesh),
    Exporter("voxels", frozenset({"shape"}), (".npz", ".npy", ".binvox"), VoxelOptions, write_voxels),
]
