import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import inr_scenes as inr
import inr_scenes.rays as rays_module
from inr_scenes import InrError
from inr_scenes.camera import Cameras, look_at, pluecker
from inr_scenes.field import build
from inr_scenes.kernels.choice import choose
from inr_scenes.kernels.native import MARCH, library
from inr_scenes.media import to_bytes
from inr_scenes.rays import _in_c, in_frame, rays_for
from inr_scenes.signals.lightfield import LightFieldSignal
from inr_scenes.siren import Siren
from inr_scenes.testing import check_signal, small_signal

SAMPLE = Path(__file__).parents[1] / "datasets" / "lightfield"
UP = torch.tensor([0.0, 0.0, 1.0])


@pytest.fixture(scope="module")
def toy():
    pytest.importorskip("nerfstudio")
    return LightFieldSignal.load(SAMPLE)


def poses_around(n, radius=3.0, height=0.8):
    angle = torch.arange(n) * (2 * math.pi / n)
    origins = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle), torch.full((n,), height)], -1)
    return look_at(origins, torch.zeros(3), UP)


def write_set(folder, n=4, size=(12, 16), frame=None, suffix=".png", mode="RGB", **meta):
    """Write a nerfstudio set of noise pictures; return its transforms. frame(i): more entries of a frame."""
    folder.mkdir(exist_ok=True)
    noise = np.random.default_rng(0)
    frames = []
    for i, pose in enumerate(poses_around(n)):
        channels = {"RGB": 3, "RGBA": 4}[mode]
        Image.fromarray(noise.integers(0, 256, (*size, channels), np.uint8)).save(folder / f"view_{i}{suffix}")
        frames.append({"file_path": f"view_{i}{suffix}", "transform_matrix": [*pose.tolist(), [0, 0, 0, 1]],
                       **(frame(i) if frame else {})})
    data = {"fl_x": 20.0, "fl_y": 21.0, "cx": size[1] / 2, "cy": size[0] / 2, "w": size[1], "h": size[0], **meta,
            "frames": frames}
    data = {key: value for key, value in data.items() if value is not None}
    (folder / "transforms.json").write_text(json.dumps(data))
    return data


# ---- the sample set

def test_sample_set(toy):
    assert (len(toy.train), len(toy.test)) == (36, 8)
    assert len(toy) == 36 * 80 * 80
    assert not {*toy.train.names} & {*toy.test.names}
    assert toy.spec.kind == "lightfield" and toy.spec.in_features == 6 and toy.spec.axes == ()
    assert len(toy.spec.cameras) == 36
    assert toy.spec.meta["around"] and toy.spec.frame.centre.allclose(torch.tensor([0, 0, 0.35]).double(), atol=1e-3)
    assert toy.name == "lightfield"
    again = check_signal(LightFieldSignal, SAMPLE)
    assert again.spec == toy.spec


def test_rays_are_those_of_the_cameras_in_the_frame(toy):
    view = 17
    index = torch.arange(view * 6400, (view + 1) * 6400)
    rays, values = toy.sample(index)
    cameras = in_frame(toy.spec.cameras, toy.spec.frame)
    assert rays.allclose(pluecker(*cameras.rays(view)), atol=1e-5)
    larger = replace(cameras, poses=cameras.poses * torch.tensor([2.0, 2, 2, 1]))       # of a path, not orthonormal
    assert rays.allclose(cameras.pluecker(view), atol=1e-5) and rays.allclose(larger.pluecker(view), atol=1e-5)
    assert rays[:, :3].norm(dim=-1).allclose(torch.ones(6400), atol=1e-5)
    assert (rays[:, :3] * rays[:, 3:]).sum(-1).abs().max() < 1e-5           # a moment stands upright on its ray
    origins, directions = toy.spec.cameras.rays(view)
    centre, scale = toy.spec.frame.centre.float(), toy.spec.frame.scale
    assert rays[:, 3:].allclose(torch.linalg.cross(origins - centre, directions) / scale, atol=1e-5)
    assert np.allclose((values.reshape(80, 80, 3).numpy() + 1) / 2, toy.train.image(view), atol=1e-6)


def test_focus_is_the_foreground_and_the_unit_ball_holds_it(toy):
    assert 0.1 < len(toy.focus) / len(toy) < 0.5
    rays, _ = toy.sample(toy.focus)
    assert rays[:, 3:].norm(dim=-1).max() <= 1
    background = torch.ones(len(toy), dtype=torch.bool)
    background[toy.focus] = False
    assert (toy.sample(background.nonzero()[:, 0])[1] == 1).all()           # white


def test_held_out_views_change_nothing_of_the_fit(tmp_path):
    pytest.importorskip("nerfstudio")
    shutil.copytree(SAMPLE, tmp_path / "set")
    for file in (tmp_path / "set" / "images").glob("test_*.png"):
        Image.new("RGBA", (80, 80), "red").save(file)
    changed, plain = (LightFieldSignal.load(folder) for folder in (tmp_path / "set", SAMPLE))
    assert changed.spec == plain.spec
    index = torch.arange(len(plain))
    assert torch.equal(changed.sample(index)[1], plain.sample(index)[1])
    field = build(Siren, plain.spec, {"hidden_features": 16}, seed=0).eval()
    before, after = plain.metrics(field), changed.metrics(field)
    assert before["psnr"] == after["psnr"] and before["psnr_test"] != after["psnr_test"]
    assert {"psnr", "psnr_test", "ssim_test"} == set(before)


def test_metrics_are_the_mean_over_views():
    signal = small_signal("lightfield")
    field = build(Siren, signal.spec, {"hidden_features": 16}, seed=0).eval()
    scores = []
    for i in range(len(signal.train)):
        error = np.square(signal.train.image(i) - signal.train.render(field, i)).mean()
        scores.append(-10 * math.log10(error))
    assert signal.metrics(field) == {"psnr": pytest.approx(np.mean(scores), abs=1e-4)}


def test_like_takes_frame_size_and_background(toy):
    small = LightFieldSignal.load(SAMPLE, size=(40, 40), background="black")
    again = LightFieldSignal.load(SAMPLE, like=small.spec)
    assert again.spec == small.spec
    assert torch.equal(again.train.pixels, small.train.pixels)
    assert again.train.pixels[0].tolist() == [0, 0, 0]
    assert small.train.cameras.focal[0].allclose(toy.train.cameras.focal[0] / 2)


def test_like_leaves_the_held_out_views_of_another_scene_behind(toy):
    from inr_scenes.render import held_out
    alone = LightFieldSignal(toy.train, like=toy.spec)
    with pytest.raises(InrError, match="No views were held out"):
        held_out(alone.spec)
    swapped = LightFieldSignal(toy.test, toy.train, like=toy.spec)
    assert torch.allclose(held_out(swapped.spec).poses, toy.train.cameras.poses)
    assert "held_out" in toy.spec.meta


def test_surface_interpolates_better_than_bare_rays(toy):
    """What the frame and the surface are for: views that were not seen."""
    scores = {}
    for rays in ("surface", "pluecker"):
        field = build(Siren, toy.spec, {"hidden_features": 64, "hidden_layers": 2, "rays": rays}, seed=0)
        result = inr.fit(field, toy, steps=150, batch=4096, optimizer="muon", lr=4e-3, focus=0.5)
        scores[rays] = result.metrics["psnr_test"]
    assert scores["surface"] > 24                       # 25.7 when this was written, and 16.1 for bare rays
    assert scores["surface"] > scores["pluecker"] + 6


# ---- surfaces

def ball_views(n=20, size=48, radius=0.7):
    """RGBA pictures of a ball whose colour depends on the place."""
    poses = torch.cat([poses_around(n, 3.0, height) for height in (-1.5, 0.0, 1.5)])
    count = len(poses)
    cameras = Cameras(poses, torch.full((count, 2), 1.6 * size), torch.full((count, 2), size / 2),
                      torch.full((count, 2), size))
    images = []
    for i in range(count):
        origins, directions = cameras.rays(i)
        b = (origins * directions).sum(-1)
        root = b.square() - origins.square().sum(-1) + radius**2
        point = origins + (-b - root.clamp_min(0).sqrt())[:, None] * directions
        colour = torch.cat([0.5 + 0.5 * point / radius, torch.ones_like(point[:, :1])], -1) * (root > 0)[:, None]
        images.append((colour.reshape(size, size, 4) * 255).byte().numpy())
    return cameras, images


def test_visual_hull_of_a_ball():
    cameras, images = ball_views()
    signal = LightFieldSignal.from_views(cameras, images)
    unit = signal.spec.frame.scale
    assert unit == pytest.approx(0.7, rel=0.05)
    seen = rays_for(signal.spec, "surface", 8, 0.1)
    rays, _ = signal.sample(signal.focus[::7])
    along, least = seen.meet(rays)
    points = torch.linalg.cross(rays[:, :3], rays[:, 3:]) + along[:, None] * rays[:, :3]
    distance = points.norm(dim=-1) * unit
    assert (distance - 0.7).abs().median() < 0.03
    assert (least < 0.1).all()
    asked = []
    values = seen(signal.sample(torch.arange(48 * 48))[0], lambda x: asked.append(len(x)) or torch.zeros(len(x), 3))
    assert asked[0] < 0.6 * 48 * 48                     # rays far from the ball do not ask the network
    assert (values[0] == 1).all() and (values[24 * 48 + 24] == 0).all()     # and show the background


def test_a_step_on_a_device_asks_for_no_count_of_rays(monkeypatch):
    signal = LightFieldSignal.from_views(*ball_views())
    field = build(Siren, signal.spec, {"hidden_features": 16, "hidden_layers": 1, "rays": "auto"}, seed=0)
    assert isinstance(field.rays, rays_module.HullRays)
    query, values = signal.sample(torch.arange(0, len(signal), 7))

    def gradients():
        loss = (field(query) - values).square().mean()
        return [loss, *torch.autograd.grad(loss, list(field.parameters()))]

    counted = gradients()
    monkeypatch.setattr(rays_module, "_asked", lambda rays: False)
    monkeypatch.setattr(torch.Tensor, "nonzero", lambda self: pytest.fail("nonzero"))
    for mine, true in zip(gradients(), counted):
        assert torch.allclose(mine, true, atol=1e-6)


def plane_views(n=5, size=(48, 64), spacing=0.25):
    """Two textured walls, the left one at depth 4 and the right one at depth 8, from cameras side by side."""
    places = spacing * (torch.cartesian_prod(torch.arange(n), torch.arange(n)).float() - (n - 1) / 2)
    poses = torch.eye(4)[None, :3].repeat(n * n, 1, 1)
    poses[:, :2, 3] = places
    cameras = Cameras(poses, torch.full((n * n, 2), 60.0), torch.tensor([[size[1] / 2, size[0] / 2]]).repeat(n * n, 1),
                      torch.tensor([size]).repeat(n * n, 1))
    images = []
    for i in range(n * n):
        origins, directions = cameras.rays(i)
        near, far = (origins + directions * (depth / -directions[:, 2:]) for depth in (4.0, 8.0))
        point = torch.where(near[:, :1] < 0, near, far)
        texture = torch.sin(point[:, :2] @ torch.tensor([[5.0, 2.0, 7.0], [3.0, -6.0, 1.0]]) + point[:, 2:])
        images.append((127.5 + 127 * texture).byte().reshape(*size, 3).numpy())
    return cameras, images


def test_relief_of_two_walls():
    cameras, images = plane_views()
    signal = LightFieldSignal.from_views(cameras, images)
    surface = signal.spec.meta["surface"]
    assert not signal.spec.meta["around"]
    depths = [surface["distance"] * signal.spec.frame.scale / (1 + surface[end]) for end in ("high", "low")]
    assert depths == [pytest.approx(4, rel=0.15), pytest.approx(8, rel=0.3)]
    assert signal.spec.frame.centre[2] == pytest.approx(-16 / 3, rel=0.15)      # the middle of 1/4 and 1/8
    # a place of a wall is seen at the same place of the relief by every camera
    seen = rays_for(signal.spec, "surface", 8, 0.1)
    unit = in_frame(cameras, signal.spec.frame)
    for x, depth in ((-0.7, 4.0), (1.6, 8.0)):
        point = torch.tensor([x, 0.4, -depth])
        directions = torch.nn.functional.normalize(point - cameras.poses[:, :, 3], dim=-1)
        found = seen.see(pluecker(unit.poses[:, :, 3], directions))
        without = torch.stack([(point - o)[:2] / -(point - o)[2] for o in cameras.poses[:, :, 3]]).std(0)
        pixels = found[:, :2].std(0) * 64 / 2
        assert pixels.max() < 0.5 < 0.2 * (without * 60).min()
        assert found[:, 2:].abs().max() <= 0.1 + 1e-6


@pytest.mark.parametrize("views", [ball_views, plane_views])
def test_marching_in_c_meets_what_plain_torch_meets(views):
    signal = LightFieldSignal.from_views(*views())
    seen = rays_for(signal.spec, "surface", 8, 0.1)
    assert _in_c(seen.grid if views is ball_views else seen.map) or library(MARCH, torch.float32) is None
    rays = torch.cat([signal.sample(torch.arange(0, len(signal), 11))[0], pluecker(*random_rays(500))])
    mine = seen.meet(rays)[1] if views is ball_views else seen.see(rays)
    with choose("torch"):
        assert _in_c(rays) is None
        plain = seen.meet(rays)[1] if views is ball_views else seen.see(rays)
    torch.testing.assert_close(mine, plain, atol=1e-5, rtol=1e-5)
    assert views is ball_views or seen.see(rays.clone().requires_grad_()).requires_grad
    places = [seen.see(rays) if views is plane_views else seen.meet(rays)[0]]
    with choose("torch"):
        places.append(seen.see(rays) if views is plane_views else seen.meet(rays)[0])
    assert ((places[0] - places[1]).abs() > 1e-4).float().mean() < 0.005     # steps that end a tie


@pytest.mark.parametrize("views", [ball_views, plane_views])
def test_rays_that_are_no_numbers_meet_nothing_and_harm_nothing(views):
    seen = rays_for(LightFieldSignal.from_views(*views()).spec, "surface", 8, 0.1)
    rays = pluecker(*random_rays(3))
    rays[1], rays[2] = float("nan"), float("inf")
    found = seen.see(rays) if views is plane_views else seen.meet(rays)[0]
    assert found[0].isfinite().all() and found.shape[0] == 3


def random_rays(count):
    generator = torch.Generator().manual_seed(0)
    origins, directions = torch.randn(2, count, 3, generator=generator)
    return origins, torch.nn.functional.normalize(directions, dim=-1)


def test_surface_is_asked_for_where_there_is_none():
    signal = small_signal("lightfield")                 # around, no alpha
    assert "surface" not in signal.spec.meta
    with pytest.raises(InrError, match="alpha channel"):
        build(Siren, signal.spec, {"rays": "surface"})
    with pytest.raises(InrError, match="Did you mean points"):
        build(Siren, signal.spec, {"rays": "point"})
    assert build(Siren, signal.spec, {"rays": "auto"}).rays.features == 24


def test_a_damaged_surface_is_refused(toy):
    for change in ({"data": "AAAA"}, {"cells": 10**6}, {"cells": 0}, {"data": toy.spec.meta["surface"]["data"][:-40]}):
        surface = {**toy.spec.meta["surface"], **change}
        with pytest.raises(InrError, match="does not make sense"):
            build(Siren, toy.spec.replace(meta={**toy.spec.meta, "surface": surface}), {"rays": "surface"})


def test_archives_keep_surface_and_cameras(toy, tmp_path):
    field = build(Siren, toy.spec, {"rays": "surface", "hidden_features": 32}, seed=0).eval()
    inr.save(field, tmp_path / "toy.safetensors")
    again = inr.open(tmp_path / "toy.safetensors")
    rays, _ = toy.sample(torch.arange(0, len(toy), 997))
    with torch.inference_mode():
        assert torch.equal(field(rays), again(rays))
    assert again.spec.cameras.poses.equal(toy.spec.cameras.poses)


# ---- whatever nerfstudio reads

def test_world_units_are_the_file_s_own(tmp_path):
    pytest.importorskip("nerfstudio")
    write_set(tmp_path / "set", n=5, train_filenames=[f"view_{i}.png" for i in range(4)],
              test_filenames=["view_4.png"])
    signal = inr.load(tmp_path / "set")
    assert signal.spec.cameras.poses.allclose(poses_around(5)[:4], atol=1e-6)
    assert signal.train.names == [f"view_{i}.png" for i in range(4)] and signal.test.names == ["view_4.png"]
    assert inr.load(tmp_path / "set" / "transforms.json").spec == signal.spec


def test_distorted_and_fisheye_lenses_see_as_in_nerfstudio(tmp_path):
    theirs = pytest.importorskip("nerfstudio.cameras.cameras")
    bent = {"k1": 0.1, "k2": -0.03, "p1": 0.01, "p2": -0.02}
    for model in ("OPENCV", "OPENCV_FISHEYE"):
        write_set(tmp_path / model, camera_model=model, train_filenames=[f"view_{i}.png" for i in range(4)],
                  test_filenames=[], **bent)
        signal = LightFieldSignal.load(tmp_path / model)
        numbers = theirs.camera_utils.get_distortion_params(**bent)[None].repeat(4, 1)
        bundle = theirs.Cameras(poses_around(4), 20.0, 21.0, 8.0, 6.0, 16, 12, numbers,
                                theirs.CAMERA_MODEL_TO_TYPE[model]).generate_rays(2)
        rays, _ = signal.sample(torch.arange(2 * 192, 3 * 192))
        assert rays[:, :3].allclose(bundle.directions.reshape(-1, 3), atol=1e-5)
        assert len(signal.train.lens) == 192            # one table for four cameras of one lens
        larger, _ = LightFieldSignal.load(tmp_path / model, size=(24, 32)).sample(torch.arange(2 * 768, 3 * 768))
        quarters = larger[:, :3].reshape(12, 2, 16, 2, 3).mean((1, 3)).reshape(-1, 3)
        assert quarters.allclose(rays[:, :3], atol=0.01)


def test_sizes_and_lenses_may_differ_from_view_to_view(tmp_path):
    pytest.importorskip("nerfstudio")
    sizes = [(12, 16), (24, 32), (12, 16), (6, 8)]
    write_set(tmp_path / "set", fl_x=None, fl_y=None, w=None, h=None, cx=None, cy=None,
              train_filenames=[f"view_{i}.png" for i in range(4)], test_filenames=[],
              frame=lambda i: {"fl_x": 20.0 + i, "fl_y": 20.0, "w": sizes[i][1], "h": sizes[i][0],
                               "cx": sizes[i][1] / 2, "cy": sizes[i][0] / 2})
    for i, (height, width) in enumerate(sizes):
        Image.new("RGB", (width, height), (50 * i, 0, 0)).save(tmp_path / "set" / f"view_{i}.png")
    signal = LightFieldSignal.load(tmp_path / "set")
    assert signal.train.cameras.size.tolist() == [list(size) for size in sizes]
    assert len(signal) == signal.spec.size == 192 + 768 + 192 + 48
    rays, values = signal.sample(torch.tensor([0, 191, 192, 959, 960, 1151, 1152, 1199]))
    assert ((values[:, 0] + 1) / 2 * 255).round().tolist() == [0, 0, 50, 50, 100, 100, 150, 150]
    cameras = in_frame(signal.spec.cameras, signal.spec.frame)
    assert rays[-1].allclose(pluecker(*cameras.rays(3))[-1], atol=1e-5)


def test_masked_pixels_do_not_count(tmp_path):
    pytest.importorskip("nerfstudio")
    data = write_set(tmp_path / "set", frame=lambda i: {"mask_path": "mask.png"})
    data |= {"train_filenames": [f["file_path"] for f in data["frames"]], "test_filenames": []}
    (tmp_path / "set" / "transforms.json").write_text(json.dumps(data))
    mask = np.zeros((12, 16), np.uint8)
    mask[:, :8] = 255
    Image.fromarray(mask).save(tmp_path / "set" / "mask.png")
    signal = LightFieldSignal.load(tmp_path / "set")
    assert len(signal) == 4 * 96
    truth = signal.train.image(1)[:, :8].reshape(-1, 3)
    assert np.allclose((signal.sample(torch.arange(96, 192))[1].numpy() + 1) / 2, truth, atol=1e-6)


def test_blender_set_lies_on_the_chosen_background(tmp_path):
    pytest.importorskip("nerfstudio")
    for split, n in (("train", 5), ("test", 2)):
        data = write_set(tmp_path / split, n=n, size=(12, 12), mode="RGBA")
        frames = [{**f, "file_path": f"./{split}/view_{i}"} for i, f in enumerate(data["frames"])]
        (tmp_path / f"transforms_{split}.json").write_text(json.dumps({"camera_angle_x": 0.6, "frames": frames}))
        (tmp_path / split / "transforms.json").unlink()
    signal = inr.load(tmp_path, background="#204060")
    assert (len(signal.train), len(signal.test)) == (5, 2)
    picture = np.asarray(Image.open(tmp_path / "train" / "view_3.png")).astype(float)
    alpha = picture[..., 3:] / 255
    expected = picture[..., :3] * alpha + np.array([0x20, 0x40, 0x60]) * (1 - alpha)
    assert np.abs(signal.train.image(3) * 255 - expected).max() <= 0.51
    assert signal.spec.meta["background"] == pytest.approx([32 / 255, 64 / 255, 96 / 255])
    assert signal.train.cameras.focal[0, 0] == pytest.approx(6 / math.tan(0.3), rel=1e-5)


def test_colmap_reconstruction(tmp_path):
    pytest.importorskip("nerfstudio")
    (tmp_path / "sparse" / "0").mkdir(parents=True)
    (tmp_path / "images").mkdir()
    (tmp_path / "sparse" / "0" / "cameras.txt").write_text("1 SIMPLE_RADIAL 16 12 20.0 8.0 6.0 0.05\n")
    lines = []
    for i in range(9):
        Image.new("RGB", (16, 12), (10 * i, 0, 0)).save(tmp_path / "images" / f"{i}.png")
        lines.append(f"{i + 1} 1 0 0 0 {-0.2 * i} 0 0 1 {i}.png\n\n")
    (tmp_path / "sparse" / "0" / "images.txt").write_text("".join(lines))
    (tmp_path / "sparse" / "0" / "points3D.txt").write_text("")
    signal = inr.load(tmp_path)
    assert (len(signal.train), len(signal.test)) == (7, 2)          # nerfstudio holds out every eighth
    origins = signal.train.cameras.poses[:, :, 3]
    assert origins.diff(dim=0).norm(dim=-1).allclose(torch.full((6,), 0.2), atol=1e-5)     # 1 to 7
    assert signal.train.lens is not None


# ---- plain grids

def write_grid(folder, rows=5, columns=5, size=(10, 14)):
    folder.mkdir()
    for r in range(rows):
        for c in range(columns):
            Image.new("RGB", size[::-1], (40 * r, 40 * c, 0)).save(folder / f"view_{r:02d}_{c:02d}.png")
    return folder


def test_plain_grid(tmp_path):
    signal = inr.load(write_grid(tmp_path / "grid"), spacing=0.5)
    assert signal.train.names == [f"view_{r:02d}_{c:02d}.png" for r in (0, 2, 4) for c in (0, 2, 4)]
    assert signal.test.names == [f"view_{r:02d}_{c:02d}.png" for r in (1, 3) for c in (1, 3)]
    assert signal.train.cameras.poses[:, :, 3].tolist()[:4] == [[-1, 1, 0], [0, 1, 0], [1, 1, 0], [-1, 0, 0]]
    assert not signal.spec.meta["around"]
    wide = inr.load(tmp_path / "grid", fov=90.0).train.cameras
    assert wide.focal[0].tolist() == pytest.approx([7.0, 7.0])


def write_srn(folder: Path, cameras: Cameras, images) -> Path:
    """An object as scene representation networks keep them: OpenCV's camera axes, one lens."""
    for name in ("rgb", "pose"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (x, y), (height, width) = cameras.centre[0].tolist(), cameras.size[0].tolist()
    (folder / "intrinsics.txt").write_text(f"{cameras.focal[0, 0]:.8f} {x} {y} 0.\n0. 0. 0.\n1.\n{height} {width}\n")
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / "rgb" / f"{i:06d}.png")
        pose = torch.cat([cameras.poses[i] * torch.tensor([1, -1, -1, 1]), torch.tensor([[0.0, 0, 0, 1]])])
        (folder / "pose" / f"{i:06d}.txt").write_text(" ".join(f"{v:.8f}" for v in pose.flatten().tolist()))
    return folder


def test_folders_of_scene_representation_networks(tmp_path):
    poses = poses_around(3)
    cameras = Cameras(poses, torch.full((3, 2), 13.0), torch.full((3, 2), 8.0), torch.full((3, 2), 16))
    images = list(np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8))
    signal = inr.load(write_srn(tmp_path / "car", cameras, images))
    assert len(signal.train) == 3 and signal.test is None
    assert torch.allclose(signal.train.cameras.poses, poses, atol=1e-6)
    assert torch.equal(signal.train.cameras.focal, cameras.focal)
    np.testing.assert_array_equal(to_bytes(signal.train.image(2)), images[2])
    small = inr.load(tmp_path / "car", size=(8, 8)).train.cameras
    assert small.focal[0].tolist() == [6.5, 6.5] and small.centre[0].tolist() == [4, 4]
    (tmp_path / "car" / "rgb" / "000001.png").unlink()
    with pytest.raises(InrError, match="000001.png is missing"):
        inr.load(tmp_path / "car")
    (tmp_path / "car" / "intrinsics.txt").write_text("13 8")
    with pytest.raises(InrError, match="cannot be read as srn"):
        inr.load(tmp_path / "car")


@pytest.mark.parametrize("test_views, held_out", [
    ("none", None), ("5", 5), ("view_02_*", 5), ("view_00_00,view_04_04.png", 2)])
def test_views_held_out_by_hand(tmp_path, test_views, held_out):
    signal = inr.load(write_grid(tmp_path / "grid"), test_views=test_views)
    if held_out is None:
        assert signal.test is None and len(signal.train) == 25
        return
    assert len(signal.test) == held_out and len(signal.train) == 25 - held_out
    assert not {*signal.train.names} & {*signal.test.names}


@pytest.mark.parametrize("options, message", [
    ({"test_views": "nothing_*"}, "holds out 0 of 25"), ({"test_views": "*"}, "holds out 25 of 25"),
    ({"spacing": 0.0}, "--spacing"), ({"fov": 180.0}, "--fov"), ({"size": (0, 4)}, "--size"),
    ({"background": "whitish"}, "no colour"), ({"dataparser": "nerfstudio-dat"}, "Did you mean nerfstudio-data")])
def test_wrong_options(tmp_path, options, message):
    pytest.importorskip("nerfstudio")
    write_grid(tmp_path / "grid")
    with pytest.raises(InrError, match=message):
        LightFieldSignal.load(tmp_path / "grid", **options)


# ---- sets that cannot be read

@pytest.mark.parametrize("missing", [0, 3])
def test_missing_picture(tmp_path, missing):
    pytest.importorskip("nerfstudio")
    write_set(tmp_path / "set")
    (tmp_path / "set" / f"view_{missing}.png").unlink()
    with pytest.raises(InrError, match=rf"view_{missing}\.png is missing: restore it"):
        LightFieldSignal.load(tmp_path / "set")


@pytest.mark.parametrize("row, message", [
    ([0.0, 0.0, 0.0, 1.0], "singular"), ([float("nan"), 0.0, 0.0, 1.0], "singular or not a number"),
    ([3.0, 2.0, 1.0, 1.0], "no rotation")])
def test_pose_that_places_no_camera(tmp_path, row, message):
    pytest.importorskip("nerfstudio")
    data = write_set(tmp_path / "set")
    data["frames"][2]["transform_matrix"][0] = row
    (tmp_path / "set" / "transforms.json").write_text(json.dumps(data))
    with pytest.raises(InrError, match=message) as error:
        LightFieldSignal.load(tmp_path / "set")
    assert "view_2.png" in str(error.value) and "\n" not in str(error.value)


def test_damaged_sets(tmp_path):
    pytest.importorskip("nerfstudio")
    data = write_set(tmp_path / "set")
    file = tmp_path / "set" / "transforms.json"
    for text in ("this is no such file", "[]", "{}", json.dumps({**data, "frames": []})):
        file.write_text(text)
        with pytest.raises(InrError) as error:
            LightFieldSignal.load(tmp_path / "set")
        assert "\n" not in str(error.value)
    file.write_text(json.dumps(data))
    (tmp_path / "set" / "view_1.png").write_bytes((tmp_path / "set" / "view_1.png").read_bytes()[:200])
    with pytest.raises(InrError, match="damaged"):
        LightFieldSignal.load(tmp_path / "set")
    Image.new("RGB", (16, 6)).save(tmp_path / "set" / "view_1.png")
    with pytest.raises(InrError, match="its camera says"):
        LightFieldSignal.load(tmp_path / "set")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InrError, match="no set of posed pictures"):
        LightFieldSignal.load(tmp_path / "empty")


# ---- real data

def test_real_light_fields_are_split_as_they_say(real):
    pytest.importorskip("nerfstudio")
    signal = inr.load(real("lightfield/junkshop_480"), size=(32, 48))
    assert (len(signal.train), len(signal.test)) == (25, 16)
    assert signal.train.names[1] == "view_00_02.jpg" and signal.test.names[0] == "view_01_01.jpg"
    signal = inr.load(real("lightfield/chess"), size=(27, 48))
    assert (len(signal.train), len(signal.test)) == (25, 16)
    signal = inr.load(real("posed/chair_400"), size=(50, 50))
    assert (len(signal.train), len(signal.test)) == (100, 25)
    assert signal.spec.meta["surface"]["cells"] == 50
