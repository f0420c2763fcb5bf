"""The command line as its users meet it."""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inr_scenes.archive import header
from inr_scenes.signals.shape import ShapeSignal
from inr_scenes.signals.voxels import write_grid

SMALL = ("--hidden-features", "24", "--hidden-layers", "1")


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    y, x = np.mgrid[0:24, 0:36]
    Image.fromarray(np.stack([x * 7, y * 10, 120 + 0 * x], -1).astype(np.uint8)).save(path)
    return path


def one_object(out: str) -> dict:
    lines = out.strip().splitlines()
    assert len(lines) == 1, out
    return json.loads(lines[0])


def test_fit_info_export_eval(inr, photo, tmp_path):
    status, out, err = inr("fit", "siren", photo, "-o", "run", "--steps", "600", "--lr", "5e-3",
                           "--optimizer", "adam", "--first-omega-0", "10", *SMALL, "--json")
    assert status == 0, err
    result = one_object(out)
    assert result["field"] == "siren" and result["steps"] == 600 and result["metrics"]["psnr"] > 30
    assert result["bytes"] == (tmp_path / "run" / "field.safetensors").stat().st_size
    files = {"field.safetensors", "config.toml", "metrics.jsonl", "state.pt"}
    assert {p.name for p in (tmp_path / "run").iterdir()} == files
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 600 and lines[-1]["psnr"] > 30

    info = one_object(inr("info", "run", "--json")[1])
    assert info["kind"] == "image" and info["shape"] == [24, 36, 3] and info["parameters"] == result["parameters"]
    assert info["bits_per_value"] == pytest.approx(8 * info["bytes"] / (24 * 36 * 3))

    exported = one_object(inr("export", "run", "out.png", "--scale", "2", "--json")[1])
    assert exported["output"] == "out.png" and Image.open("out.png").size == (72, 48)
    inr("export", "run", "same.png")
    again = np.asarray(Image.open("same.png"), dtype=float)
    assert 10 * np.log10(255**2 / ((again - np.asarray(Image.open(photo))) ** 2).mean()) > 29
    inr("export", "run", "part.png", "--box", "4", "6", "20", "30")
    assert np.array_equal(np.asarray(Image.open("part.png")), np.asarray(Image.open("same.png"))[4:20, 6:30])

    measured = one_object(inr("eval", "run", photo, "--json", "--sheet", "sheet.png")[1])
    assert measured["metrics"]["psnr"] == pytest.approx(result["metrics"]["psnr"], abs=1e-3)
    assert Image.open("sheet.png").size == (3 * (36 + 4), 24 + 4)


def test_warnings_are_lines_without_a_place(inr, monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)      # put back afterwards
    assert inr("plugins")[0] == 0
    assert warnings.formatwarning("The loss stays high.", UserWarning, "fit.py", 9) == "warning: The loss stays high.\n"


def test_flags_in_any_order(inr, photo):
    status, out, err = inr("fit", "--steps", "2", "siren", "--json", photo, "-o", "run", *SMALL)
    assert status == 0, err
    assert one_object(out)["steps"] == 2


@pytest.mark.parametrize("order", [
    ("siren", "photo.png", "--size", "16", "20"), ("siren", "--size", "16", "20", "photo.png"),
    ("--size", "16", "20", "siren", "photo.png"), ("photo.png", "--size", "16", "20", "siren", "--sheet"),
])
def test_flags_of_several_numbers_stand_anywhere(inr, photo, order):
    status, _out, err = inr("fit", *order, "-o", "siren", "--steps", "1", "--json", *SMALL)
    assert status == 0, err
    assert header("siren")["spec"]["axes"][0]["count"] == 16
    status, _, err = inr("export", "--box", "0", "0", "4", "6", "siren", "out.png")
    assert status == 0 and Image.open("out.png").size == (6, 4), err


def test_settings_with_a_slip_are_refused(inr, photo, tmp_path):
    for text, message in (("[fit]\nstepz = 3", "Did you mean steps"), ("[fitt]\nsteps = 3", "Did you mean fit"),
                          ('[fit]\nlr = "1e-3"', "lr = '1e-3' should be float"),
                          ("[model]\nhidden_layers = 2.0", "hidden_layers = 2.0 should be int")):
        (tmp_path / "x.toml").write_text(text)
        status, _, err = inr("fit", "siren", photo, "--config", "x.toml", *SMALL)
        assert status == 1 and message in err and not (tmp_path / "runs").exists()


def test_resume_takes_the_run_s_own_settings(inr, photo, tmp_path):
    assert inr("fit", "siren", photo, "--steps", "4", *SMALL)[0] == 0
    status, out, err = inr("fit", "siren", photo, "--resume", "--steps", "6", "--json")
    assert status == 0 and one_object(out)["steps"] == 6, err
    status, _, err = inr("fit", "siren", photo, "--resume", "--steps", "8", "--hidden-features", "32")
    assert status == 1 and "other settings" in err


def test_a_signal_that_is_another_by_now_is_not_resumed_on(inr, photo, tmp_path):
    assert inr("fit", "siren", photo, "--steps", "4", "-o", "run", *SMALL)[0] == 0
    before = (tmp_path / "run" / "field.safetensors").read_bytes()
    with Image.open(photo) as image:
        image.resize((image.width + 1, image.height)).save(photo)
    for steps in ("4", "6"):                # a run that has ended would be written anew with the new picture's spec
        status, _, err = inr("fit", "--resume", "-o", "run", "--steps", steps)
        assert status == 1 and "lie elsewhere" in err and len(err.strip().splitlines()) == 1
    assert (tmp_path / "run" / "field.safetensors").read_bytes() == before


def test_a_run_that_ends_by_its_seconds_resumes_by_them(inr, photo, tmp_path):
    for flags in ((), ("-o", "run")):
        assert inr("fit", "siren", photo, "--seconds", "0.3", *flags, *SMALL)[0] == 0
        folder = tmp_path / (flags[1] if flags else "runs/photo-siren")
        name = () if flags else ("siren", photo)
        status, out, err = inr("fit", *name, "--resume", "--seconds", "0.6", *flags, "--json")
        assert status == 0 and 0.6 <= one_object(out)["seconds"] < 2, err
        status, out, err = inr("fit", "--config", folder / "config.toml", "-o", "again", "--overwrite", "--json")
        assert status == 0 and one_object(out)["seconds"] >= 0.6, err
        for run in (folder, tmp_path / "again"):        # the recipe's steps do not end what had none
            assert "steps" not in tomllib.loads((run / "config.toml").read_text())["fit"]


def test_memory_that_runs_out_is_one_line(inr, photo, monkeypatch):
    from inr_scenes.signals.image import ImageSignal

    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80 GiB.")

    monkeypatch.setattr(ImageSignal, "load", fail)
    status, _, err = inr("fit", "siren", photo)
    assert status == 1 and "out of memory" in err and len(err.strip().splitlines()) == 1


def test_solve_resumes_and_says_how(inr, photo, tmp_path):
    words = ("solve", "superres", "siren", photo, "--factor", "2", "-o", "run", *SMALL)
    assert inr(*words, "--steps", "4")[0] == 0
    status, out, err = inr("solve", "--resume", "-o", "run", "--steps", "6", "--json")
    assert status == 0 and one_object(out)["steps"] == 6 and one_object(out)["problem"] == "superres", err
    again = subprocess.Popen([sys.executable, "-m", "inr_scenes", "solve", "--config", "run/config.toml", "-o", "again",
                              "--steps", "1000000", "--save-every", "0.1"], cwd=tmp_path, text=True,
                             stderr=subprocess.PIPE)
    wait_for(tmp_path / "again" / "state.pt")
    again.send_signal(signal.SIGINT)
    assert "inr solve --resume -o again" in again.communicate(timeout=60)[1]


def test_a_full_disk_does_not_end_a_fit(inr, photo, tmp_path, monkeypatch):
    from inr_scenes.cli.run import Run
    from inr_scenes.errors import InrError

    def full(self, state):
        raise InrError("The disk is full.")

    monkeypatch.setattr(Run, "save_state", full)
    status, _, err = inr("fit", "siren", photo, "-o", "run", "--steps", "30", "--save-every", "0.001", *SMALL)
    assert status == 0 and (tmp_path / "run" / "field.safetensors").is_file() and err.count("The fit goes on") == 1


def test_eval_reads_the_signal_as_the_fit_did(inr, photo):
    fitted = one_object(inr("fit", "siren", photo, "-o", "run", "--steps", "20", "--size", "12", "18", "--mode", "grey",
                            *SMALL, "--json")[1])
    measured = one_object(inr("eval", "run", photo, "--json")[1])
    assert measured["metrics"]["psnr"] == pytest.approx(fitted["metrics"]["psnr"], abs=1e-3)


def test_config_repeats_a_run(inr, photo):
    inr("fit", "siren", photo, "-o", "a", "--steps", "5", "--seed", "3", *SMALL)
    status, _, err = inr("fit", "--config", "a/config.toml", "-o", "b")
    assert status == 0, err
    from safetensors.torch import load_file
    a, b = load_file("a/field.safetensors"), load_file("b/field.safetensors")
    assert all(torch.equal(a[k], b[k]) for k in a)
    status, out, _ = inr("fit", "--config", "a/config.toml", "-o", "c", "--steps", "7", "--json")
    assert one_object(out)["steps"] == 7


@pytest.mark.parametrize("words", [("fit", "siren", "grid.npy", "--preset", "published"),
                                   ("fit", "siren", "grid.npz"),
                                   ("solve", "poisson", "siren", "photo.png", "--preset", "published"),
                                   ("solve", "superres", "siren", "photo.png", "--grid", "ends")], ids=" ".join)
def test_a_resumed_run_s_samples_are_where_they_were(inr, photo, words):
    voxels = np.zeros((6, 8, 10), bool)
    voxels[2:4, 2:6, 3:8] = True
    np.save("grid.npy", voxels)
    spec = ShapeSignal.from_array(voxels).regrid("ends").spec
    write_grid(Path("grid.npz"), voxels.astype(np.uint8), spec)
    status, _, err = inr(*words, "-o", "run", "--steps", "1", "--batch", "64", *SMALL)
    assert status == 0, err
    begun = header("run")["spec"]
    assert begun["meta"]["grid"] == ("centers" if "poisson" in words else "ends")
    assert words[2] != "grid.npz" or begun == spec.to_json()
    status, _, err = inr(words[0], "--resume", "-o", "run", "--steps", "2")
    assert status == 0 and header("run")["spec"] == begun, err


def test_two_pictures_are_read_alike_before_they_are_composed(inr, photo):
    Image.open(photo).resize((30, 50)).convert("L").save("other.png")
    words = ("solve", "poisson", "siren", photo, "--other", "other.png", "--steps", "1", *SMALL)
    status, _, err = inr(*words, "-o", "run", "--size", "12", "18", "--mode", "rgb")
    assert status == 0, err
    status, _, err = inr(*words, "-o", "other", "--mode", "rgb")
    assert status == 1 and "they must agree" in err


def test_a_switch_that_is_turned_off_goes_before_the_fit_s(inr, tmp_path):
    soundfile = pytest.importorskip("soundfile")
    soundfile.write("a.wav", np.sin(np.arange(800)[:, None] / [9, 7]) / 2, 8000)
    assert inr("fit", "siren", "a.wav", "-o", "run", "--mono", "--steps", "1", *SMALL)[0] == 0
    assert inr("eval", "run", "a.wav")[0] == 0
    status, _, err = inr("eval", "run", "a.wav", "--no-mono")
    assert status == 1 and "of 2 channels" in err


def test_a_home_folder_that_the_shell_left_alone(inr, photo, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    inr("fit", "siren", photo, "-o", "run", "--steps", "1", *SMALL)
    out = one_object(inr("export", "run", "~/out.png", "--json")[1])
    assert out["output"] == str(tmp_path / "home" / "out.png") and out["bytes"] == os.path.getsize(out["output"])
    import inr_scenes
    assert inr_scenes.export(inr_scenes.open("run"), "~/again.png").is_file()


def test_published_preset(inr, photo):
    inr("fit", "siren", photo, "-o", "run", "--preset", "published", "--steps", "1")
    head = header("run")
    assert head["config"]["hidden_features"] == 256 and head["parameters"] == 198_915
    assert head["spec"]["axes"][0]["start"] == -1.0          # a grid that includes both ends
    assert "lr = 0.0001" in open("run/config.toml").read()


def test_half_precision_archive(inr, photo):
    inr("fit", "siren", photo, "-o", "full", "--steps", "1")
    inr("fit", "siren", photo, "-o", "half", "--steps", "1", "--dtype", "float16")
    assert header("half")["bytes"] < 0.52 * header("full")["bytes"]


def test_pictures_in_half_precision(inr, photo, monkeypatch):
    inr("fit", "siren", photo, "-o", "run", "--steps", "20")
    monkeypatch.setattr("inr_scenes.device.quick_half", lambda device: torch.bfloat16)
    pictures = {}
    for precision in ("32", "auto", "bf16"):
        assert inr("export", "run", f"{precision}.png", "--precision", precision)[0] == 0
        pictures[precision] = np.asarray(Image.open(f"{precision}.png")).astype(int)
    apart = np.abs(pictures["32"] - pictures["auto"])
    assert (pictures["auto"] == pictures["bf16"]).all() and 0 < apart.max() <= 4
    status, _, err = inr("export", "run", "out.png", "--precision", "half")
    assert status == 1 and "Known: auto, 32, bf16, fp16" in err


@pytest.mark.parametrize("arguments, message", [
    (("fit", "siren", "missing.png"), "does not exist"),
    (("fit", "sirn", "photo.png"), "Did you mean siren?"),
    (("fit", "siren"), "name a signal"),
    (("fit", "siren", "photo.png", "--preset", "fats"), "Did you mean fast?"),
    (("fit", "siren", "photo.png", "--optimizer", "adamm"), "Did you mean adam"),
    (("fit", "siren", "photo.png", "--until", "psnr"), "metric=value"),
    (("fit", "siren", "photo.png", "--resume"), "no state.pt"),
    (("fit", "siren", "photo.png", "--device", "cuda:7"), "--device cpu"),
    (("fit", "siren", "photo.png", "--track", "wandb"), "not known"),
    (("fit", "siren", "photo.png", "--warmup", "-1"), "must be 0 or more"),
    (("fit", "siren", "photo.png", "--clip", "-1"), "must be 0 or more"),
    (("fit", "siren", "photo.png", "--hidden-features", "0"), "at least 1"),
    (("fit", "siren", "photo.png", "--omega-0", "0"), "above 0"),
    (("fit", "siren", "photo.png", "--until", "iou=0.9"), "reports psnr"),
    (("info", "photo.png"), "no archive"),
    (("export", "photo.png", "out.png"), "no archive"),
    (("data", "get", "kodac"), "Did you mean kodak?"),
])
def test_mendable_errors(inr, photo, tmp_path, arguments, message):
    before = sorted(os.listdir(tmp_path))
    status, out, err = inr(*arguments)
    assert status == 1 and message in err and out == ""
    assert len(err.strip().splitlines()) <= 2 and "Traceback" not in err
    assert sorted(os.listdir(tmp_path)) == before, "a refused run must leave nothing behind"


def test_usage_errors(inr, photo):
    status, _, err = inr("fit", "siren", photo, "--stepz", "3")
    assert status == 2 and "steps" in err
    assert inr("fti")[0] == 2
    assert inr()[0] == 2
    assert inr("--help")[0] == 0


def test_a_run_is_not_overwritten(inr, photo):
    assert inr("fit", "siren", photo, "-o", "run", "--steps", "1", *SMALL)[0] == 0
    status, _, err = inr("fit", "siren", photo, "-o", "run", "--steps", "1", *SMALL)
    assert status == 1 and "--overwrite" in err
    assert inr("fit", "siren", photo, "-o", "run", "--steps", "1", "--overwrite", *SMALL)[0] == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder_by_permission(inr, photo, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    status, _, err = inr("fit", "siren", photo, "-o", locked / "run", "--steps", "1")
    assert status == 1 and "cannot be written" in err


def test_unwritable_output(inr, photo, tmp_path):
    (tmp_path / "file").write_text("in the way")
    status, _, err = inr("fit", "siren", photo, "-o", "file/run", "--steps", "1", *SMALL)
    assert status == 1 and "cannot be written" in err and len(err.splitlines()) == 1
    inr("fit", "siren", photo, "-o", "run", "--steps", "1", *SMALL)
    status, _, err = inr("export", "run", "file/out.png")
    assert status == 1 and "cannot be written" in err


def test_full_disk(inr, photo, tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    inr("fit", "siren", photo, "-o", "run", "--steps", "1", *SMALL)
    import inr_scenes.files as files
    real = os.replace

    def full(*a):
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"x")

    files.os.replace = full
    try:
        status, _, err = inr("export", "run", "out.png")
    finally:
        files.os.replace = real
    assert status == 1 and "disk is full" in err
    assert not any(p.name.startswith((".out", "out")) for p in tmp_path.iterdir())


def start(photo, folder, cwd, *more):
    words = ("fit", "siren", str(photo), "-o", folder, "--steps", "3000", "--batch", "500", "--save-every", "0.1")
    return subprocess.Popen([sys.executable, "-m", "inr_scenes", *words, *SMALL, *more], cwd=cwd, text=True,
                            stderr=subprocess.PIPE, stdout=subprocess.PIPE)


def wait_for(path, seconds=60):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.05)


def test_killed_run_resumes_to_the_same_result(inr, photo, tmp_path):
    whole = start(photo, "whole", tmp_path)
    killed = start(photo, "killed", tmp_path)
    wait_for(tmp_path / "killed" / "state.pt")
    time.sleep(0.3)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / "field.safetensors").exists()
    status, out, err = inr("fit", "siren", photo, "-o", "killed", "--resume", "--json")
    assert status == 0, err
    assert one_object(out)["steps"] == 3000
    assert whole.wait() == 0
    from safetensors.torch import load_file
    a, b = load_file(tmp_path / "whole/field.safetensors"), load_file(tmp_path / "killed/field.safetensors")
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_saves(inr, photo, tmp_path, number):
    process = start(photo, "run", tmp_path, "--steps", "1000000")
    wait_for(tmp_path / "run" / "state.pt")
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "--resume" in err and "Traceback" not in err
    assert header(tmp_path / "run")["fit"]["step"] > 0


def test_list_plugins_doctor(inr):
    shown = one_object(inr("list", "--json")[1])
    assert "siren" in shown["fields"] and {"image", "video", "audio", "shape", "lightfield"} <= set(shown["signals"])
    assert "inr-scenes" in json.dumps(one_object(inr("plugins", "--json")[1]))
    checks = one_object(inr("doctor", "--json")[1])["checks"]
    assert checks["torch"].startswith("ok") and checks["video"].startswith("ok")


def test_field_help_shows_what_applies(inr):
    status, out, _ = inr("fit", "siren", "--help")
    assert status == 0 and "--first-omega-0" in out and "--until" in out


def test_data(inr, tmp_path, monkeypatch):
    import hashlib

    from inr_scenes import catalog
    good = b"some bytes"
    entry = {"set": {"licence": "none", "files": [
        {"path": "a.bin", "url": "http://127.0.0.1:9/a.bin", "sha256": hashlib.sha256(good).hexdigest(), "bytes": 10}]}}
    monkeypatch.setattr(catalog, "catalog", lambda: entry)
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "a.bin").write_bytes(good)
    monkeypatch.setenv("INR_DATA_MIRROR", str(tmp_path / "mirror"))
    status, _, err = inr("data", "get", "set", "-o", "here")
    assert status == 0, err
    assert (tmp_path / "here" / "a.bin").read_bytes() == good
    (tmp_path / "mirror" / "a.bin").write_bytes(b"tampered!!")
    (tmp_path / "here" / "a.bin").unlink()
    status, _, err = inr("data", "get", "set", "-o", "here")
    assert status == 1 and "checksum" in err and not (tmp_path / "here" / "a.bin").exists()


def test_data_from_a_server(inr, tmp_path, monkeypatch):
    import hashlib
    import http.server
    import threading

    from inr_scenes import catalog

    served = tmp_path / "served"
    served.mkdir()
    (served / "a.bin").write_bytes(b"served bytes")
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *a: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: handler(*a, directory=str(served)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    right, wrong = hashlib.sha256(b"served bytes").hexdigest(), "0" * 64
    monkeypatch.setattr(catalog, "catalog", lambda: {
        name: {"licence": "none", "files": [{"path": path, "url": f"{url}/{path}", "sha256": digest, "bytes": 12}]}
        for name, path, digest in (("good", "a.bin", right), ("bad", "a.bin", wrong), ("gone", "b.bin", right))})
    try:
        assert inr("data", "get", "good", "-o", "here")[0] == 0
        assert (tmp_path / "here" / "a.bin").read_bytes() == b"served bytes"
        for name, message in (("bad", "refused"), ("gone", "could not be fetched")):
            status, _, err = inr("data", "get", name, "-o", name)
            assert status == 1 and message in err and not (tmp_path / name / "a.bin").exists()
    finally:
        server.shutdown()


def test_catalogue_is_complete():
    from inr_scenes.catalog import catalog
    entries = catalog()
    assert len(entries["kodak"]["files"]) == 24 and len(entries["fox"]["files"]) == 51
    for entry in entries.values():
        assert entry["licence"]
        for file in entry["files"]:
            assert len(file["sha256"]) == 64 and file["url"].startswith("https://") and file["bytes"] > 0
