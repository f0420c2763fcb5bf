import json
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from inr_scenes import geometry
from inr_scenes.errors import InrError
from inr_scenes.evaluate import evaluate
from inr_scenes.export import export, export_facts
from inr_scenes.exporters.shape import EXPORTERS
from inr_scenes.field import Field, build, sides
from inr_scenes.fit import FitConfig, fit
from inr_scenes.signals import shape, voxels
from inr_scenes.signals.shape import ShapeSignal
from inr_scenes.siren import Siren
from inr_scenes.spec import Frame
from inr_scenes.testing import check_exporter, check_signal, small_signal

trimesh = pytest.importorskip("trimesh")

PLACE = (1000.0, -50.0, 7.0)


class Ball(Field):
    """The ball of `ball_mesh` itself, as the network of a signal would give it."""

    name = "ball"

    def __init__(self, spec, radius=100.0):
        super().__init__(None, spec)
        self.radius = nn.Parameter(torch.tensor(radius))

    def forward(self, coords):
        points = self.spec.to_world(coords) - torch.tensor(PLACE, dtype=torch.float64)
        depth = (self.radius - points.norm(dim=-1, keepdim=True)).float()
        if self.spec.meta["quantity"] == "sdf":
            return (-depth / self.spec.values.scale).clamp(-1, 1)
        return torch.tanh(depth / 4)


def ball_mesh(detail=4, radius=100.0):
    mesh = trimesh.creation.icosphere(detail, radius)
    mesh.apply_translation(PLACE)
    return mesh


def holed_mesh():
    mesh = ball_mesh(3)
    mesh.update_faces(mesh.triangles_center[:, 2] < PLACE[2] + 95)
    return mesh


def bumpy(shape=(12, 16, 20), seed=0):
    """A random grid of voxels without symmetry, so that a swapped axis shows."""
    return np.random.default_rng(seed).random(shape) > 0.6


# --- meshes


def test_voxels_of_a_mesh_sit_at_cell_centres_in_the_cube_around_it():
    signal = ShapeSignal.from_mesh(ball_mesh(), 32)
    assert signal.spec.shape == (32, 32, 32) and signal.data.dtype == torch.uint8
    assert signal.spec.frame.scale == pytest.approx(100 / (1 - 2 / 32), rel=1e-6), "one empty voxel on every side"
    points = signal.spec.to_world(signal.spec.coords(torch.arange(len(signal)))) - torch.tensor(PLACE)
    radius = points.norm(dim=-1)
    clear = (radius - 100).abs() > 0.5
    assert torch.equal((radius < 100)[clear], (signal.array().reshape(-1) > 0.5)[clear]) and clear.sum() > 32_000
    assert ShapeSignal.from_mesh(ball_mesh(), 32, padding=0.5).spec.frame.scale == pytest.approx(150)


def test_long_shapes_stand_the_right_way_round():
    mesh = trimesh.creation.box((1, 2, 4))
    array = ShapeSignal.from_mesh(mesh, 40, padding=0).array()[..., 0] > 0.5
    extent = [int(np.ptp(np.flatnonzero(array.numpy().any(axis=axes)))) + 1 for axes in ((1, 2), (0, 2), (0, 1))]
    assert extent == pytest.approx([38, 19, 10], abs=1), "z is first, x is last"


@pytest.mark.parametrize("quantity", ["occupancy", "sdf"])
@pytest.mark.parametrize("make", [ball_mesh, holed_mesh], ids=["closed", "open"])
def test_voxels_settled_in_blocks_are_those_asked_one_by_one(quantity, make):
    mesh = geometry.repair(make()) if quantity == "occupancy" else make()
    signal = ShapeSignal.from_mesh(mesh, 29, quantity=quantity, truncation=0.2 if quantity == "sdf" else None)
    points = signal.spec.to_world(signal.spec.coords(torch.arange(len(signal)))).numpy()
    distance = geometry.signed_distance(mesh, points)
    stored = signal.stored(slice(None))[:, 0].numpy()
    if quantity == "sdf":
        limit = 0.2 * signal.spec.frame.scale
        assert np.allclose(stored, np.clip(distance, -limit, limit), atol=1e-3)
        assert signal.spec.values.scale == pytest.approx(limit)
    else:
        voxel = 2 / 29 * signal.spec.frame.scale
        assert np.allclose(stored, np.clip(0.5 - distance / voxel, 0, 1), atol=0.51 / 255)
        assert ((stored > 0.5) == (distance < 0)).all(), "a voxel is inside when its centre is"


def test_hard_steps():
    soft, hard = (ShapeSignal.from_mesh(ball_mesh(), 32, blend=blend) for blend in (1.0, 0.0))
    assert set(hard.data.unique().tolist()) == {0, 255} and len(soft.data.unique()) > 20
    assert torch.equal(soft.array() > 0.5, hard.array() > 0.5)


def test_a_mesh_with_holes_gets_a_clear_message_and_two_ways_out(tmp_path):
    path = tmp_path / "holed.ply"
    holed_mesh().export(path)
    edges = geometry.open_edges(holed_mesh())
    with pytest.raises(InrError, match=rf"{edges} edges .* --repair .* --quantity sdf"):
        ShapeSignal.load(path, resolution=24)
    whole = ShapeSignal.from_mesh(ball_mesh(3), 24).array() > 0.5
    for options in ({"repair": True}, {"quantity": "sdf"}):
        signal = ShapeSignal.load(path, resolution=24, **options)
        inside = signal._solid(signal.array())
        assert float((inside & whole).sum() / (inside | whole).sum()) > 0.97
        assert torch.equal(ShapeSignal.load(path, like=signal.spec).data, signal.data), "an archive remembers"


@pytest.mark.parametrize("options, words", [
    ({"resolution": 2}, "resolution 2"), ({"resolution": 100_000}, "resolution 100000"), ({"padding": -1}, "padding"),
    ({"quantity": "density"}, "density"), ({"quantity": "sdf", "truncation": -1.0}, "truncation"),
])
def test_options_that_make_no_sense(options, words):
    with pytest.raises(InrError, match=words):
        ShapeSignal.from_mesh(ball_mesh(1), **options)


def test_a_shape_without_inside_is_refused():
    with pytest.raises(InrError, match="all of it is outside"):
        ShapeSignal.from_array(np.zeros((8, 8, 8), bool))
    with pytest.raises(InrError, match="all of it is inside"):
        ShapeSignal.from_array(np.ones((8, 8, 8), np.uint8))


def test_an_archive_s_spec_gives_the_same_voxels(tmp_path):
    ball_mesh().export(tmp_path / "ball.ply")
    for quantity in ("occupancy", "sdf"):
        first = ShapeSignal.load(tmp_path / "ball.ply", resolution=24, quantity=quantity, padding=0.3)
        first.regrid("ends")
        again = ShapeSignal.load(tmp_path / "ball.ply", like=first.spec)
        assert again.spec == first.spec
        assert torch.allclose(again.stored(slice(None)), first.stored(slice(None)), atol=0.005)


@pytest.mark.parametrize("make", [lambda: ShapeSignal.from_mesh(ball_mesh(2), 16),
                                  lambda: ShapeSignal.from_array(bumpy())], ids=["mesh", "grid"])
def test_another_grid_moves_no_voxel_in_the_world(make):
    signal = make()
    before = signal.spec.to_world(signal.spec.coords(torch.arange(len(signal))))
    signal.regrid("ends")
    coords = signal.coords(torch.arange(len(signal)))
    assert coords.amin(0).tolist() == [-1, -1, -1] and coords.amax(0).tolist() == [1, 1, 1]
    assert torch.allclose(signal.spec.to_world(coords), before, atol=1e-4)


@pytest.mark.parametrize("file, options", [("ball.ply", {"resolution": 24}), ("grid.npy", {}), ("grid.npz", {})])
def test_both_ends_are_the_same_shape_asked_for_at_once_or_later(tmp_path, file, options):
    ball_mesh(2).export(tmp_path / "ball.ply")
    np.save(tmp_path / "grid.npy", bumpy())
    voxels.write_grid(tmp_path / "grid.npz", bumpy().astype(np.uint8), ShapeSignal.from_array(bumpy()).spec)
    plain = ShapeSignal.load(tmp_path / file, **options)
    ends = ShapeSignal.load(tmp_path / file, grid="ends", **options)
    index = torch.arange(len(plain))
    assert torch.equal(ends.data, plain.data)
    assert torch.allclose(ends.spec.to_world(ends.coords(index)), plain.spec.to_world(plain.coords(index)), atol=1e-4)
    moved = ends.spec
    assert plain.regrid("ends").spec == ends.regrid("ends").spec == moved


# --- grids


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32, np.float16])
def test_grids_of_any_number_type(tmp_path, dtype):
    np.save(tmp_path / "grid.npy", bumpy().astype(dtype))
    signal = check_signal(ShapeSignal, tmp_path / "grid.npy")
    assert np.array_equal(signal.array()[..., 0].numpy() > 0.5, bumpy())
    assert [axis.step for axis in signal.spec.axes] == pytest.approx([2 / 20] * 3), "voxels are cubes"
    assert signal.spec.axes[2].start == pytest.approx(-0.95) and signal.spec.axes[0].start == pytest.approx(-0.55)


def test_labels_and_shares():
    assert ShapeSignal.from_array(bumpy() * 7).array().unique().tolist() == [0, 1]
    share = np.random.default_rng(0).random((6, 6, 6)).astype(np.float32)
    assert np.abs(ShapeSignal.from_array(share).array()[..., 0].numpy() - share).max() < 0.51 / 255


def test_a_grid_of_signed_distances():
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, 16)] * 3, indexing="ij")
    distance = (np.sqrt(x**2 + y**2 + z**2) - 0.6).astype(np.float32)
    with pytest.raises(InrError, match="--quantity sdf"):
        ShapeSignal.from_array(distance)
    signal = ShapeSignal.from_array(distance, quantity="sdf", truncation=0.25)
    assert signal.spec.values.scale == 0.25
    assert np.array_equal(signal.array()[..., 0].numpy(), np.clip(distance, -0.25, 0.25))
    assert ShapeSignal.from_array(distance, quantity="sdf").spec.values.scale == np.abs(distance).max()
    with pytest.raises(InrError, match="no signed distances"):
        ShapeSignal.from_array(bumpy(), quantity="sdf")


def test_damaged_grids(tmp_path):
    grid = bumpy().astype(np.float32)
    grid[3, 4, 5] = np.nan
    np.save(tmp_path / "nan.npy", grid)
    with pytest.raises(InrError, match=r"nan holds 1 values .* voxel \(3, 4, 5\)"):
        ShapeSignal.load(tmp_path / "nan.npy")
    np.save(tmp_path / "flat.npy", grid[0])
    with pytest.raises(InrError, match=r"\(16, 20\)"):
        ShapeSignal.load(tmp_path / "flat.npy")
    np.save(tmp_path / "words.npy", np.full((4, 4, 4), "in"))
    with pytest.raises(InrError, match="numbers"):
        ShapeSignal.load(tmp_path / "words.npy")
    np.savez(tmp_path / "two.npz", a=bumpy(), b=bumpy())
    with pytest.raises(InrError, match="a .12, 16, 20., b"):
        ShapeSignal.load(tmp_path / "two.npz")
    np.save(tmp_path / "objects.npy", np.array([[[{}]]], dtype=object))
    with pytest.raises(InrError, match="objects.npy"):
        ShapeSignal.load(tmp_path / "objects.npy")
    np.save(tmp_path / "whole.npy", bumpy())
    for suffix, source in ((".npy", "whole.npy"), (".npz", "two.npz")):
        data = (tmp_path / source).read_bytes()
        (tmp_path / f"cut{suffix}").write_bytes(data[:len(data) // 2])
        with pytest.raises(InrError, match="cut"):
            ShapeSignal.load(tmp_path / f"cut{suffix}")
    spec = json.dumps({**ShapeSignal.from_array(bumpy()).spec.to_json(), "axes": []})
    np.savez(tmp_path / "spec.npz", values=bumpy(), spec=np.array(spec))
    with pytest.raises(InrError, match="spec"):
        ShapeSignal.load(tmp_path / "spec.npz")


def test_binvox_as_others_write_it(tmp_path):
    # the file's order is x, z, y with y fastest: one voxel at x 1, y 2, z 3 of 4³ is number 1·16 + 3·4 + 2
    head = b"#binvox 1\ndim 4 4 4\ntranslate -1 -2 -3\nscale 8\ndata\n"
    (tmp_path / "one.binvox").write_bytes(head + bytes([0, 30, 1, 1, 0, 33]))
    signal = check_signal(ShapeSignal, tmp_path / "one.binvox")
    assert torch.nonzero(signal.array()[..., 0] > 0.5).tolist() == [[3, 2, 1]]
    centre = signal.spec.to_world(signal.spec.coords(torch.tensor([3 * 16 + 2 * 4 + 1])))
    assert centre.tolist() == [[-1 + 8 * 1.5 / 4, -2 + 8 * 2.5 / 4, -3 + 8 * 3.5 / 4]]
    for damage in (head + bytes([0, 30, 1, 1]), head + bytes([0]), head[:30], b"#binvox 1\ndim 4 4\ndata\n",
                   head.replace(b"4 4 4", b"9999999 4 4")):
        (tmp_path / "cut.binvox").write_bytes(damage)
        with pytest.raises(InrError, match="cut.binvox is not a whole"):
            ShapeSignal.load(tmp_path / "cut.binvox")


# --- measuring


@pytest.mark.parametrize("quantity", ["occupancy", "sdf"])
def test_the_shape_itself_is_perfect(quantity):
    signal = ShapeSignal.from_mesh(ball_mesh(5), 40, quantity=quantity)
    metrics = signal.metrics(Ball(signal.spec))
    assert metrics["iou"] > 0.998 and metrics["iou_fine"] > 0.997
    assert set(metrics) == {"iou", "iou_fine"} | ({"mae"} if quantity == "sdf" else set())
    assert quantity == "occupancy" or metrics["mae"] < 0.1
    assert signal.probe(Ball(signal.spec))["iou"] > 0.998


def test_iou_of_a_smaller_ball_in_every_way_of_counting(monkeypatch):
    monkeypatch.setattr(shape, "FINE", 50_000)
    signal = ShapeSignal.from_mesh(ball_mesh(5), 48)
    field = Ball(signal.spec, radius=95.0)
    expected = 0.95**3
    metrics = signal.metrics(field)
    assert [metrics["iou"], metrics["iou_fine"]] == pytest.approx([expected] * 2, abs=0.01)
    assert signal.probe(field, samples=4000)["iou"] == pytest.approx(metrics["iou"], abs=0.03)
    monkeypatch.setattr(shape, "EXACT", 1000)
    monkeypatch.setattr(shape, "FINE", 5_000)
    sampled = signal.metrics(field)
    assert sampled["iou_samples"] <= 80_000
    assert sampled["iou"] == pytest.approx(metrics["iou"], abs=0.01)
    assert sampled["iou_fine"] == pytest.approx(expected, abs=0.02)
    distance = ShapeSignal.from_mesh(ball_mesh(5), 48, quantity="sdf", truncation=2.0)
    assert distance.metrics(Ball(distance.spec, radius=95.0))["mae"] == pytest.approx(5, abs=0.1)


def test_samples_stand_for_every_voxel_once():
    signal = ShapeSignal.from_mesh(ball_mesh(3), 32)
    index, weight = signal._strata(4000)
    assert float(weight.sum()) == pytest.approx(len(signal), rel=1e-5)
    near = torch.isin(index, signal.focus)
    assert float(weight[near].sum()) == pytest.approx(len(signal.focus), rel=1e-5)
    everything, ones = signal._strata(1 << 20)
    assert torch.equal(everything, torch.arange(len(signal))) and bool((ones == 1).all())


def test_focus_is_around_the_surface():
    signal = ShapeSignal.from_mesh(ball_mesh(), 40)
    depth = np.abs(geometry.distance(signal.mesh, signal.spec.to_world(signal.spec.coords(signal.focus)).numpy()))
    voxel = 2 / 40 * signal.spec.frame.scale
    assert depth.max() < 4 * voxel
    missed = np.setdiff1d(np.arange(len(signal)), signal.focus.numpy())
    away = geometry.distance(signal.mesh, signal.spec.to_world(signal.spec.coords(torch.from_numpy(missed))).numpy())
    assert away.min() > voxel


def test_pictures_show_truth_and_reconstruction():
    for signal in (ShapeSignal.from_mesh(ball_mesh(), 32), ShapeSignal.from_mesh(ball_mesh(), 32, quantity="sdf")):
        for truth, guess in signal.pictures(Ball(signal.spec)):
            assert truth.shape == guess.shape == (256, 256, 3)
            assert np.abs(truth - guess).mean() < 0.01 and (truth < 0.9).mean() > 0.2
    empty = signal.pictures(Ball(signal.spec, radius=-1.0))
    assert all((guess == 1).all() for _, guess in empty)


def test_a_crop_is_not_compared_with_the_whole_mesh(tmp_path):
    ball_mesh().export(tmp_path / "ball.ply")
    whole = ShapeSignal.load(tmp_path / "ball.ply", resolution=32)
    for high, compared in ((18, False), (32, True)):        # half of the ball, or all of it and less around it
        like = whole.spec.cropped(((0, 32), (0, high), (1, 32)))
        part = ShapeSignal.load(tmp_path / "ball.ply", like=like)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            metrics = evaluate(Ball(like), part, mesh_resolution=24)
        assert ("chamfer" in metrics) == compared == (not any("reaches beyond" in str(w.message) for w in told))
        for truth, guess in part.pictures(Ball(like)):
            assert np.abs(truth - guess).mean() < 0.02


# --- files


@pytest.fixture(scope="module")
def fitted():
    signal = ShapeSignal.from_mesh(ball_mesh(), 32)
    return Ball(signal.spec), signal


@pytest.mark.parametrize("exporter", EXPORTERS, ids=lambda e: e.name)
def test_exporters_keep_their_promises(fitted, exporter):
    facts = check_exporter(exporter, fitted[0], resolution=24)
    if exporter.name == "mesh":
        assert all(fact["watertight"] and fact["faces"] > 1000 for fact in facts.values())


@pytest.mark.parametrize("suffix", [".glb", ".ply", ".obj", ".stl", ".off"])
def test_meshes_come_back_in_world_units(fitted, tmp_path, suffix):
    facts = export_facts(fitted[0], tmp_path / f"ball{suffix}", {"resolution": 64})
    mesh = geometry.read_mesh(tmp_path / f"ball{suffix}")
    assert mesh.is_watertight and len(mesh.faces) == facts["faces"]
    voxel = 2 / 32 * fitted[0].spec.frame.scale
    assert np.abs(mesh.bounds - ball_mesh().bounds).max() < voxel
    assert mesh.volume == pytest.approx(facts["volume"], rel=1e-4) == pytest.approx(4 / 3 * np.pi * 1e6, rel=0.01)


def normals_in(path):
    """The vertices and normals a file holds; trimesh computes its own when it reads one."""
    if path.suffix == ".obj":
        lines = [line.split() for line in path.read_text().splitlines()]
        return [np.array([line[1:] for line in lines if line[:1] == [key]], float) for key in ("v", "vn")]
    if path.suffix == ".ply":
        raw = trimesh.load_mesh(path, process=False).metadata["_ply_raw"]["vertex"]["data"]
        return [np.stack([raw[column] for column in columns], 1) for columns in ("xyz", ("nx", "ny", "nz"))]
    data = path.read_bytes()
    length = int.from_bytes(data[12:16], "little")
    head, body = json.loads(data[20:20 + length]), data[28 + length:]
    found = []
    for key in ("POSITION", "NORMAL"):
        accessor = head["accessors"][head["meshes"][0]["primitives"][0]["attributes"][key]]
        start = head["bufferViews"][accessor["bufferView"]].get("byteOffset", 0)
        found.append(np.frombuffer(body, "<f4", 3 * accessor["count"], start).reshape(-1, 3))
    return found


@pytest.mark.parametrize("suffix", [".glb", ".ply", ".obj"])
def test_files_hold_the_gradient_s_normals(fitted, tmp_path, suffix):
    export(fitted[0], tmp_path / f"ball{suffix}", resolution=24)
    vertices, normals = normals_in(tmp_path / f"ball{suffix}")
    outwards = vertices - PLACE
    outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
    assert len(normals) == len(vertices) > 1000 and (normals * outwards).sum(1).min() > 0.99999


def test_a_mesh_in_the_units_of_the_cube(fitted, tmp_path):
    export(fitted[0], tmp_path / "unit.ply", resolution=32, unit=True)
    mesh = geometry.read_mesh(tmp_path / "unit.ply")
    assert np.allclose(mesh.bounds, [[-15 / 16] * 3, [15 / 16] * 3], atol=0.01)


@pytest.mark.parametrize("suffix", [".npz", ".binvox"])
def test_voxels_come_back_in_their_place(fitted, tmp_path, suffix):
    field, signal = fitted
    for options in ({}, {"resolution": 20}, {"box": (1000, -50, 7, 1200, 30, 200)}):
        facts = export_facts(field, tmp_path / f"grid{suffix}", options)
        again = ShapeSignal.load(tmp_path / f"grid{suffix}")
        points = again.spec.to_world(again.spec.coords(torch.arange(len(again))))
        # what binvox adds to make a cube is empty, whatever the field says there
        told = torch.ones(len(again), dtype=torch.bool) if suffix == ".npz" else again.array().reshape(-1) > 0.5
        assert torch.equal(field.inside(points)[told], (again.array().reshape(-1) > 0.5)[told])
        assert float((again.array() > 0.5).sum()) == pytest.approx(facts["inside"] * np.prod(facts["shape"]))
        if suffix == ".npz" and not options:
            assert again.spec == signal.spec.replace(meta=again.spec.meta)


def test_a_signed_distance_grid_comes_back(tmp_path):
    signal = ShapeSignal.from_mesh(ball_mesh(), 20, quantity="sdf")
    export(Ball(signal.spec), tmp_path / "distance.npz")
    again = ShapeSignal.load(tmp_path / "distance.npz")
    assert again.spec == signal.spec
    assert float((again.array() - signal.array()).abs().max()) < 1
    occupancy = ShapeSignal.load(tmp_path / "distance.npz", quantity="occupancy")
    assert occupancy.spec.meta["quantity"] == "occupancy"
    assert torch.equal(occupancy.array() > 0.5, again.array() < 0)
    assert occupancy.spec.frame == signal.spec.frame
    export(Ball(occupancy.spec), tmp_path / "occupancy.npz")
    for options in ({"quantity": "sdf"}, {"like": signal.spec}):
        with pytest.raises(InrError, match="cannot be told"):
            ShapeSignal.load(tmp_path / "occupancy.npz", **options)


def test_soft_values_and_levels(fitted, tmp_path):
    export(fitted[0], tmp_path / "soft.npy", soft=True)
    soft = np.load(tmp_path / "soft.npy")
    assert soft.dtype == np.float32 and len(np.unique(soft)) > 100
    export(fitted[0], tmp_path / "small.npy", level=0.9)
    export(fitted[0], tmp_path / "normal.npy")
    small, normal = np.load(tmp_path / "small.npy"), np.load(tmp_path / "normal.npy")
    assert small.dtype == np.uint8 and set(np.unique(small)) == {0, 1}
    assert small.sum() < normal.sum() and np.array_equal(small, soft > 0.9)


def test_binvox_refuses_what_it_cannot_hold(fitted, tmp_path):
    turned = Frame(tuple(map(tuple, trimesh.transformations.rotation_matrix(0.5, [1, 0, 0]).tolist())))
    field = Ball(fitted[0].spec.replace(frame=turned))
    with pytest.raises(InrError, match="npz"):
        export(field, tmp_path / "turned.binvox")
    assert list(tmp_path.iterdir()) == []


# --- fitting


@pytest.mark.parametrize("sample", ["shape/knot.npz", "shape/knot.ply"])
def test_the_samples_load(samples, sample):
    signal = check_signal(ShapeSignal, samples / sample, **({"resolution": 32} if sample.endswith("ply") else {}))
    assert 0.02 < float((signal.array() > 0.5).float().mean()) < 0.2
    assert signal.spec.to_world(torch.zeros(3)).tolist() == pytest.approx([20, -10.26, 40], abs=0.1)


def test_a_small_fit_learns_the_shape():
    signal = ShapeSignal.from_mesh(ball_mesh(3), 24)
    field = build(Siren, signal.spec, {"hidden_features": 64, "hidden_layers": 1}, seed=0)
    result = fit(field, signal, FitConfig(steps=120, batch=1024, lr=3e-3, focus=0.5))
    assert result.metrics["iou"] > 0.97


@pytest.mark.slow
@pytest.mark.parametrize("name, unit", [("bunny", 1), ("spot", 1), ("nefertiti", 100)])
def test_real_shapes_reach_their_target(real, name, unit):
    from inr_scenes.mesh import mesh

    signal = ShapeSignal.load(real(f"mesh/{name}.ply"), resolution=128)
    recipe = Siren.suggest(signal, "fast")
    field = build(Siren, signal.spec, recipe.config, seed=0)
    result = fit(field, signal, FitConfig(**recipe.fit))
    assert result.metrics["iou"] > 0.995 and result.metrics["iou_fine"] > 0.99
    found = mesh(field, 256)
    assert found.is_watertight and found.extents.max() > unit
    assert np.abs(found.bounds - signal.mesh.bounds).max() < 2 / 128 * signal.spec.frame.scale
    assert geometry.compare_meshes(signal.mesh, found)["chamfer"] < 0.005


def test_iou_is_that_of_full_precision(monkeypatch):
    signal = small_signal("shape")
    field = fit(build(Siren, signal.spec, {"hidden_features": 64}, seed=0), signal, FitConfig(steps=40, lr=1e-3)).field
    home, found = sys.modules[sides.__module__], []
    coords = signal.spec.coords(torch.arange(len(signal)))
    exact = field.stored(coords).detach()
    for half in (torch.bfloat16, None):
        monkeypatch.setattr(home, "quick_half", lambda device, half=half: half)
        found.append(signal.metrics(field)["iou"])
        values, known = sides(field, coords, 0.5)
        assert torch.allclose(values[known], exact[known], atol=1e-6) and torch.equal(values > 0.5, exact > 0.5)
        assert known.float().mean() < 0.7 if half else known.all()
        assert torch.allclose(values, exact, atol=1e-6) is (half is None)
    assert found[0] == found[1] and 0.5 < found[0] < 1
