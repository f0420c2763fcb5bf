"""Make knot.ply, a fluted trefoil knot 75 mm wide, and knot.npz, the same on 64³ voxels. Run: python prepare.py"""

from pathlib import Path

import numpy as np

from inr_scenes.signals.shape import ShapeSignal
from inr_scenes.signals.voxels import write_grid
from inr_scenes.spec import Axis, Frame, Spec
from inr_scenes.surface import level_set

HERE = Path(__file__).parent
CELLS = 88                          # along a side of the grid that the mesh is taken from
FLUTES, TWIST = 5, 18               # grooves around the tube, and how often they wind about it along the knot
RADIUS, DEPTH = 0.165, 0.15        # of the tube, and of the grooves as a share of it


def knot(points: np.ndarray) -> np.ndarray:
    """Return how far inside the knot points (n, 3) of the cube [-1, 1] are, about; negative outside."""
    from scipy.spatial import cKDTree

    t = np.linspace(0, 2 * np.pi, 20_000, endpoint=False)
    line = np.stack([np.sin(t) + 2 * np.sin(2 * t), np.cos(t) - 2 * np.cos(2 * t), -1.25 * np.sin(3 * t)], 1) * 0.265
    along = np.gradient(line, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    across = np.cross(along, [0.0, 0.0, 1.0])
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    distance, nearest = cKDTree(line).query(points)
    offset = points - line[nearest]
    x = (offset * across[nearest]).sum(1)
    y = (offset * np.cross(along, across)[nearest]).sum(1)
    groove = np.cos(FLUTES * np.arctan2(y, x) + TWIST * t[nearest])
    return RADIUS * (1 + DEPTH * groove) - distance


def main() -> None:
    """Write both files."""
    axes = (Axis.regular(CELLS),) * 3
    spec = Spec("shape", axes, 3, 1, frame=Frame.of((20.0, -5.0, 40.0), 42.0))
    points = np.stack(np.meshgrid(*[axes[0].start + axes[0].step * np.arange(CELLS)] * 3, indexing="ij"), -1)
    depth = knot(points.reshape(-1, 3)[:, ::-1]).reshape(points.shape[:3])
    mesh = level_set(depth.astype(np.float32), spec)
    (HERE / "knot.ply").write_bytes(mesh.export(file_type="ply", vertex_normal=False))
    grid = ShapeSignal.from_mesh(mesh, 64, blend=0)
    write_grid(HERE / "knot.npz", grid.inside().numpy().astype(np.uint8).reshape(grid.spec.shape), grid.spec)
    print(HERE / "knot.ply", f"{len(mesh.faces)} faces, watertight: {mesh.is_watertight}, extents {mesh.extents}")


if __name__ == "__main__":
    main()
