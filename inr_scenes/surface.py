"""Surfaces of sampled values: marching cubes, and what makes a clean mesh of them."""

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from .geometry import collapsed
from .spec import Spec

if TYPE_CHECKING:
    from trimesh import Trimesh


def level_set(values: np.ndarray, spec: Spec) -> "Trimesh":
    """Return the surface around values > 0, (z, y, x) at the samples of `spec`, in world units.

    Marching cubes on the float values, so vertices lie between samples. The surface is closed where it meets the
    border of the grid, which it does not leave; its faces are turned outwards.
    """
    import trimesh
    from skimage.measure import marching_cubes

    scale = float(max(map(abs, torch.from_numpy(values).aminmax()))) or 1.0
    box = around(values > 0)
    padded = np.pad(values[box], 1, constant_values=-scale)
    small = 1e-3 * scale                        # corners that nearly touch the surface make slivers of triangles
    near = (padded < small) & (padded > -small)
    padded[near] = np.where(padded[near] > 0, small, -small)
    crossed = np.zeros(padded.shape, bool)
    crossed[1:, 1:, 1:] = crossed_cells(padded)             # scikit-image looks up a cell at its last corner
    index, faces, _, _ = marching_cubes(padded, 0.0, gradient_direction="descent", mask=crossed)
    index = np.clip(index + [part.start - 1 for part in box], 0, np.array(values.shape) - 1)
    coords = [axis.start + (axis.first + column) * axis.step for axis, column in zip(spec.axes, index.T.astype(float))]
    vertices = spec.to_world(torch.from_numpy(np.stack(coords, 1))).numpy()
    if spec.frame is not None and torch.linalg.det(spec.frame.tensor[:3, :3]) < 0:      # a frame may mirror
        faces = faces[:, ::-1]
    return trimesh.Trimesh(vertices, faces, process=False)


def crossed_cells(values: np.ndarray) -> np.ndarray:
    """Say which cells between samples (z, y, x) have corners on both sides of the surface around values > 0."""
    inside = values > 0
    some, every = inside.reshape(-1), inside.reshape(-1).copy()
    for step in (math.prod(values.shape[axis + 1:]) for axis in range(3)):      # along rows: what runs over is cut off
        some[:-step] |= some[step:]
        every[:-step] &= every[step:]
    some &= ~every
    return inside[:-1, :-1, :-1]


def around(mask: np.ndarray) -> tuple[slice, ...]:
    """Return the part of an array that holds all that is true in it, with one more on every side where there is one."""
    parts = []
    for axis, count in enumerate(mask.shape):
        there = np.flatnonzero(mask.any(tuple(other for other in range(mask.ndim) if other != axis)))
        parts.append(slice(max(0, there[0] - 1), min(count, there[-1] + 2)))
    return tuple(parts)


def rounded(mesh: "Trimesh") -> "Trimesh":
    """Return the mesh in the float32 of most file formats; vertices of a face that fall together become one.

    A reader that merges equal vertices then still finds the surface closed.
    """
    import trimesh
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    vertices, edges = mesh.vertices.astype(np.float32), mesh.edges
    short = edges[(vertices[edges[:, 0]] == vertices[edges[:, 1]]).all(1)]
    graph = coo_matrix((np.ones(len(short), np.int8), (short[:, 0], short[:, 1])), shape=(len(vertices),) * 2)
    where = connected_components(graph, directed=False)[1]
    _, first = np.unique(where, return_index=True)
    faces = where[mesh.faces]
    return trimesh.Trimesh(vertices[first], faces[~collapsed(faces)], vertex_normals=mesh.vertex_normals[first],
                           process=False)


def volume(mesh: "Trimesh") -> float:
    """Return the signed volume that a closed mesh encloses; trimesh's takes its moments too, and much longer."""
    a, b, c = (mesh.vertices[corner] for corner in mesh.faces.T)
    return float(np.einsum("ij,ij->", a, np.cross(b, c))) / 6


def remove_specks(mesh: "Trimesh", share: float = 0.002) -> int:
    """Remove separate parts with less than `share` of the largest part's area; return how many they were."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges, n = mesh.edges, len(mesh.vertices)
    graph = coo_matrix((np.ones(len(edges), np.int8), (edges[:, 0], edges[:, 1])), shape=(n, n))
    count, label = connected_components(graph, directed=False)
    if count < 2:
        return 0
    part = label[mesh.faces[:, 0]]
    area = np.bincount(part, weights=mesh.area_faces, minlength=count)
    keep = area >= share * area.max()
    if not keep.all():
        mesh.update_faces(keep[part])
        mesh.remove_unreferenced_vertices()
    return int(count - keep.sum())
