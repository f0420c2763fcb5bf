"""crop, extend and merge through the command line, on fields with local parts."""

import json
import os
import signal
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import inr_scenes
from inr_scenes.archive import header as archive_header
from inr_scenes.errors import InrError
from inr_scenes.regions import around_mesh, grown, side_of
from inr_scenes.spec import Frame
from inr_scenes.testing import small_signal

trimesh = pytest.importorskip("trimesh")
soundfile = pytest.importorskip("soundfile")

pytest.importorskip("inr_local_global")
LOCAL = ("--partitions", "3", "4", "--local-features", "8", "--global-features", "12", "--hidden-layers", "1")


@pytest.fixture
def photo(tmp_path):
    y, x = np.mgrid[0:30, 0:40]
    picture = np.stack([x * 6, y * 8, 120 + 60 * np.sin(x / 5)], -1).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "photo.png")
    Image.fromarray(picture[:, :20]).save(tmp_path / "left.png")
    Image.fromarray(picture[:, 20:]).save(tmp_path / "right.png")
    return picture


def result(outcome) -> dict:
    status, out, err = outcome
    assert status == 0, err
    return json.loads(out)


def test_crop_and_merge_are_exact(inr, photo, tmp_path):
    result(inr("fit", "lg-siren", "photo.png", "-o", "run", "--steps", "60", *LOCAL, "--json"))
    left = result(inr("crop", "run", "left.safetensors", "--box", "0", "0", "30", "20", "--json"))
    assert left["shape"] == [30, 20, 3] and left["kept"] < 0.75
    result(inr("crop", "run", "right.safetensors", "--box", "0", "20", "30", "40", "--json"))
    whole, part = inr_scenes.open("run"), inr_scenes.open("left.safetensors")
    coords = part.spec.coords(torch.arange(part.spec.size))
    with torch.no_grad():
        assert (whole(coords) - part(coords)).abs().max() < 1e-6
    again = result(inr("crop", "left.safetensors", "part.safetensors", "--box", "5", "10", "25", "40", "--json"))
    assert again["box"] == [5, 10, 25, 20]
    result(inr("merge", "left.safetensors", "right.safetensors", "merged.safetensors", "--json"))
    with torch.no_grad():
        everywhere = whole.spec.coords(torch.arange(whole.spec.size))
        assert torch.equal(inr_scenes.open("merged.safetensors")(everywhere), whole(everywhere))
    inr("export", "part.safetensors", "part.png")
    assert Image.open("part.png").size == (10, 20)


@pytest.mark.parametrize("file, read", [("photo.png", "whole"), ("right.png", "new")])
def test_extend_leaves_the_old_region_alone(inr, photo, file, read):
    result(inr("fit", "lg-siren", "left.png", "-o", "run", "--steps", "300", "--lr", "3e-3", "--partitions", "3", "2",
               "--local-features", "8", "--global-features", "12", "--hidden-layers", "1", "--json"))
    status, out, err = inr("extend", "run", file, "big.safetensors", "--side", "right", "--steps", "300",
                           "--lr", "3e-3", "--json")
    assert status == 0, err
    assert f"hold the {read}" in err
    facts = json.loads(out)
    assert facts["shape"] == [30, 40, 3] and facts["metrics"]["psnr_new"] > 25
    old, big = inr_scenes.open("run"), inr_scenes.open("big.safetensors")
    coords = old.spec.coords(torch.arange(old.spec.size))
    with torch.no_grad():
        assert torch.equal(old(coords), big(coords))


@pytest.mark.parametrize("begun, side, box", [("left.png", "right", (2, 15, 28, 30)),
                                              ("right.png", "left", (2, -12, 9, 9))])
def test_a_crop_of_an_extension_is_measured_against_the_whole(inr, photo, begun, side, box):
    result(inr("fit", "lg-siren", begun, "-o", "run", "--steps", "30", "--partitions", "3", "2", *LOCAL[3:], "--json"))
    result(inr("extend", "run", "photo.png", "big.safetensors", "--side", side, "--contains", "whole", "--steps", "30",
               "--json"))
    result(inr("crop", "big.safetensors", "crop.safetensors", "--box", *box, "--json"))
    shift = 20 if side == "left" else 0
    Image.fromarray(photo[box[0]:box[2], box[1] + shift:box[3] + shift]).save("part.png")
    of_whole, of_part = (result(inr("eval", "crop.safetensors", file, "--json"))["metrics"]["psnr"]
                         for file in ("photo.png", "part.png"))
    assert of_whole == pytest.approx(of_part, abs=1e-6)


def test_a_crop_of_a_published_fit_is_measured_by_any_file_of_the_whole(inr, photo):
    result(inr("fit", "lg-siren", "photo.png", "-o", "run", "--preset", "published", "--steps", "2", *LOCAL, "--json"))
    result(inr("crop", "run", "crop.safetensors", "--box", "10", "20", "30", "40", "--json"))
    Image.fromarray(photo).save("copy.png")                     # of another name: nothing is known of its grid
    of_copy, of_original = (result(inr("eval", "crop.safetensors", file, "--json"))["metrics"]["psnr"]
                            for file in ("copy.png", "photo.png"))
    assert of_copy == of_original


def test_parts_are_written_to_a_home_folder_that_the_shell_left_alone(inr, photo, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    result(inr("fit", "lg-siren", "left.png", "-o", "run", "--steps", "2", *LOCAL, "--json"))
    facts = [result(inr(*words, "--json")) for words in (
        ("crop", "run", "~/a.safetensors", "--box", "0", "0", "30", "10"),
        ("crop", "run", "~/b.safetensors", "--box", "0", "10", "30", "20"),
        ("merge", "~/a.safetensors", "~/b.safetensors", "~/c.safetensors"),
        ("extend", "~/c.safetensors", "right.png", "~/d.safetensors", "--steps", "2", "--contains", "new"))]
    assert [fact["output"] for fact in facts] == [str(tmp_path / "home" / f"{name}.safetensors") for name in "abcd"]


def test_a_crop_is_measured_against_the_whole_and_keeps_its_precision(inr, photo):
    result(inr("fit", "lg-siren", "photo.png", "-o", "run", "--steps", "60", "--dtype", "float16", *LOCAL, "--json"))
    crop = result(inr("crop", "run", "crop.safetensors", "--box", "10", "20", "30", "40", "--json"))
    assert crop["kept"] < 0.7 and archive_header("crop.safetensors")["dtype"] == "float16"
    Image.fromarray(photo[10:30, 20:40]).save("part.png")
    of_whole, of_part = (result(inr("eval", "crop.safetensors", file, "--json"))["metrics"]["psnr"]
                         for file in ("photo.png", "part.png"))
    assert of_whole == pytest.approx(of_part, abs=1e-6)
    Image.fromarray(photo[:, :39]).save("other.png")
    status, _, err = inr("eval", "crop.safetensors", "other.png")
    assert status == 1 and "the archive holds 20 × 20" in err


def test_an_interrupted_extension_keeps_what_it_learned(inr, photo, monkeypatch):
    result(inr("fit", "lg-siren", "left.png", "-o", "run", "--steps", "5", *LOCAL, "--json"))
    from inr_scenes import track
    real = track.bar

    def interrupting(taken, *rest):
        for step in real(taken, *rest):
            if step.step == 3:
                os.kill(os.getpid(), signal.SIGINT)
            yield step

    monkeypatch.setattr(track, "bar", interrupting)
    status, _, err = inr("extend", "run", "right.png", "big.safetensors", "--side", "right", "--steps", "100000")
    assert status == 130 and "stopped at step 3" in err and archive_header("big.safetensors")["fit"]["step"] == 3


def test_only_what_goes_on_is_joined(inr, tmp_path):
    tone = np.sin(np.arange(800) / 9).astype(np.float32)
    soundfile.write("old.wav", 0.03 * tone, 8000)
    soundfile.write("other.wav", 0.03 * tone, 16000)
    rng = np.random.default_rng(0)
    soundfile.write("new.wav", 0.03 * rng.uniform(-1, 1, 900), 8000)
    result(inr("fit", "lg-siren", "old.wav", "-o", "run", "--steps", "5", "--partitions", "4", "--local-features", "8",
               "--global-features", "8", "--hidden-layers", "1", "--json"))
    status, _, err = inr("extend", "run", "other.wav", "big.safetensors", "--side", "after", "--steps", "2")
    assert status == 1 and "sample rate is 16000" in err
    status, out, err = inr("extend", "run", "new.wav", "big.safetensors", "--side", "after", "--steps", "2", "--json")
    assert status == 0 and "the new part alone" in err          # quiet, longer, and nothing that the field knows
    facts = json.loads(out)
    assert facts["shape"] == [1700, 1] and set(facts["metrics"]) == {"psnr_new", "snr_new"}


def test_a_mesh_grows_in_the_world(inr, tmp_path):
    mesh = trimesh.creation.box((1.0, 1.0, 1.0))
    mesh.export("small.ply")
    longer = trimesh.creation.box((1.6, 1.0, 1.0))
    longer.apply_translation((0.3, 0, 0))                   # the same low end, 0.6 further up
    longer.export("long.ply")
    result(inr("fit", "lg-siren", "small.ply", "-o", "run", "--resolution", "24", "--steps", "40", "--partitions", "2",
               "2", "2", "--local-features", "12", "--global-features", "12", "--hidden-layers", "1", "--json"))
    facts = result(inr("extend", "run", "long.ply", "big.safetensors", "--side", "+x", "--steps", "800", "--json"))
    old, big = inr_scenes.open("run"), inr_scenes.open("big.safetensors")
    assert big.spec.frame == old.spec.frame and facts["shape"][:2] == [24, 24] and facts["shape"][2] > 36
    assert facts["metrics"]["iou_new"] > 0.85
    inside = torch.tensor([[0.9, 0.0, 0.0], [0.9, 0.53, 0.0]], dtype=torch.float64)
    assert big.inside(inside).tolist() == [True, False]


def test_a_mesh_that_reaches_beyond_other_sides_is_told():
    spec = small_signal("shape").spec.replace(frame=Frame.of((0, 0, 0), 1.0))
    with pytest.warns(UserWarning, match=r"on side \+y, -z: what lies there is left out"):
        larger, _ = around_mesh(spec, "+x", [[-0.5, -0.5, -1.5], [2.0, 1.5, 0.5]])
    assert larger.shape[:2] == spec.shape[:2] and larger.shape[2] > spec.shape[2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        around_mesh(spec, "+x", [[-1.0, -1.0, -1.0], [2.0, 1.0, 1.0]])


def test_sides():
    spec = small_signal("image").spec
    larger, box = grown(spec, "above", 5)
    assert larger.box == ((-5, 24), (0, 20)) and box == ((-5, 0), (0, 20))
    assert torch.equal(larger.cropped(spec.box).coords(torch.arange(9)), spec.coords(torch.arange(9)))
    with pytest.raises(InrError, match="Did you mean right"):
        side_of(spec, "rigth")


def test_what_cannot_be(inr, photo):
    inr("fit", "siren", "photo.png", "-o", "plain", "--steps", "1", "--hidden-features", "8")
    for arguments, message in ((("crop", "plain", "x.safetensors", "--box", "0", "0", "9", "9"), "lg- fields"),
                               (("crop", "plain", "x.safetensors"), "say what to keep"),
                               (("crop", "plain", "x.safetensors", "--box", "50", "0", "60", "9"), "holds no sample"),
                               (("extend", "plain", "photo.png", "x.safetensors", "--side", "after"), "no side")):
        status, _, err = inr(*arguments)
        assert status == 1 and message in err, err
