import math

import numpy as np
import pytest
import torch
from PIL import Image

import inr_scenes as inr
from inr_scenes import InrError
from inr_scenes.cli import main
from inr_scenes.field import Field, build
from inr_scenes.render import frames, held_out
from inr_scenes.signals.lightfield import LightFieldSignal
from inr_scenes.siren import Siren
from inr_scenes.spec import Axis, Frame, Spec, ValueMap
from inr_scenes.testing import small_signal

av = pytest.importorskip("av")


class Ball(Field):
    """A shape: the ball of radius 0.6 in the unit cube, as a distance."""

    name = "ball"

    def __init__(self, spec):
        super().__init__(None, spec)
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def forward(self, coords):
        return coords.norm(dim=-1, keepdim=True) - 0.6 + 0 * self.nothing


@pytest.fixture(scope="module")
def scene():
    signal = small_signal("lightfield")
    return signal, build(Siren, signal.spec, {"hidden_features": 16, "hidden_layers": 1}, seed=0).eval()


def test_held_out_cameras_are_kept_and_can_be_rendered(scene, tmp_path):
    cameras = scene[0].spec.cameras
    images = list(np.zeros((6, 24, 20, 3), np.uint8))
    signal = LightFieldSignal.from_views(cameras[:4], images[:4], test=(cameras[4:], images[4:]), surface=False)
    path = inr.save(build(Siren, signal.spec, {"hidden_features": 16}, seed=0), tmp_path / "f.safetensors")
    spec = inr.open(path).spec
    kept = held_out(spec)
    assert torch.allclose(kept.poses, cameras[4:].poses, atol=1e-6)
    assert all(torch.equal(getattr(kept, part), getattr(cameras[4:], part)) for part in ("focal", "centre", "size"))
    assert main(["render", str(path), str(tmp_path / "views"), "--path", "test"]) == 0
    assert len(list((tmp_path / "views").glob("*.png"))) == 2
    with pytest.raises(InrError, match="No views were held out"):
        held_out(scene[0].spec)
    with pytest.raises(InrError, match="do not make sense"):
        held_out(spec.replace(meta={"held_out": {**spec.meta["held_out"], "focal": [[1.0, 2.0]] * 3}}))


def test_size_shows_the_middle_undistorted(scene, tmp_path):
    signal, field = scene
    path = inr.save(field, tmp_path / "f.safetensors")
    assert main(["render", str(path), str(tmp_path / "views"), "--path", "train", "--frame", "1",
                 "--size", "30", "50"]) == 0
    shown = np.asarray(Image.open(next((tmp_path / "views").glob("*.png"))))
    expected = next(frames(field, signal.spec.cameras[[1]].framed(30, 50)))
    stretched = next(frames(field, signal.spec.cameras[[1]].resized(30, 50)))
    assert np.array_equal(shown, expected) and not np.array_equal(shown, stretched)


@pytest.fixture(scope="module")
def ball():
    spec = Spec("shape", (Axis.regular(16),) * 3, 3, 1, ValueMap(), Frame.of((10.0, 20.0, 30.0), 5.0),
                {"quantity": "sdf", "level": 0.0})
    return Ball(spec)


def decoded(path):
    with av.open(str(path)) as film:
        return [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)], film.streams.video[0]


def test_training_cameras_see_what_the_signal_compares(scene):
    signal, field = scene
    views = list(frames(field, signal.spec.cameras))
    assert len(views) == 6 and all(view.shape == (24, 20, 3) and view.dtype == np.uint8 for view in views)
    for i in (0, 3):
        difference = np.abs(views[i] / 255 - signal.train.render(field, i))
        assert difference.max() <= 3 / 255              # pictures are made in half precision


def test_film(scene, tmp_path):
    signal, field = scene
    cameras = inr.orbit(signal.spec, frames=7).resized(33, 40)          # an odd height is padded for 4:2:0
    path = inr.render(field, cameras, tmp_path / "new" / "orbit.mp4", fps=10.0)
    film, stream = decoded(path)
    assert path == tmp_path / "new" / "orbit.mp4" and len(film) == 7
    assert film[0].shape == (34, 40, 3) and stream.average_rate == 10 and stream.codec_context.name == "h264"
    truth = np.stack(list(frames(field, cameras)))
    assert np.abs(np.stack(film)[:, :33].astype(int) - truth).mean() < 12
    assert [p.name for p in path.parent.iterdir()] == ["orbit.mp4"]


def test_gif_picture_and_folder(scene, tmp_path):
    signal, field = scene
    cameras = inr.spiral(signal.spec, frames=5)
    with Image.open(inr.render(field, cameras, tmp_path / "views.gif")) as gif:
        assert gif.n_frames == 5 and gif.size == (20, 24)
    truth = list(frames(field, cameras))
    assert np.array_equal(np.asarray(Image.open(inr.render(field, cameras[[2]], tmp_path / "one.png"))), truth[2])
    folder = inr.render(field, cameras, tmp_path / "views")
    files = sorted(folder.iterdir())
    assert [f.name for f in files] == [f"frame_000{i}.png" for i in range(5)]
    assert np.array_equal(np.asarray(Image.open(files[4])), truth[4])


def test_shape_is_seen_whole_from_its_orbit(ball):
    cameras = inr.orbit(ball.spec, frames=3).resized(64, 64)
    offset = cameras.poses[:, :, 3] - torch.tensor([10.0, 20.0, 30.0])
    assert offset.norm(dim=-1).std() < 1e-3 and (offset[:, 2] > 0).all()
    for view in frames(ball, cameras, resolution=32):
        assert view.shape == (64, 64, 3)
        assert (view[0] == 255).all() and (view[:, 0] == 255).all()     # white around it
        shown = (view < 250).any(-1)
        rows, columns = np.nonzero(shown)
        assert abs(rows.mean() - 31.5) < 1 and abs(columns.mean() - 31.5) < 1
        # radius 3 in a box whose corners are √3·5 away and fill the view
        distance = float(offset[0].norm())
        assert math.sqrt(shown.sum() / math.pi) == pytest.approx(
            64 / 2 * math.tan(math.asin(3 / distance)) / math.tan(math.radians(17.5)), rel=0.08)
    rising = inr.spiral(ball.spec, frames=8).poses[:, 2, 3]
    assert rising.argmax() == 4


@pytest.mark.parametrize("name, options, message", [
    ("views.txt", {}, r"cannot be written as \.txt"), ("view.png", {}, "choose one with --frame"),
    ("views.mp4", {"fps": 0.0}, "--fps")])
def test_what_cannot_be_written(scene, tmp_path, name, options, message):
    signal, field = scene
    with pytest.raises(InrError, match=message):
        inr.render(field, signal.spec.cameras, tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


def test_only_scenes_have_views(scene, tmp_path):
    picture = small_signal("image")
    field = build(Siren, picture.spec, {"hidden_features": 8}, seed=0)
    with pytest.raises(InrError, match="use inr export"):
        inr.render(field, scene[0].spec.cameras, tmp_path / "view.mp4")
    with pytest.raises(InrError, match="no camera path"):
        inr.orbit(picture.spec)
    assert not list(tmp_path.iterdir())


def test_what_fails_while_frames_are_made_is_raised(scene, tmp_path):
    signal, _ = scene

    class Broken(Siren):
        def forward(self, coords):
            raise ValueError("broken in the middle")

    field = build(Broken, signal.spec, {"hidden_features": 8}, seed=0)
    with pytest.raises(ValueError, match="broken in the middle"):
        inr.render(field, signal.spec.cameras, tmp_path / "views.mp4")
    assert not list(tmp_path.iterdir())


def test_unwritable_folder(scene, tmp_path):
    signal, field = scene
    (tmp_path / "file").touch()
    with pytest.raises(InrError, match="cannot be written"):
        inr.render(field, signal.spec.cameras, tmp_path / "file" / "views.mp4")
