"""Signed distance from oriented points: a closed surface from scanned points with normals (SIREN's eikonal losses)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .. import geometry
from ..derivatives import value_and_jacobian
from ..errors import InrError
from ..field import Field, Recipe
from ..files import readable
from ..signals.shape import ShapeSignal
from ..spec import Axis, Frame, Spec, ValueMap
from . import Problem, changed

VOXELS = 128                        # along each side of the cube around points: what grids are decoded at
CELLS = 96                          # along the longest side of the mesh that metrics look at
FREE = 1 << 15                      # places in the cube, drawn once, at which distances are away from 0
JUDGES = 4096                       # points that say on which side of the surface those places are
MARGIN = 1.05                       # of the cube beyond the longest side of the points, as for meshes
# Sitzmann et al., 2020: 3e3, 1e2, 1e2 and 5e1, of which the first three are means over both halves of a batch
ON_SURFACE, OFF_SURFACE, NORMAL, EIKONAL = 1.5e3, 5e1, 5e1, 5e1


class SignedDistance(Problem):
    """The signed distance to a surface of which points and their normals are known.

    The field is 0 at the points, where its gradient is the normal; it is away from 0 elsewhere, and its gradient has
    length 1 everywhere. These are SIREN's conditions, which say nothing of the sign far from the points and so allow
    ghost surfaces; here the winding number of the points tells inside from outside wherever it is sure.
    Distances in the network's range are those of coordinates; stored ones are in world units.
    """

    name = "sdf"
    kinds = frozenset({"shape"})
    suffixes = (".ply", ".xyz", ".txt", *geometry.SUFFIXES)
    main_metric = "surface_error"
    points = 2

    @dataclass(frozen=True)
    class Options:
        """The points. A file holds points with normals (.ply, or .xyz: x y z [r g b] nx ny nz a line), or a mesh."""

        samples: int = 250_000
        """Meshes: points drawn from the surface."""
        sample_seed: int = 0
        """Seeds the draw."""

    def __init__(self, spec: Spec, places: Tensor, normals: Tensor, mesh=None):
        """places: world points (n, 3) · normals: (n, 3), pointing outwards · mesh: the surface itself, if known."""
        frame = spec.frame
        spec = spec.replace(values=ValueMap(frame.scale, 0.0), meta={**spec.meta, "quantity": "sdf", "level": 0.0})
        # a similarity turns and scales: normals in coordinates are those of the world turned back, in tensor order
        turned = normals.double() @ (frame.tensor[:3, :3] / frame.scale)
        super().__init__(spec, turned.flip(-1).float())
        self.places, self.mesh = spec.to_coords(places), mesh
        self.free = torch.rand(FREE, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
        self.side = side_of(self.free, self.places, self.values)
        self.diagonal = float((places.amax(0) - places.amin(0)).norm())

    @classmethod
    def simulate(cls, signal: ShapeSignal, options: Options) -> "SignedDistance":
        """Draw points from the surface of a mesh."""
        if signal.mesh is None:
            raise InrError(f"sdf needs a surface to draw points from; {signal.name} is a grid. Give a mesh.")
        return cls.from_mesh(signal.mesh, options, signal.spec)

    @classmethod
    def read(cls, path, options: Options) -> "SignedDistance":
        """Read points with normals, or draw them from a mesh."""
        places, normals = read_points(path)
        if normals is None:
            return cls.from_mesh(geometry.read_mesh(path), options)
        return cls(spec_around(places), places, normals)

    @classmethod
    def from_mesh(cls, mesh, options: Options = Options(), spec: Spec | None = None) -> "SignedDistance":
        """Draw points from the surface of a trimesh.Trimesh."""
        import trimesh

        if options.samples < 1:
            raise InrError("--samples must be at least 1.")
        places, faces = trimesh.sample.sample_surface(mesh, options.samples, seed=options.sample_seed)
        spec = spec or spec_around(torch.tensor(mesh.bounds))
        return cls(spec, torch.from_numpy(np.array(places)), torch.from_numpy(mesh.face_normals[faces]), mesh)

    def regrid(self, grid: str) -> "SignedDistance":
        """Keep the grid: points lie where they lie."""
        return self

    def sample(self, index: Tensor, generator=None) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return the coords of points and of as many places in the cube, each (n, 3); normals (n, 3) and sides (n,)."""
        free = torch.randint(FREE, (len(index),), generator=generator, device=index.device)
        return (self.places[index], self.free[free]), (self.values[index], self.side[free])

    def predict(self, field, query) -> tuple[Tensor, Tensor]:
        """Return distances (2n,) and gradients (2n, 3) at the points, then at the places in the cube."""
        values, rows = value_and_jacobian(field, torch.cat(query))
        return values[:, 0].float(), rows[:, 0]

    def loss(self, predicted, values) -> Tensor:
        """Return the four weighted terms of SIREN's eikonal problem; a distance of the wrong sign costs the more."""
        (distance, slope), (normals, side) = predicted, values
        n = len(normals)
        cosine = torch.nn.functional.cosine_similarity(slope[:n], normals, dim=-1)
        free = 100 * distance[n:]
        away = torch.where(free * side < 0, 1 + free.abs(), torch.exp(-free.abs()))
        return (ON_SURFACE * distance[:n].abs().mean() + OFF_SURFACE * away.mean()
                + NORMAL * (1 - cosine).mean() + EIKONAL * (slope.norm(dim=-1) - 1).abs().mean())

    @torch.no_grad()
    def probe(self, field, samples: int = 1 << 14) -> dict[str, float]:
        """Look at `samples` places, half of them on the surface, the same at every call.

        surface_error: mean distance from the points to the field's surface (to first order), as a share of the diagonal
        of their bounding box · eikonal_error: mean | |gradient| - 1 |.
        """
        index = torch.randint(len(self), (samples // 2,), generator=torch.Generator().manual_seed(0))
        near, slope = [], []
        for part in index.to(self.device).split(2048):
            distance, gradient = value_and_jacobian(field, torch.cat([self.places[part], self.free[:len(part)]]))
            length = gradient[:, 0].detach().norm(dim=-1)
            near.append(distance[:len(part), 0].detach().abs() / length[:len(part)].clamp_min(0.1))
            slope.append(length)
        return {"surface_error": torch.cat(near).mean().item() * self.spec.frame.scale / self.diagonal,
                "eikonal_error": (torch.cat(slope) - 1).abs().mean().item()}

    def metrics(self, field) -> dict[str, float]:
        """The errors of `probe`; where the surface is known also chamfer and normal_consistency of the field's mesh."""
        result = self.probe(field)
        if self.mesh is not None:
            from ..mesh import mesh
            try:
                result |= geometry.compare_meshes(self.mesh, mesh(field, resolution=CELLS))
            except InrError:                # the field has no surface: as far off as the shape is large
                result |= {"chamfer": 1.0, "normal_consistency": 0.0}
        return result

    def pictures(self, field) -> list[tuple[np.ndarray, np.ndarray]]:
        """No pictures: there is no grid to compare."""
        return []

    def adapt(self, recipe: Recipe, field: type[Field], preset: str) -> Recipe:
        """Published: 10,000 steps of 1400 points at 1e-4. Fast: fewer steps, by Muon at a rate that falls.

        After 600 steps on bunny Muon has half the eikonal error of Adam at 1e-3; at 1e-3 itself it is worse than Adam.
        """
        plain = {"clip": 1.0, "focus": 0.0, "precision": "32"}
        if preset == "published":
            return changed(recipe, field, steps=10_000, optimizer="adam", lr=1e-4, batch=1400, schedule="constant",
                           **plain)
        # the grid is only what is decoded, so its size asks for no higher frequencies
        return changed(recipe, field, config={"first_omega_0": 30.0}, steps=1000, optimizer="muon", lr=5e-4, batch=2048,
                       schedule="cosine", **plain)


def spec_around(places: Tensor) -> Spec:
    """Return the spec of a cube around world points (n, 3)."""
    low, high = places.double().amin(0), places.double().amax(0)
    longest = float((high - low).max())
    if longest == 0:
        raise InrError("The points have no extent: they all lie at one place.")
    frame = Frame.of(((low + high) / 2).tolist(), longest / 2 * MARGIN)
    return Spec("shape", (Axis.regular(VOXELS),) * 3, 3, 1, ValueMap(frame.scale, 0.0), frame, {"grid": "centers"})


def side_of(places: Tensor, points: Tensor, normals: Tensor) -> Tensor:
    """Say on which side of a surface places (n, 3) are: 1 outside, -1 inside, 0 not sure, (n,) float32.

    By the winding number of a sample of the surface's points (m, 3) with their normals (Barill et al., 2018); the area
    a point stands for comes from the distance of its neighbours. Near the surface, and in the openings of one that is
    not closed, it is not sure.
    """
    from scipy.spatial import cKDTree

    chosen = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:JUDGES]
    points, normals = points[chosen], normals[chosen]
    around = min(8, len(points) - 1)
    if around < 1:
        return torch.zeros(len(places))
    reach = torch.from_numpy(cKDTree(points.numpy()).query(points.numpy(), around + 1)[0][:, -1]).float()
    area = reach.square() * (torch.pi / around)
    weighted = normals * area[:, None]
    flux, near = (weighted * points).sum(-1), reach.square()
    sides = []
    for part in places.split(1024):
        apart = torch.cdist(part, points).square_()
        winding = ((flux - part @ weighted.T) * apart.clamp_min(1e-12).pow(-1.5)).sum(1) / (4 * torch.pi)
        sure = (apart > near).all(1)
        sides.append(torch.where(sure, (winding < 0.25).float() - (winding > 0.75).float(), 0.0))
    return torch.cat(sides)


def read_points(path) -> tuple[Tensor, Tensor | None]:
    """Read world points (n, 3) and unit normals (n, 3); none for a mesh, whose surface can be drawn from."""
    path = readable(path)
    if path.suffix.lower() not in (".ply", ".xyz", ".txt"):
        return torch.empty(0, 3), None
    table = _ply_table(path) if path.suffix.lower() == ".ply" else _text_table(path)
    if table is None:
        return torch.empty(0, 3), None
    if table.shape[1] < 6:
        raise InrError(f"{path} holds points without normals. sdf needs them (x y z nx ny nz); open3d's "
                       f"estimate_normals and orient_normals_consistent_tangent_plane can add them.")
    if not len(table) or not np.isfinite(table).all():
        raise InrError(f"{path} holds no points, or coordinates that are not numbers.")
    places, normals = torch.from_numpy(table[:, :3]), torch.from_numpy(table[:, 3:6])
    length = normals.norm(dim=-1, keepdim=True)
    whole = length[:, 0] > 1e-6                 # scanners mark points without a normal by zeros
    if not whole.any():
        raise InrError(f"{path}: all normals are zero.")
    return places[whole], (normals / length.clamp_min(1e-6))[whole]


def _text_table(path) -> np.ndarray:
    """Return the columns of a text file, but for colours between places and normals."""
    try:
        table = np.loadtxt(path, dtype=np.float64, ndmin=2)
    except (ValueError, UnicodeDecodeError):
        raise InrError(f"{path} is not a text file of points: numbers x y z nx ny nz on every line.") from None
    if table.shape[1] < 6 or not _like_colours(table[:, 3:6]):
        return table
    if table.shape[1] != 9:
        raise InrError(f"{path}: columns 4 to 6 look like colours, not normals of length 1. "
                       f"Write x y z nx ny nz or x y z r g b nx ny nz on every line.")
    return np.delete(table, slice(3, 6), 1)


def _like_colours(columns: np.ndarray) -> bool:
    """Say whether three columns hold colours: none is negative, and not all rows have length 1 or, unknown, 0."""
    length = np.linalg.norm(columns, axis=1)
    return bool((columns >= 0).all() and (np.abs(length[length > 0] - 1) > 0.1).any())


def _ply_table(path) -> np.ndarray | None:
    """Return the columns x y z [nx ny nz] of a PLY file without faces; none where there are faces."""
    import trimesh

    try:
        loaded = trimesh.load(path, process=False)
        if not isinstance(loaded, trimesh.PointCloud):
            return None
        data = loaded.metadata["_ply_raw"]["vertex"]["data"]
        names = data.keys() if isinstance(data, dict) else data.dtype.names
        columns = [name for name in ("x", "y", "z", "nx", "ny", "nz") if name in names]
        return np.stack([np.asarray(data[name], np.float64).reshape(-1) for name in columns], 1)
    except Exception as error:                  # each kind of damage fails in its own way
        raise InrError(f"{path} is not a whole .ply file ({type(error).__name__}: {str(error)[:100]}).") from None
