"""Surfaces of sampled values: marching cubes, and what makes a clean mesh of them."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from .bricks import SIDE, Bricks
from .geometry import collapsed
from .spec import Spec

if TYPE_CHECKING:
    from trimesh import Trimesh


def level_set(samples: Bricks | np.ndarray, spec: Spec) -> "Trimesh":
    """Return the surface around values > 0, samples (z, y, x) of `spec`, all or those around it, in world units.

    Marching cubes on the float values, so vertices lie between samples. The surface is closed where it meets the
    border of the grid, which it does not leave; its faces are turned outwards.
    """
    import trimesh

    samples = samples if isinstance(samples, Bricks) else Bricks.of(samples)
    parts = samples.looked_at(lambda slots: _marched(samples, slots))
    index, keys = (np.concatenate(column) for column in list(zip(*parts))[:2])
    starts = np.cumsum([0, *(len(part[0]) for part in parts)])
    faces = np.concatenate([part[2] + start for part, start in zip(parts, starts)])
    _, first, where = np.unique(keys, return_index=True, return_inverse=True)      # one vertex an edge of the grid
    index, faces = np.clip(index[first], 0, samples.counts - 1), where[faces]
    coords = [axis.start + (axis.first + column) * axis.step for axis, column in zip(spec.axes, index.T)]
    vertices = spec.to_world(torch.from_numpy(np.stack(coords, 1))).numpy()
    if spec.frame is not None and torch.linalg.det(spec.frame.tensor[:3, :3]) < 0:      # a frame may mirror
        faces = faces[:, ::-1]
    return trimesh.Trimesh(vertices, faces, process=False)


def _marched(samples: Bricks, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """March through some cubes: vertices (n, 3) as places on the grid, keys that tell them apart, faces (m, 3)."""
    from skimage.measure import marching_cubes

    blocks, first = samples.blocks(slots, low=2, high=2), samples.places[slots] * SIDE - 1
    for axis in range(3):                       # beyond the grid is outside
        along = first[:, axis, None] + np.arange(-1, SIDE + 3)
        beyond = (along < 0) | (along >= samples.counts[axis])
        part = np.moveaxis(blocks, 1 + axis, 1)
        part[beyond] = -np.abs(part[beyond])
    blocks = _apart(blocks)
    here = crossed(blocks)
    for axis in range(3):                       # cells before a cube's own are another's, but at the border
        np.moveaxis(here, 1 + axis, 1)[first[:, axis] >= 0, 0] = False
    some = here.any((1, 2, 3))
    if not some.any():
        return np.empty((0, 3)), np.empty(0, int), np.empty((0, 3), int)
    mask = np.zeros(blocks[some].shape, bool)
    mask[:, 1:, 1:, 1:] = here[some]            # scikit-image looks up a cell at its last corner
    pile = (-1, *mask.shape[2:])                # one cube upon the other
    index, faces, _, _ = marching_cubes(blocks[some].reshape(pile), 0.0, gradient_direction="descent",
                                        mask=mask.reshape(pile))
    cube = index[:, 0].astype(int) // mask.shape[1]
    index = index.astype(float) + first[some][cube]
    index[:, 0] -= cube * mask.shape[1]
    return index, _keys(index, samples.counts), faces


def _apart(blocks: np.ndarray) -> np.ndarray:
    """Return the inner samples of blocks (n, a, b, c), those that nearly touch the surface a little away from it.

    Corners that nearly touch it make slivers of triangles. Away: a thousandth of the way to the next sample beyond it.
    """
    inside, inner = blocks > 0, (slice(None), *[slice(1, -1)] * 3)
    least = np.zeros(blocks[inner].shape, blocks.dtype)
    for axis in (1, 2, 3):
        for step in (slice(2, None), slice(-2)):
            beside = tuple(step if i == axis else part for i, part in enumerate(inner))
            np.maximum(least, np.abs(blocks[beside]), where=inside[beside] != inside[inner], out=least)
    least *= 1e-3
    return np.where(inside[inner], np.maximum(blocks[inner], least), np.minimum(blocks[inner], -least))


def _keys(index: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Number the vertices (n, 3) between samples of a grid: the same for the same edge of it, or the same cell."""
    between = np.abs(index - np.rint(index)) > 3e-4         # rounding errors are smaller, see `_apart`
    low = np.where(between, np.floor(index), np.rint(index)).astype(np.int64) + 1
    edge = np.where(between.sum(1) == 1, between.argmax(1), 3)
    return np.ravel_multi_index(tuple(low.T), tuple(counts + 2)) * 4 + edge


def crossed(blocks: np.ndarray) -> np.ndarray:
    """Say which cells of blocks of samples, (n, a, b, c), have corners on both sides of the surface around values > 0,
    (n, a - 1, b - 1, c - 1)."""
    some = every = blocks > 0
    for axis in (1, 2, 3):
        low, high = [slice(None)] * 4, [slice(None)] * 4
        low[axis], high[axis] = slice(-1), slice(1, None)
        some, every = some[tuple(low)] | some[tuple(high)], every[tuple(low)] & every[tuple(high)]
    return some & ~every


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
