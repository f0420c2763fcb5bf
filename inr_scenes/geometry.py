"""Triangle meshes: reading, mending, inside and outside, distances, ray-cast views, comparison.

The one file that meets open3d. Points are arrays (n, 3), x y z in the mesh's own units.
"""

import functools
import importlib
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .camera import Cameras
from .errors import InrError
from .files import readable

if TYPE_CHECKING:
    from trimesh import Trimesh

SUFFIXES = (".ply", ".obj", ".stl", ".off", ".glb")
CHUNK = 1 << 18                     # points or rays asked about at once
# no special direction: rays along an axis would hit the edges of modelled parts
DIRECTIONS = np.array([[0.3144, 0.5277, 0.7891], [-0.7523, 0.4079, -0.5174], [0.4411, -0.8529, 0.2794]], np.float32)
EXACT_EDGES = 2000                  # open edges up to which the winding number is exact rather than sampled
GREY = 0.76                         # of surfaces without colours


def read_mesh(path) -> "Trimesh":
    """Read a mesh file: a scene's parts in one mesh, vertices at one place merged, textures turned to vertex colours.

    Raises InrError for a file that is truncated, foreign, without faces, or with coordinates that are not numbers.
    """
    import trimesh

    path = readable(path)
    try:
        mesh = trimesh.load_mesh(path, process=False)
    except Exception as error:              # each of trimesh's readers fails in its own way
        raise InrError(f"{path} is not a whole {path.suffix.lower()} mesh file "
                       f"({type(error).__name__}: {str(error)[:100]}).") from None
    if not len(getattr(mesh, "faces", ())):
        raise InrError(f"{path} holds no faces: it is not a mesh, or its file is damaged.")
    if not np.isfinite(mesh.vertices).all():
        raise InrError(f"{path} holds vertices that are not numbers.")
    if float(np.ptp(mesh.vertices, axis=0).max()) == 0:
        raise InrError(f"{path} holds a mesh without any extent.")
    if mesh.visual.kind == "texture":
        mesh.visual = mesh.visual.to_color()
    # seams of normals and textures are no holes; only equal places are merged, so that no unit is too small
    _, first, where = np.unique(mesh.vertices + 0.0, axis=0, return_index=True, return_inverse=True)
    mesh.update_vertices(first, where.ravel())
    mesh.update_faces(~collapsed(mesh.faces))
    return mesh


@functools.lru_cache(maxsize=4)
def open_edges(mesh: "Trimesh") -> int:
    """Return the number of edges where the surface ends: those with an odd number of faces. 0: inside is defined."""
    _, uses = np.unique(_edge_keys(mesh), return_counts=True)
    return int((uses % 2).sum())


def is_watertight(mesh: "Trimesh") -> bool:
    """Say whether every edge has two faces: trimesh's `is_watertight`, in an eighth of the time."""
    keys = np.sort(_edge_keys(mesh))
    first, second = keys[::2], keys[1::2]
    return len(first) == len(second) and bool((first == second).all() and (second[:-1] != first[1:]).all())


def repair(mesh: "Trimesh") -> "Trimesh":
    """Return a closed copy: degenerate and doubled faces removed, winding made consistent, holes filled by fans."""
    mesh = mesh.copy()
    mesh.update_faces(~collapsed(mesh.faces) & mesh.unique_faces())
    if not open_edges(mesh):
        return mesh
    mesh.fix_normals(multibody=True)
    return _closed(mesh)[0].copy()


def occupancy(mesh: "Trimesh", points) -> np.ndarray:
    """Say which points (n, 3) lie inside, (n,) bool.

    Parts that overlap are joined. A surface with holes is judged by its generalised winding number.
    """
    try:
        open3d()
    except InrError as error:
        warnings.warn(f"{error} trimesh decides what is inside meanwhile.", stacklevel=2)
        return np.concatenate([mesh.contains(part) for part in _chunks(np.asarray(points, np.float64))])
    if len(_loose_edges(mesh)) and not open_edges(mesh):     # closed, but its faces are not turned the same way
        scene = _scene(mesh)
        parts = (scene.caster.compute_occupancy(scene.local(part), nsamples=3).numpy() for part in _chunks(points))
        return np.concatenate([part > 0.5 for part in parts])
    return np.abs(winding(mesh, points)) > 0.5


def winding(mesh: "Trimesh", points) -> np.ndarray:
    """Return the generalised winding number at points (n, 3), (n,) float32: 1 inside, 0 outside, between near holes.

    The surface is closed by cones over its open edges. What a ray counts in the closed surface, less the solid angle of
    the cones, is exact. Beyond `EXACT_EDGES` open edges it is the mean count over 48 directions instead.
    """
    points = np.asarray(points)
    closed, cones = _closed(mesh)
    if not len(cones):
        return _crossings(mesh, points)
    if len(cones) > EXACT_EDGES:
        directions = np.random.default_rng(0).standard_normal((48, 3)).astype(np.float32)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        return np.mean([_signed_hits(mesh, points, direction) for direction in directions], axis=0, dtype=np.float32)
    local = _scene(closed).local
    return _crossings(closed, points) - _solid_angle(local(closed.vertices)[cones], local(points)) / (4 * np.pi)


def distance(mesh: "Trimesh", points) -> np.ndarray:
    """Return the distance of points (n, 3) to the surface, (n,) float32."""
    scene = _scene(mesh)
    parts = (scene.caster.compute_distance(scene.local(part)).numpy() for part in _chunks(points))
    return np.concatenate([part * np.float32(scene.size) for part in parts])


def signed_distance(mesh: "Trimesh", points) -> np.ndarray:
    """Return the distance of points (n, 3) to the surface, negative inside, (n,) float32."""
    length = distance(mesh, points)
    return np.where(occupancy(mesh, points), -length, length)


def measures_distance() -> bool:
    """Say whether distances can be measured: they need open3d; what is inside does not."""
    try:
        return bool(open3d())
    except InrError:
        return False


def compare_meshes(reference: "Trimesh", mesh: "Trimesh", samples: int = 100_000, seed: int = 0) -> dict[str, float]:
    """Return "chamfer" and "normal_consistency" of two meshes.

    chamfer: mean distance from points spread over either surface to the other surface itself, both ways averaged, as a
    share of the reference's bounding-box diagonal · normal_consistency: mean |cosine| between the normals there.
    """
    import trimesh

    distances, cosines = [], []
    for source, target in ((reference, mesh), (mesh, reference)):
        points, faces = trimesh.sample.sample_surface(source, samples, seed=seed)
        scene = _scene(target)
        found = [scene.caster.compute_closest_points(scene.local(part)) for part in _chunks(points)]
        nearest = np.concatenate([f["points"].numpy() for f in found]) * scene.size + scene.centre
        other = np.concatenate([f["primitive_ids"].numpy() for f in found])
        distances.append(np.linalg.norm(nearest - points, axis=1).mean())
        cosines.append(np.abs((_scene(source).normals[faces] * scene.normals[other]).sum(1)).mean())
    diagonal = float(np.linalg.norm(reference.extents))
    return {"chamfer": float(np.mean(distances)) / diagonal, "normal_consistency": float(np.mean(cosines))}


def cast_views(mesh: "Trimesh", cameras: Cameras, *, shading: str = "lambert", background: float | None = 1.0,
               samples: int = 2) -> Iterator[Tensor]:
    """Yield one image (height, width, 3) in [0, 1] per camera, by casting samples² rays per pixel.

    shading: "lambert" (a light above the camera's shoulder, the mesh's colours), "flat" (colours alone) or "normal"
    (world normals as colours) · background: its grey; none gives (height, width, 4) with straight alpha.
    """
    if shading not in ("lambert", "flat", "normal"):
        raise InrError(f"--shading {shading!r} is not known: lambert, flat or normal.")
    scene = _scene(mesh)
    colours = _corner_colours(mesh)
    normals = _vertex_normals(mesh)[mesh.faces]
    for i in range(len(cameras)):
        height, width = cameras.size[i].tolist()
        origins, directions = cameras[i:i + 1].resized(height * samples, width * samples).rays(0)
        seen = [_shade(scene, colours, normals, o.numpy(), d.numpy(), cameras.poses[i, :, :3].numpy(), shading)
                for o, d in zip(origins.split(CHUNK), directions.split(CHUNK))]
        image = torch.from_numpy(np.concatenate(seen)).reshape(height, samples, width, samples, 4).mean((1, 3))
        colour, alpha = image[..., :3], image[..., 3:]
        if background is None:
            yield torch.cat([colour / alpha.clamp_min(1e-6), alpha], -1)
        else:
            yield colour + (1 - alpha) * background


@functools.cache
def open3d():
    """Import open3d, which links libusb and whose wheel leaves it out. Raises InrError when it does not import."""
    try:
        if sys.platform == "linux":
            import ctypes

            try:
                import libusb_package
                ctypes.CDLL(str(libusb_package.get_library_path()), mode=ctypes.RTLD_GLOBAL)
            except (ImportError, OSError):
                pass                            # the system may have its own
        return importlib.import_module("open3d")
    except (ImportError, OSError) as error:
        raise InrError(f"open3d does not import ({error}). Try: pip install open3d libusb-package") from error


class _Scene:
    """A mesh in open3d's ray caster, moved into the unit cube: its float32 would lose a mesh far from the origin."""

    def __init__(self, mesh: "Trimesh"):
        low, high = mesh.bounds
        self.centre, self.size = (low + high) / 2, float((high - low).max())
        vertices = self.local(mesh.vertices)
        self._build(vertices, mesh.faces)
        # trimesh's own normals are zero where triangles are small in the mesh's units
        a, b, c = (vertices[corner].astype(np.float64) for corner in mesh.faces.T)
        across = np.cross(b - a, c - a)
        self.areas = np.linalg.norm(across, axis=1) / 2
        self.normals = across / np.maximum(2 * self.areas, 1e-30)[:, None]

    def _build(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        core = open3d().core
        self.caster = open3d().t.geometry.RaycastingScene()
        self.caster.add_triangles(core.Tensor(vertices), core.Tensor(faces.astype(np.uint32)))

    def first_hits(self, origins, directions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return which rays (n,) meet the surface, and for these the face and its corners' weights (k, 3) there."""
        hit = self.caster.cast_rays(self.rays(origins, directions))
        found = np.isfinite(hit["t_hit"].numpy())
        uv = hit["primitive_uvs"].numpy()[found]
        return found, hit["primitive_ids"].numpy()[found], np.stack([1 - uv.sum(1), uv[:, 0], uv[:, 1]], 1)

    def local(self, points) -> np.ndarray:
        """Map points to the caster's coordinates, float32."""
        return np.ascontiguousarray((np.asarray(points) - self.centre) / self.size, np.float32)

    def rays(self, origins, directions) -> np.ndarray:
        """Return rays (n, 6) in the caster's coordinates; hits are then at distances divided by `size`."""
        origins = self.local(origins)
        return np.concatenate([origins, np.broadcast_to(directions, origins.shape)], 1).astype(np.float32)


class _EmbreeScene(_Scene):
    """The same in trimesh's caster, where open3d does not import: it shows views, and knows no distances."""

    def _build(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        import trimesh
        self.mesh = trimesh.Trimesh(vertices, faces, process=False)

    @property
    def caster(self):
        """Nothing: raises InrError with the way to mend open3d."""
        return open3d()

    def first_hits(self, origins, directions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the same as `_Scene.first_hits`."""
        import trimesh

        rays = self.rays(origins, directions)
        faces, hit, places = self.mesh.ray.intersects_id(rays[:, :3], rays[:, 3:], multiple_hits=False,
                                                         return_locations=True)
        found = np.zeros(len(rays), bool)
        found[hit] = True
        order = np.argsort(hit)
        weights = trimesh.triangles.points_to_barycentric(self.mesh.triangles[faces], places)
        return found, faces[order], weights[order].astype(np.float32)


@functools.lru_cache(maxsize=4)     # a mesh is looked up by its contents' hash, so a changed mesh is built anew
def _scene(mesh: "Trimesh") -> _Scene:
    return _Scene(mesh) if measures_distance() else _EmbreeScene(mesh)


def _chunks(points) -> Iterator[np.ndarray]:
    """Yield parts of `points`; one, empty, of an empty array."""
    points = np.asarray(points)
    for low in range(0, max(1, len(points)), CHUNK):
        yield points[low:low + CHUNK]


def collapsed(faces: np.ndarray) -> np.ndarray:
    """Say which faces use a vertex twice."""
    return (faces == np.roll(faces, 1, axis=1)).any(1)


def _edge_keys(mesh: "Trimesh") -> np.ndarray:
    """One integer per edge of every face, equal where two faces share the edge."""
    edges = np.sort(mesh.edges, axis=1).astype(np.int64)
    return edges[:, 0] * len(mesh.vertices) + edges[:, 1]


@functools.lru_cache(maxsize=4)
def _loose_edges(mesh: "Trimesh") -> np.ndarray:
    """Directed edges (m, 2) that no opposite edge of a neighbouring face cancels, repeated as often as they are."""
    forward = np.where(mesh.edges[:, 0] < mesh.edges[:, 1], 1, -1)
    keys, where = np.unique(_edge_keys(mesh), return_inverse=True)
    net = np.bincount(where.ravel(), weights=forward, minlength=len(keys)).astype(int)
    start, end = np.divmod(keys[net != 0], len(mesh.vertices))
    net = net[net != 0]
    edges = np.stack([np.where(net > 0, start, end), np.where(net > 0, end, start)], 1)
    return np.repeat(edges, np.abs(net), axis=0)


@functools.lru_cache(maxsize=4)
def _closed(mesh: "Trimesh") -> tuple["Trimesh", np.ndarray]:
    """The mesh closed by a cone over each connected group of open edges, and the faces (m, 3) of the cones.

    A boundary has no boundary, so the cone over any group of open edges closes it, whatever loops they form.
    """
    import trimesh
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = _loose_edges(mesh)
    if not len(edges):
        return mesh, edges
    used, where = np.unique(edges, return_inverse=True)
    where = where.reshape(-1, 2)
    graph = coo_matrix((np.ones(len(edges)), (where[:, 0], where[:, 1])), shape=(len(used), len(used)))
    group = connected_components(graph, directed=False)[1]
    tips = np.stack([np.bincount(group, column) for column in mesh.vertices[used].T], 1) / np.bincount(group)[:, None]
    cones = np.stack([edges[:, 1], edges[:, 0], len(mesh.vertices) + group[where[:, 0]]], 1)
    vertices, faces = np.concatenate([mesh.vertices, tips]), np.concatenate([mesh.faces, cones])
    return trimesh.Trimesh(vertices, faces, process=False), cones


def _crossings(mesh: "Trimesh", points: np.ndarray) -> np.ndarray:
    """Winding number of a closed mesh: what two of three rays agree on, as a ray may graze an edge."""
    first, second = (_signed_hits(mesh, points, direction) for direction in DIRECTIONS[:2])
    unsure = first != second
    if unsure.any():
        third = _signed_hits(mesh, points[unsure], DIRECTIONS[2])
        first[unsure] = np.median([first[unsure], second[unsure], third], axis=0)
    return first


def _signed_hits(mesh: "Trimesh", points: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """How often the ray from each point leaves the mesh less how often it enters, (n,) float32."""
    scene = _scene(mesh)
    leaves = np.sign(scene.normals @ direction)
    counts = []
    for part in _chunks(points):
        hits = scene.caster.list_intersections(scene.rays(part, direction))
        signs = leaves[hits["primitive_ids"].numpy()]
        counts.append(np.bincount(hits["ray_ids"].numpy(), weights=signs, minlength=len(part)))
    return np.concatenate(counts).astype(np.float32)


def _solid_angle(triangles: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Sum of the signed solid angles of triangles (m, 3, 3) seen from points (van Oosterom and Strackee, 1983).

    Single numbers rather than vectors in the last axis, and parts that stay in cache: ten times faster.
    """
    corners = torch.from_numpy(triangles).float().permute(1, 2, 0)
    totals = []
    for part in torch.from_numpy(points).float().split(max(1, (1 << 15) // len(triangles))):
        x, y, z = part.T[:, :, None]
        (ax, ay, az), (bx, by, bz), (cx, cy, cz) = ((k[0] - x, k[1] - y, k[2] - z) for k in corners)
        a, b, c = ((i * i + j * j + k * k).sqrt() for i, j, k in ((ax, ay, az), (bx, by, bz), (cx, cy, cz)))
        volume = ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx)
        rest = (a * b * c + (ax * bx + ay * by + az * bz) * c + (bx * cx + by * cy + bz * cz) * a
                + (cx * ax + cy * ay + cz * az) * b)
        totals.append(2 * torch.atan2(volume, rest).sum(-1))
    return torch.cat(totals).numpy()


def _vertex_normals(mesh: "Trimesh") -> np.ndarray:
    """Unit normals of the vertices (n, 3) float32: those of their faces, weighted by area."""
    scene = _scene(mesh)
    weighted = np.repeat(scene.normals * scene.areas[:, None], 3, axis=0)
    corners = mesh.faces.ravel()
    normals = np.stack([np.bincount(corners, column, minlength=len(mesh.vertices)) for column in weighted.T], 1)
    return (normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)).astype(np.float32)


def _corner_colours(mesh: "Trimesh") -> np.ndarray:
    """Colours in [0, 1] at the corners of every face, (faces, 3, 3) float32."""
    kind = mesh.visual.kind
    if kind == "vertex":
        return np.asarray(mesh.visual.vertex_colors[:, :3], np.float32)[mesh.faces] / 255
    if kind == "face":
        return np.repeat(np.asarray(mesh.visual.face_colors[:, None, :3], np.float32) / 255, 3, axis=1)
    return np.full((len(mesh.faces), 3, 3), GREY, np.float32)


def _shade(scene: _Scene, colours, normals, origins, directions, axes, shading: str) -> np.ndarray:
    """Colours (n, 4), premultiplied by alpha, of what rays meet. axes: the camera's right, up and backward."""
    found, face, weights = scene.first_hits(origins, directions)
    weights = weights[:, :, None]
    normal = (normals[face] * weights).sum(1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-12
    normal = np.where((normal * directions[found]).sum(1, keepdims=True) > 0, -normal, normal)
    if shading == "normal":
        colour = normal * 0.5 + 0.5
    else:
        colour = (colours[face] * weights).sum(1)
        if shading == "lambert":
            light = axes @ np.array([-0.35, 0.6, 1.0], np.float32)
            light /= np.linalg.norm(light)
            colour = colour * (0.25 + 0.75 * np.clip(normal @ light, 0, 1)[:, None])
    out = np.zeros((len(found), 4), np.float32)
    out[found, :3], out[found, 3] = colour, 1
    return out
