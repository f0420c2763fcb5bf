"""Every kind of signal through the command line: fit, eval with its metrics and sheet, export with its options."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

av = pytest.importorskip("av")
soundfile = pytest.importorskip("soundfile")

SMALL = ("--steps", "3", "--hidden-features", "16", "--hidden-layers", "1", "--json")
WANTED = {
    "audio": {"psnr", "snr"}, "video": {"psnr", "ssim"}, "lightfield": {"psnr", "psnr_test"},
    "shape": {"iou", "iou_fine", "chamfer", "normal_consistency"},
}


@pytest.fixture
def sample(tmp_path, samples):
    """A folder of samples by kind, copied where the tests may write."""
    found = {"audio": "audio/chord.wav", "video": next((samples / "video").glob("*.mp4")), "shape": "shape/knot.ply",
             "lightfield": "lightfield"}
    return {kind: shutil.copytree(samples / path, tmp_path / kind) if (samples / path).is_dir() else
            shutil.copy(samples / path, tmp_path) for kind, path in found.items()}


def result(outcome) -> dict:
    status, out, err = outcome
    assert status == 0, err
    return json.loads(out)


@pytest.mark.parametrize("kind, extra", [("audio", ("--seconds-long", "0.2")), ("video", ("--size", "20", "24")),
                                         ("shape", ("--resolution", "20")), ("lightfield", ("--size", "16", "16"))])
def test_eval_measures_what_the_kind_is_judged_by(inr, sample, kind, extra):
    fitted = result(inr("fit", "siren", sample[kind], "-o", "run", *extra, *SMALL))
    more = ("--mesh-resolution", "24") if kind == "shape" else ()
    measured = result(inr("eval", "run", sample[kind], "--sheet", "sheet.png", *more, "--json"))
    assert WANTED[kind] <= set(measured["metrics"])
    for name, value in fitted["metrics"].items():
        assert measured["metrics"][name] == pytest.approx(value, rel=1e-4), name
    sheet = np.asarray(Image.open("sheet.png"))
    assert sheet.shape[1] > 3 * sheet.shape[0] / 8 and sheet.std() > 5
    info = result(inr("info", "run", "--json"))
    assert info["bits_per_value"] > 0 and info["kind"] == kind


def test_seams_of_a_partitioned_field_are_measured(inr, tmp_path):
    pytest.importorskip("inr_local_global")
    y, x = np.mgrid[0:24, 0:32]
    Image.fromarray(((x * y) % 256).astype(np.uint8)).save("photo.png")
    result(inr("fit", "lg-siren", "photo.png", "-o", "run", "--steps", "3", "--partitions", "2", "3",
               "--local-features", "8", "--global-features", "8", "--json"))
    metrics = result(inr("eval", "run", "photo.png", "--json"))["metrics"]
    assert {name for name in metrics if "seam" in name}


def test_video_at_another_size_and_rate(inr, sample):
    result(inr("fit", "siren", sample["video"], "-o", "run", "--frames", "6", "--size", "24", "32", *SMALL))
    result(inr("export", "run", "film.mp4", "--size", "32", "48", "--fps", "48", "--json"))
    with av.open("film.mp4") as film:
        stream = film.streams.video[0]
        count = sum(1 for _ in film.decode(video=0))
        original = json.loads(inr("info", "run", "--json")[1])["meta"]["fps"]
        assert (stream.height, stream.width) == (32, 48) and stream.average_rate == 48
        assert count == round(6 * 48 / original)
    result(inr("export", "run", "frame.png", "--frame", "2", "--box", "0", "4", "8", "6", "20", "32", "--json"))
    result(inr("export", "run", "all.npy", "--json"))
    values = np.load("all.npy")
    assert values.shape == (6, 24, 32, 3)
    shown = np.asarray(Image.open("frame.png"))
    assert shown.shape == (16, 24, 3)
    assert np.abs(shown / 255 - values[2, 4:20, 8:].clip(0, 1)).max() <= 0.5 / 255 + 1e-6


def test_sound_at_another_rate_and_of_an_excerpt(inr, sample):
    result(inr("fit", "siren", sample["audio"], "-o", "run", "--seconds-long", "0.5", *SMALL))
    rate = json.loads(inr("info", "run", "--json")[1])["meta"]["sample_rate"]
    result(inr("export", "run", "part.wav", "--box", "0.1", "0.3", "--rate", str(2 * rate), "--bits", "32", "--json"))
    part = soundfile.info("part.wav")
    assert part.samplerate == 2 * rate and part.frames == round(0.4 * rate) and part.subtype == "FLOAT"
    result(inr("export", "run", "same.npy", "--box", "0.1", "0.3", "--json"))
    result(inr("export", "run", "same.wav", "--box", "0.1", "0.3", "--bits", "24", "--json"))
    samples, _ = soundfile.read("same.wav", always_2d=True)
    assert np.abs(samples - np.load("same.npy")).max() < 2**-22


def test_a_shape_part_as_voxels(inr, sample):
    result(inr("fit", "siren", sample["shape"], "-o", "run", "--resolution", "20", *SMALL))
    result(inr("export", "run", "half.npz", "--resolution", "40", "--json"))
    with np.load("half.npz") as voxels:
        assert max(voxels[name].size for name in voxels.files) == 40**3


def test_a_camera_path_is_followed(inr, sample):
    result(inr("fit", "siren", sample["lightfield"], "-o", "run", "--size", "16", "16", *SMALL))
    pose = [1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3.0, 0, 0, 0, 1]
    with open("path.json", "w") as file:
        json.dump({"render_height": 12, "render_width": 18, "seconds": 1.0, "camera_path": [
            {"camera_to_world": pose, "fov": 40.0}] * 2}, file)
    assert result(inr("render", "run", "views", "--path", "path.json", "--json"))["frames"] == 2
    status, _, err = inr("render", "run", "more", "--path", "path.json", "--transforms", "none.json")
    assert status == 1 and "does not exist" in err


def test_progress_on_a_terminal_and_in_tensorboard(inr, sample, tmp_path):
    import os
    import pty
    import subprocess
    import sys

    shown, terminal = pty.openpty()
    done = subprocess.run([sys.executable, "-m", "inr_scenes", "fit", "siren", str(sample["audio"]), "-o", "run",
                           "--seconds-long", "0.1", "--track", "tensorboard", *SMALL], cwd=tmp_path, stderr=terminal,
                          stdout=subprocess.PIPE, env={**os.environ, "TERM": "xterm"})
    os.close(terminal)
    text = os.read(shown, 1 << 16).decode()
    assert done.returncode == 0 and "100 %" in text and "steps/s" in text and "psnr" in text
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))
