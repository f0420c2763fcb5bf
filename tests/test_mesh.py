import math
import resource
import sys

import numpy as np
import pytest
import torch
from torch import nn

from inr_scenes import geometry
from inr_scenes.derivatives import gradient
from inr_scenes.errors import InrError
from inr_scenes.field import Field, build, sides
from inr_scenes.fit import fit
from inr_scenes.mesh import mesh
from inr_scenes.signals.shape import ShapeSignal
from inr_scenes.siren import Siren
from inr_scenes.spec import Axis, Frame, Spec, ValueMap
from inr_scenes.testing import small_signal

trimesh = pytest.importorskip("trimesh")

module = sys.modules["inr_scenes.mesh"]        # the package's attribute of this name is the function


class Solid(Field):
    """A shape given by a function of its depth (positive inside) at x, y, z, with a sharp but continuous surface."""

    name = "solid"

    def __init__(self, spec, depth, sharpness=8.0):
        super().__init__(None, spec)
        self.depth, self.sharpness, self.rows = depth, nn.Parameter(torch.tensor(float(sharpness))), 0

    def forward(self, coords):
        self.rows += coords[..., 0].numel()
        depth = self.depth(*coords.flip(-1).unbind(-1))[..., None]
        if self.spec.meta["quantity"] == "sdf":
            return -depth.clamp(-1, 1) + 0 * self.sharpness
        return torch.tanh(self.sharpness * depth)


def spec(n=64, frame=None, quantity="occupancy"):
    level, values = (0.5, ValueMap(0.5, 0.5)) if quantity == "occupancy" else (0.0, ValueMap(1.0, 0.0))
    return Spec("shape", (Axis.regular(n),) * 3, 3, 1, values, frame, {"quantity": quantity, "level": level})


def sphere(radius=0.7, at=(0.0, 0.0, 0.0)):
    return lambda x, y, z: radius - ((x - at[0])**2 + (y - at[1])**2 + (z - at[2])**2 + 1e-12).sqrt()


def union(*depths):
    return lambda x, y, z: torch.stack([depth(x, y, z) for depth in depths]).amax(0)


def rod(radius, half=0.8):
    """A thin rod across the axes, which passes between the samples of a coarse grid."""
    def depth(x, y, z):
        a, b, c = (x + y + z) / 3**0.5, (x - y) / 2**0.5, (x + y - 2 * z) / 6**0.5
        return torch.minimum(radius - (b * b + c * c + 1e-12).sqrt(), half - a.abs())
    return depth


@pytest.mark.parametrize("quantity", ["occupancy", "sdf"])
def test_a_ball_in_world_units(quantity):
    field = Solid(spec(frame=Frame.of((100, -20, 3), 50.0), quantity=quantity), sphere())
    found = mesh(field, 96)
    assert found.is_watertight and found.is_winding_consistent
    assert found.volume == pytest.approx(4 / 3 * math.pi * 35**3, rel=0.005)
    assert np.allclose(found.bounds, [[65, -55, -32], [135, 15, 38]], atol=0.05)


@pytest.mark.parametrize("quantity", ["occupancy", "sdf"])
def test_normals_come_from_the_gradient(quantity):
    turn = trimesh.transformations.rotation_matrix(0.7, [1, 2, 3]) @ np.diag([2.0, 3.0, 5.0, 1.0])
    turned = Frame(tuple(map(tuple, turn.tolist())))
    field = Solid(spec(frame=turned, quantity=quantity), sphere())
    found = mesh(field, 48)
    assert found.volume > 0
    inverse = np.linalg.inv(turn[:3, :3])
    expected = found.vertices @ inverse.T @ inverse
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert (found.vertex_normals * expected).sum(1).min() > 0.9999
    faces = (found.face_normals * found.vertex_normals[found.faces[:, 0]]).sum(1)
    assert np.median(faces) > 0.99


THIN = [
    pytest.param(sphere(), id="ball"),
    pytest.param(rod(0.048), id="rod"),
    pytest.param(union(rod(0.04), sphere(0.25, (0.5, -0.5, 0.2))), id="rod and ball"),
    pytest.param(lambda x, y, z: 0.04 - (x + 0.1 * y).abs() + 0 * z, id="sheet to the border"),
]


@pytest.mark.parametrize("quantity", ["occupancy", "sdf"])
@pytest.mark.parametrize("depth", THIN)
def test_refinement_gives_the_dense_mesh(monkeypatch, depth, quantity):
    # coarse cells are 1/8 wide, twice the fit's voxels; rods and sheet are thinner than that
    field = Solid(spec(32, quantity=quantity), depth, sharpness=15.0)
    monkeypatch.setattr(module, "COARSE", 16)
    refined = mesh(field, 64, specks=False)
    assert refined.metadata["evaluated"] < 0.8 * refined.metadata["dense"]
    monkeypatch.setattr(module, "COARSE", 64)
    dense = mesh(field, 64, specks=False)
    assert dense.metadata["evaluated"] == dense.metadata["dense"]
    assert refined.is_watertight and dense.is_watertight
    assert np.array_equal(refined.faces, dense.faces)
    assert np.allclose(refined.vertices, dense.vertices, atol=1e-6)


def test_a_surface_met_once_is_followed_to_its_end(monkeypatch):
    # far thinner than the coarse cells, so that they see it in few places only
    field = Solid(spec(8), rod(0.04), sharpness=50.0)
    monkeypatch.setattr(module, "COARSE", 8)
    monkeypatch.setattr(module, "DOUBT", 0.0)
    found = mesh(field, 128, specks=False)
    assert found.metadata["evaluated"] < 0.2 * found.metadata["dense"]
    assert found.volume == pytest.approx(math.pi * 0.04**2 * 1.6, rel=0.05)


def test_a_surface_is_followed_out_of_what_was_seen_of_it(monkeypatch):
    # the coarse grid sees a ball, and not the rod through it, which runs between its samples
    def needle(x, y, z):
        return torch.minimum(0.01 - ((x - 0.03)**2 + (y - 0.03)**2 + 1e-12).sqrt(), 0.9 - z.abs())

    field = Solid(spec(64), union(sphere(0.3), needle), sharpness=100.0)
    monkeypatch.setattr(module, "COARSE", 32)
    found = mesh(field, 256, specks=False)
    assert np.ptp(found.vertices[:, 2]) == pytest.approx(1.8, abs=0.05) and found.is_watertight
    assert found.metadata["evaluated"] < 0.05 * found.metadata["dense"]


def test_a_rough_surface_is_closed_where_cubes_of_samples_meet():
    def rough(x, y, z):
        return sphere(0.6)(x, y, z) + 0.02 * torch.sin(130 * x) * torch.sin(118 * y + 1) * torch.sin(140 * z + 2)

    found = mesh(Solid(spec(64), rough, sharpness=30.0), 256, specks=False)
    assert found.is_watertight and found.is_winding_consistent
    assert found.metadata["evaluated"] < 0.1 * found.metadata["dense"]


def test_a_speck_that_dims_its_surroundings_is_found(monkeypatch):
    # between all samples of the coarse grid, the next of which it only keeps from being quite empty
    def speck(x, y, z):
        return 0.02 - ((x - 0.53125)**2 + (y - 0.53125)**2 + (z - 0.53125)**2 + 1e-12).sqrt()

    monkeypatch.setattr(module, "COARSE", 32)
    found = mesh(Solid(spec(64), union(sphere(0.3), speck), sharpness=32.0), 256, specks=False)
    assert found.body_count == 2
    assert found.metadata["evaluated"] < 0.1 * found.metadata["dense"]


def test_normals_in_half_precision_are_those_of_the_field():
    inside = np.linalg.norm(np.mgrid[-1:1:24j, -1:1:24j, -1:1:24j], axis=0) < 0.6
    signal = ShapeSignal.from_array(inside)
    field = fit(build(Siren, signal.spec, {"hidden_features": 64}, seed=0), signal, steps=120, batch=2048).field
    found = mesh(field, 48)
    slope = gradient(field.stored, signal.spec.to_coords(torch.from_numpy(found.vertices))).detach()
    exact = -torch.nn.functional.normalize(slope.flip(-1), dim=-1)
    cosine = (torch.from_numpy(found.vertex_normals) * exact).sum(-1).clamp(-1, 1)
    assert torch.rad2deg(torch.arccos(cosine)).mean() < 0.5 and torch.rad2deg(torch.arccos(cosine)).max() < 3


def test_the_counts_are_true(monkeypatch):
    monkeypatch.setattr(sys.modules[sides.__module__], "quick_half", lambda device: None)  # else some are asked twice
    field = Solid(spec(64), sphere())
    found = mesh(field, 160)
    assert field.rows == found.metadata["evaluated"] + len(found.vertices)
    assert found.metadata["dense"] == 161**3
    assert found.metadata["evaluated"] < 0.3 * found.metadata["dense"]


@pytest.mark.slow
def test_512_evaluates_a_tenth_in_little_memory():
    field = Solid(spec(128), union(sphere(0.85), rod(0.02, 1.2)), sharpness=60.0)
    found = mesh(field, 512)
    assert found.is_watertight
    assert found.metadata["evaluated"] < 0.1 * 513**3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 * 2**20


def test_a_shape_that_leaves_the_cube_is_closed_at_its_border():
    found = mesh(Solid(spec(32), sphere(1.2)), 64)
    assert found.is_watertight
    assert np.allclose(found.bounds, [[-1] * 3, [1] * 3], atol=1e-6)


def test_a_box_in_world_units():
    field = Solid(spec(frame=Frame.of((10, 0, 0), 2.0)), sphere())
    found = mesh(field, 64, box=(10, -5, -5, 10.5, 5, 0.25))
    assert found.is_watertight
    low, high = found.bounds
    assert low[0] == pytest.approx(10, abs=1e-5) and high[0] == pytest.approx(10.5, abs=1e-5)
    assert high[2] == pytest.approx(0.25, abs=1e-5) and low[2] == pytest.approx(-1.4, abs=0.05)
    for bad, words in (((0, 0, 0, 1, 1), "x y z"), ((1, 0, 0, 0, 1, 1), "above"), ((50, 0, 0, 60, 1, 1), "outside")):
        with pytest.raises(InrError, match=words):
            mesh(field, 64, box=bad)


def test_boxes_with_thin_sides_and_any_resolution():
    field = Solid(spec(128), sphere())
    for resolution in (2, 17, 150, 201):
        found = mesh(field, resolution, box=(-1, -1, -0.05, 1, 1, 0.05))
        assert found.is_watertight
    assert found.volume == pytest.approx(math.pi * 0.7**2 * 0.1, rel=0.02)


def test_level_moves_the_surface():
    field = Solid(spec(64, quantity="sdf"), sphere())
    assert mesh(field, 64, level=0.1).extents[0] == pytest.approx(1.6, abs=0.01)
    assert mesh(field, 64, level=-0.1).extents[0] == pytest.approx(1.2, abs=0.01)


def test_specks_go_and_are_counted():
    field = Solid(spec(64), union(sphere(0.6), sphere(0.02, (0.8, 0.8, 0.8)), sphere(0.02, (-0.8, 0.8, 0.8))), 40.0)
    clean, all_of_it = mesh(field, 96), mesh(field, 96, specks=False)
    assert clean.metadata["specks_removed"] == 2 and clean.body_count == 1
    assert all_of_it.metadata["specks_removed"] == 0 and all_of_it.body_count == 3
    assert len(clean.vertex_normals) == len(clean.vertices)


def test_what_cannot_be_meshed():
    with pytest.raises(InrError, match="no surface at level 0.5"):
        mesh(Solid(spec(16), sphere(-1.0)), 32)
    with pytest.raises(InrError, match="resolution 1 "):
        mesh(Solid(spec(16), sphere()), 1)
    image = small_signal("image")
    with pytest.raises(InrError, match="image"):
        mesh(Solid(image.spec.replace(meta={"quantity": "occupancy"}), sphere()), 32)


def test_a_non_cubic_grid_keeps_cubic_voxels():
    axes = tuple(Axis.regular(n, half=n / 40) for n in (10, 20, 40))
    field = Solid(spec().replace(axes=axes), lambda x, y, z: torch.stack(
        [0.9 - x.abs(), 0.4 - y.abs(), 0.2 - z.abs()]).amin(0), 20.0)
    found = mesh(field, 120)
    assert np.allclose(found.extents, [1.8, 0.8, 0.4], atol=0.03)
    assert found.metadata["dense"] == 121 * 61 * 31
    assert geometry.open_edges(found) == 0
