import math

import numpy as np
import pytest
import torch

from inr_scenes import geometry, surface
from inr_scenes.camera import Cameras, look_at
from inr_scenes.errors import InrError
from inr_scenes.spec import Axis, Frame, Spec

trimesh = pytest.importorskip("trimesh")


def ball(radius=1.0, at=(0.0, 0.0, 0.0), detail=3):
    mesh = trimesh.creation.icosphere(detail, radius)
    mesh.apply_translation(at)
    return mesh


def cube_points(n=4000, half=1.3, seed=0):
    return np.random.default_rng(seed).uniform(-half, half, (n, 3))


def grid(n=24, half=1.0, frame=None):
    spec = Spec("shape", (Axis.regular(n),) * 3, 3, 1, frame=frame)
    return spec, spec.coords(torch.arange(n**3)).reshape(n, n, n, 3).numpy() * half


def camera(distance=4.0, size=64, focal=64.0):
    poses = look_at(torch.tensor([[distance, 0.0, 0.0]]), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    return Cameras(poses, torch.full((1, 2), focal), torch.full((1, 2), size / 2), torch.full((1, 2), size))


# --- reading


@pytest.mark.parametrize("suffix", geometry.SUFFIXES)
def test_reads_every_format(tmp_path, suffix):
    path = tmp_path / f"ball{suffix}"
    ball(at=(5, 6, 7)).export(path)
    mesh = geometry.read_mesh(path)
    assert mesh.is_watertight and geometry.open_edges(mesh) == 0
    assert np.allclose(mesh.bounds, [[4, 5, 6], [6, 7, 8]], atol=1e-5)


def test_a_scene_is_one_mesh_with_its_transforms(tmp_path):
    scene = trimesh.Scene()
    scene.add_geometry(ball(), transform=trimesh.transformations.translation_matrix([3, 0, 0]))
    scene.add_geometry(ball(), transform=trimesh.transformations.translation_matrix([-3, 0, 0]))
    scene.export(tmp_path / "two.glb")
    mesh = geometry.read_mesh(tmp_path / "two.glb")
    assert np.allclose(mesh.bounds[:, 0], [-4, 4], atol=1e-5)
    assert mesh.body_count == 2


def test_seams_are_merged_whatever_the_unit(tmp_path):
    mesh = ball(radius=1e-7)
    loose = trimesh.Trimesh(mesh.triangles.reshape(-1, 3), np.arange(3 * len(mesh.faces)).reshape(-1, 3), process=False)
    assert geometry.open_edges(loose) == 3 * len(mesh.faces)
    loose.export(tmp_path / "loose.ply")
    again = geometry.read_mesh(tmp_path / "loose.ply")
    assert geometry.open_edges(again) == 0 and len(again.vertices) == len(mesh.vertices)


@pytest.mark.parametrize("suffix", geometry.SUFFIXES)
def test_damaged_files_have_one_clear_line(tmp_path, suffix):
    path = tmp_path / f"ball{suffix}"
    ball().export(path)
    whole = path.read_bytes()
    # half a line of an .obj is damage that can be told
    path.write_bytes(whole[:len(whole) // 2].rsplit(b"\n", 1)[0] + b"\nv -" if suffix == ".obj"
                     else whole[:len(whole) // 2])
    for _ in range(2):
        with pytest.raises(InrError) as error:
            geometry.read_mesh(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
        path.write_text("This is a text.\n" * 5)


def test_points_and_numbers_that_are_none_are_refused(tmp_path):
    trimesh.PointCloud(cube_points(20)).export(tmp_path / "cloud.ply")
    with pytest.raises(InrError, match="no faces"):
        geometry.read_mesh(tmp_path / "cloud.ply")
    mesh = ball()
    mesh.vertices[3, 1] = np.nan
    mesh.export(tmp_path / "nan.ply")
    with pytest.raises(InrError, match="not numbers"):
        geometry.read_mesh(tmp_path / "nan.ply")


# --- inside and outside


@pytest.mark.parametrize("scale, shift", [(1.0, 0.0), (1e-6, 0.0), (1.0, 1e6), (500.0, -3e4)])
def test_inside_in_any_unit_and_place(scale, shift):
    points = cube_points()
    radius = np.linalg.norm(points, axis=1)
    clear = np.abs(radius - 0.995) > 0.006
    mesh = ball()
    mesh.apply_scale(scale)
    mesh.apply_translation([shift] * 3)
    inside = geometry.occupancy(mesh, points * scale + shift)
    assert (inside == (radius < 1))[clear].all()


def test_inside_does_not_depend_on_how_faces_are_turned():
    points = cube_points()
    expected = geometry.occupancy(ball(), points)
    inverted, mixed = ball(), ball()
    inverted.invert()
    faces = mixed.faces.copy()
    faces[::3] = faces[::3, ::-1]
    mixed.faces = faces
    assert (geometry.occupancy(inverted, points) == expected).all()
    assert (geometry.occupancy(mixed, points) == expected).all()


def test_overlapping_parts_are_joined_and_cavities_are_not_filled():
    points = cube_points()
    shifted = ball(at=(0.6, 0, 0))
    either = geometry.occupancy(ball(), points) | geometry.occupancy(shifted, points)
    assert (geometry.occupancy(trimesh.util.concatenate([ball(), shifted]), points) == either).all()
    cavity = ball(radius=0.5)
    cavity.invert()
    shell = geometry.occupancy(ball(), points) & ~geometry.occupancy(ball(radius=0.5), points)
    assert (geometry.occupancy(trimesh.util.concatenate([ball(), cavity]), points) == shell).all()


def open_box():
    box = trimesh.creation.box((2, 2, 2))
    box.update_faces(box.face_normals[:, 2] < 0.5)
    return box


def test_winding_number_of_an_open_box_is_exact():
    # each side of a cube takes a sixth of what its centre sees
    assert geometry.open_edges(open_box()) == 4
    values = geometry.winding(open_box(), [[0, 0, 0], [0, 0, -50], [0, 0, -0.9]])
    assert values[0] == pytest.approx(5 / 6, abs=1e-5)
    assert values[1] == pytest.approx(0, abs=1e-3)
    assert values[2] > 0.9


def test_winding_number_of_a_surface_with_very_many_holes_is_sampled(monkeypatch):
    exact = geometry.winding(open_box(), cube_points(300))
    monkeypatch.setattr(geometry, "EXACT_EDGES", 0)
    sampled = geometry.winding(open_box(), cube_points(300))
    assert np.abs(sampled - exact).mean() < 0.06 and not np.array_equal(sampled, exact)


def holed():
    mesh = ball()
    centre = mesh.triangles_center
    mesh.update_faces((np.linalg.norm(centre - [0, 0, 1], axis=1) > 0.4)
                      & (np.linalg.norm(centre - [1, 0, 0], axis=1) > 0.3))
    mesh.remove_unreferenced_vertices()
    return mesh


def test_repair_closes_every_hole():
    mesh = holed()
    assert geometry.open_edges(mesh) > 10
    closed = geometry.repair(mesh)
    assert closed.is_watertight and closed.is_winding_consistent
    assert closed.volume == pytest.approx(ball().volume, rel=0.03)
    assert geometry.open_edges(mesh) > 10, "the original must not change"


def test_repair_mends_winding_and_doubled_faces():
    mesh = holed()
    faces = mesh.faces.copy()
    faces[::4] = faces[::4, ::-1]
    mesh = trimesh.Trimesh(mesh.vertices, np.concatenate([faces, faces[:50]]), process=False)
    closed = geometry.repair(mesh)
    assert geometry.open_edges(closed) == 0
    assert abs(closed.volume) == pytest.approx(ball().volume, rel=0.03)


def test_a_mesh_with_holes_still_has_an_inside():
    points = cube_points()
    clear = np.abs(np.linalg.norm(points, axis=1) - 1) > 0.1
    assert (geometry.occupancy(holed(), points) == geometry.occupancy(ball(), points))[clear].all()


def test_watertight_is_what_trimesh_calls_so():
    ball = trimesh.creation.icosphere(2)
    two = trimesh.util.concatenate([ball, ball.copy().apply_translation([3, 0, 0])])
    doubled = trimesh.Trimesh(ball.vertices, np.concatenate([ball.faces, ball.faces]), process=False)
    torn = trimesh.Trimesh(ball.vertices, ball.faces[1:], process=False)
    finned = trimesh.Trimesh(ball.vertices, np.concatenate([ball.faces, ball.faces[:1]]), process=False)
    said = [geometry.is_watertight(mesh) for mesh in (ball, two, doubled, torn, finned, open_box())]
    assert said == [True, True, False, False, False, False]
    assert said == [mesh.is_watertight for mesh in (ball, two, doubled, torn, finned, open_box())]


def test_distances():
    points = cube_points(500)
    expected = np.linalg.norm(points, axis=1) - 1
    assert np.abs(geometry.distance(ball(), points) - np.abs(expected)).max() < 0.01
    assert np.abs(geometry.signed_distance(ball(), points) - expected).max() < 0.01
    far = geometry.signed_distance(ball(radius=500, at=(1e4, 0, 0)), points * 500 + [1e4, 0, 0])
    assert np.abs(far - expected * 500).max() < 5


def test_answers_follow_a_mesh_that_changes():
    mesh = ball()
    assert geometry.occupancy(mesh, [[2.0, 0, 0]]).tolist() == [False]
    mesh.apply_translation([2, 0, 0])
    assert geometry.occupancy(mesh, [[2.0, 0, 0]]).tolist() == [True]


def test_without_open3d_trimesh_says_what_is_inside(monkeypatch):
    points = cube_points(500)
    expected = geometry.occupancy(ball(), points)
    shown = next(geometry.cast_views(ball(), camera()))

    def missing():
        raise InrError("open3d does not import (no libusb). Try: pip install open3d libusb-package")

    monkeypatch.setattr(geometry, "open3d", missing)
    geometry._scene.cache_clear()
    assert not geometry.measures_distance()
    with pytest.warns(UserWarning, match="open3d does not import"):
        assert (geometry.occupancy(ball(), points) == expected).mean() > 0.999
    assert (next(geometry.cast_views(ball(), camera())) - shown).abs().mean() < 1e-3
    with pytest.raises(InrError, match="pip install open3d"):
        geometry.signed_distance(ball(), points)
    geometry._scene.cache_clear()


# --- level sets, specks, comparison


def test_level_set_is_closed_turned_outwards_and_in_place():
    spec, points = grid(32, frame=Frame.of((10, 20, 30), 5.0))
    depth = (0.7 - np.linalg.norm(points, axis=-1)).astype(np.float32)
    mesh = surface.level_set(depth, spec)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * 3.5**3, rel=0.01)
    assert np.allclose(mesh.bounds, [[6.5, 16.5, 26.5], [13.5, 23.5, 33.5]], atol=0.02)
    mirrored = Frame(((-1.0, 0, 0, 0), (0, 1.0, 0, 0), (0, 0, 1.0, 0), (0, 0, 0, 1.0)))
    assert surface.level_set(depth, spec.replace(frame=mirrored)).volume > 0


def test_level_set_keeps_axes_apart():
    spec, points = grid(24)
    z, y, x = np.moveaxis(points, -1, 0)
    inside = 1 - np.maximum(np.maximum(np.abs(x) / 0.8, np.abs(y) / 0.5), np.abs(z) / 0.2)
    assert np.allclose(surface.level_set(inside.astype(np.float32), spec).extents, [1.6, 1.0, 0.4], atol=0.1)


def test_level_set_closes_at_the_border_and_does_not_leave_it():
    spec, points = grid(16)
    mesh = surface.level_set((0.3 - points[..., 0]).astype(np.float32), spec)
    assert mesh.is_watertight
    edge = 1 - 1 / 16
    assert np.allclose(mesh.bounds, [[-edge] * 3, [edge, edge, 0.3]], atol=1e-5)


def test_values_far_from_the_surface_do_not_move_it():
    spec, points = grid(48)
    depth = (0.7 - np.linalg.norm(points, axis=-1)).astype(np.float32)
    depth[0, 0, 0] = -100
    radius = np.linalg.norm(surface.level_set(depth, spec).vertices, axis=1)
    assert np.abs(radius - 0.7).max() < 5e-4            # between samples a sphere is not quite linear


def test_values_exactly_at_the_level_leave_no_hole():
    spec, points = grid(16)
    values = np.round(8 * (0.7 - np.linalg.norm(points, axis=-1))).astype(np.float32)
    assert (values == 0).sum() > 50
    mesh = surface.level_set(values, spec)
    assert mesh.is_watertight and mesh.volume > 0


def test_specks_are_removed_and_counted():
    mesh = trimesh.util.concatenate([ball(), ball(0.01, (2, 0, 0)), ball(0.02, (0, 2, 0)), ball(0.3, (0, 0, 2))])
    assert surface.remove_specks(mesh) == 2
    assert mesh.body_count == 2 and mesh.is_watertight
    assert surface.remove_specks(ball()) == 0


def test_comparing_meshes():
    assert geometry.compare_meshes(ball(), ball(), 2000) == pytest.approx({"chamfer": 0, "normal_consistency": 1},
                                                                          abs=1e-6)
    # concentric spheres are their difference of radii apart; the reference's diagonal is 2√3
    found = geometry.compare_meshes(ball(detail=4), ball(1.1, detail=4), 5000)
    assert found["chamfer"] == pytest.approx(0.1 / (2 * 3**0.5), rel=0.01)
    assert found["normal_consistency"] > 0.99
    tiny = geometry.compare_meshes(ball(1e-6, detail=4), ball(1.1e-6, detail=4), 5000)
    assert tiny == pytest.approx(found, rel=0.02)


# --- views


def test_views_show_the_silhouette_and_the_background():
    cameras = camera()
    image = next(geometry.cast_views(ball(), cameras))
    assert image.shape == (64, 64, 3) and image.dtype == torch.float32
    assert torch.equal(image[0, 0], torch.ones(3))
    # a unit sphere seen from 4 away has tan² = 1 / (4² − 1)
    area = float((next(geometry.cast_views(ball(detail=4), cameras, background=None))[..., 3]).sum())
    assert area == pytest.approx(math.pi * 64**2 / 15, rel=0.01)
    assert 0.5 < float(image[32, 32].mean()) < geometry.GREY + 1e-4


def test_views_as_normals_and_with_colours():
    normals = next(geometry.cast_views(ball(), camera(), shading="normal"))
    assert torch.allclose(normals[32, 32], torch.tensor([1.0, 0.5, 0.5]), atol=0.05)
    assert normals[24, 32, 2] > normals[40, 32, 2], "up in the picture is +Z in the world"
    mesh = ball()
    mesh.visual.vertex_colors = np.tile([255, 0, 51, 255], (len(mesh.vertices), 1))
    image = next(geometry.cast_views(mesh, camera(), shading="flat", background=None))
    assert torch.allclose(image[32, 32], torch.tensor([1.0, 0.0, 0.2, 1.0]), atol=1e-3)
    edge = image[(image[..., 3] > 0) & (image[..., 3] < 1)]
    assert len(edge) and torch.allclose(edge[:, :3], torch.tensor([1.0, 0.0, 0.2]).expand(len(edge), 3), atol=1e-3)
    with pytest.raises(InrError, match="phong"):
        next(geometry.cast_views(mesh, camera(), shading="phong"))


def test_colours_survive_reading(tmp_path):
    mesh = ball()
    mesh.visual.vertex_colors = np.tile([255, 0, 51, 255], (len(mesh.vertices), 1))
    for suffix in (".ply", ".glb", ".obj"):
        mesh.export(tmp_path / f"red{suffix}")
        again = geometry.read_mesh(tmp_path / f"red{suffix}")
        image = next(geometry.cast_views(again, camera(size=16, focal=16.0), shading="flat"))
        assert torch.allclose(image[8, 8], torch.tensor([1.0, 0.0, 0.2]), atol=0.01), suffix
