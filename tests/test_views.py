"""Posed views of meshes: cameras all around, NeRF-synthetic's layout, packs and folders."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from inr_scenes import geometry
from inr_scenes.errors import InrError
from inr_scenes.views import around, meshes, render_set

trimesh = pytest.importorskip("trimesh")
try:
    geometry.open3d()
except InrError as error:
    pytest.skip(str(error), allow_module_level=True)


def ball(colour, offset=0.0, scale=1.0):
    mesh = trimesh.creation.icosphere(subdivisions=2)
    mesh.apply_scale(scale)
    mesh.apply_translation([offset, 0, 0])
    mesh.visual.face_colors = np.tile(np.array([*colour, 255], np.uint8), (len(mesh.faces), 1))
    return mesh


@pytest.fixture
def pack(tmp_path):
    parts = [ball((220, 30, 30), 50.0, 7.0), ball((30, 30, 220))]
    np.savez(tmp_path / "pack.npz", v=np.concatenate([m.vertices for m in parts]).astype(np.float32),
             f=np.concatenate([m.faces for m in parts]).astype(np.uint16),
             c=np.concatenate([m.visual.face_colors[:, :3] for m in parts]),
             v_off=np.cumsum([0, *(len(m.vertices) for m in parts)]),
             f_off=np.cumsum([0, *(len(m.faces) for m in parts)]), names=np.array(["sets/red", "blue"]))
    return tmp_path / "pack.npz"


def test_cameras_stand_around_and_hold_the_unit_ball():
    cameras = around(24, 64)
    origins = cameras.poses[:, :, 3]
    assert torch.allclose(origins.norm(dim=-1), origins[0].norm().expand(24), atol=1e-4)
    assert torch.allclose(cameras.poses[:, :, 2], origins / origins.norm(dim=-1, keepdim=True), atol=1e-4)
    assert origins.mean(0).norm() < 0.2 * origins[0].norm()
    assert math.asin(1 / float(origins[0].norm())) < math.radians(25)
    nearest = torch.cdist(origins, origins).fill_diagonal_(9).min(1).values
    assert nearest.min() > 0.3 * nearest.max(), "views are spread evenly"


def test_a_pack_becomes_light_fields(pack, tmp_path):
    lines = list(render_set(pack, tmp_path / "views", views=8, size=32, test=2, shading="flat"))
    assert lines == [{"name": "sets/red", "views": 8}, {"name": "blue", "views": 8}]
    place = tmp_path / "views" / "sets_red"
    frames = {part: json.loads((place / f"transforms_{part}.json").read_text()) for part in ("train", "test")}
    assert (len(frames["train"]["frames"]), len(frames["test"]["frames"])) == (6, 2)
    poses = [frame["transform_matrix"] for part in frames.values() for frame in part["frames"]]
    seen = {tuple(np.round(np.array(pose)[:3, 3], 4)) for pose in poses}
    assert len(seen) == 8
    image = np.asarray(Image.open(place / "train" / "r_0.png"))
    assert image.shape == (32, 32, 3)
    assert (image[16, 16] == (220, 30, 30)).all() and (image[0, 0] == 255).all()
    # the ball touches the unit sphere, which just fits the picture
    width = (image[16] != 255).any(-1).sum()
    assert 28 <= width <= 32
    blue = np.asarray(Image.open(tmp_path / "views" / "blue" / "test" / "r_1.png"))
    assert (blue[16, 16] == (30, 30, 220)).all()
    from inr_scenes.signals.lightfield import LightFieldSignal
    signal = LightFieldSignal.load(place)
    assert len(signal.spec.cameras) == 6 and len(signal.test) == 2
    assert list(render_set(pack, tmp_path / "views", views=8, size=32, test=2, shading="flat")) == [
        {"name": "sets/red", "kept": 1}, {"name": "blue", "kept": 1}]


@pytest.mark.parametrize("changes, message", [({"size": 32}, "--size 16, not 32"), ({"views": 4}, "--views 3, not 4"),
                                              ({"shading": "flat"}, "--shading lambert, not flat")])
def test_what_is_there_in_other_settings_is_not_kept_silently(pack, tmp_path, changes, message):
    settings = {"views": 3, "size": 16, "test": 1}
    list(render_set(pack, tmp_path / "views", **settings))
    shutil.rmtree(tmp_path / "views" / "sets_red")
    with pytest.raises(InrError, match=f"blue was rendered with {message}: choose another folder"):
        list(render_set(pack, tmp_path / "views", **settings | changes))
    assert not (tmp_path / "views" / "sets_red").exists(), "nothing is rendered beside it"
    assert [line["name"] for line in render_set(pack, tmp_path / "views", **settings) if "kept" in line] == ["blue"]


def test_an_object_of_before_settings_were_written_tells_its_size(pack, tmp_path):
    list(render_set(pack, tmp_path / "views", views=3, size=16, test=1, limit=1))
    place = tmp_path / "views" / "sets_red" / "transforms_train.json"
    found = json.loads(place.read_text())
    del found["rendered"]
    place.write_text(json.dumps(found))
    with pytest.raises(InrError, match="--size 16, not 32"):
        list(render_set(pack, tmp_path / "views", views=3, size=32, test=1))
    assert "kept" in next(render_set(pack, tmp_path / "views", views=3, size=16, test=1))
    place.write_text("{")
    with pytest.raises(InrError, match="sets_red is damaged"):
        list(render_set(pack, tmp_path / "views", views=3, size=16, test=1))


def test_rgba_and_folders_and_what_cannot_be_read(tmp_path):
    folder = tmp_path / "meshes"
    (folder / "inner").mkdir(parents=True)
    ball((10, 200, 10)).export(folder / "inner" / "green.ply")
    (name, load), = meshes(folder)
    assert name == "inner/green" and len(load().faces) == 320
    assert list(render_set(folder, tmp_path / "out", views=2, size=16, test=1, alpha=True)) == [
        {"name": "inner/green", "views": 2}]
    image = np.asarray(Image.open(tmp_path / "out" / "inner_green" / "train" / "r_0.png"))
    assert image.shape == (16, 16, 4) and image[8, 8, 3] == 255 and image[0, 0, 3] == 0
    with pytest.raises(InrError, match="does not exist"):
        list(meshes(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InrError, match="no meshes"):
        list(meshes(tmp_path / "empty"))
    np.savez(tmp_path / "foreign.npz", a=np.zeros(3))
    with pytest.raises(InrError, match="no pack"):
        list(meshes(tmp_path / "foreign.npz"))
    (tmp_path / "broken.npz").write_bytes(b"PK nothing")
    with pytest.raises(InrError, match="not a whole"):
        list(meshes(tmp_path / "broken.npz"))
    with pytest.raises(InrError, match="--test"):
        list(render_set(folder, tmp_path / "out", views=2, test=2))


def test_one_bad_mesh_does_not_stop_a_set(tmp_path):
    folder = tmp_path / "meshes"
    folder.mkdir()
    (folder / "a.ply").write_bytes(b"not a mesh")
    ball((10, 200, 10)).export(folder / "b.ply")
    lines = list(render_set(folder, tmp_path / "out", views=2, size=16, test=1))
    assert "error" in lines[0] and lines[1] == {"name": "b", "views": 2}


def test_without_held_out_views_there_is_no_test_split(pack, tmp_path):
    from inr_scenes.signals.lightfield import LightFieldSignal
    list(render_set(pack, tmp_path / "views", views=4, size=16, test=0, limit=1))
    assert not (tmp_path / "views" / "sets_red" / "transforms_test.json").exists()
    assert len(LightFieldSignal.load(tmp_path / "views" / "sets_red").spec.cameras) == 4
    assert not (tmp_path / "views" / "blue").exists()


def test_up_turns_y_to_z(tmp_path):
    mesh = trimesh.creation.cone(radius=0.2, height=2.0)         # along z
    mesh.apply_transform(trimesh.transformations.rotation_matrix(-math.pi / 2, [1, 0, 0]))      # along y
    from inr_scenes.views import _unit
    vertices = np.asarray(_unit(mesh, "y").vertices)
    tip = vertices[np.linalg.norm(vertices[:, :2], axis=1) < 1e-3]
    assert vertices[:, 2].max() == pytest.approx(tip[:, 2].max())
    assert np.ptp(vertices[:, 2]) > 3 * np.ptp(vertices[:, 1])


def test_the_command_line(inr, pack):
    status, out, err = inr("data", "views", pack, "out", "--views", 4, "--size", 16, "--test", 1, "--json")
    assert status == 0, err
    assert json.loads(out) == {"output": "out", "objects": 2, "left_out": 0}
    status, _, err = inr("data", "views", "missing.npz", "out2")
    assert status == 1 and "does not exist" in err
