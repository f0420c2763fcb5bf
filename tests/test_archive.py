import json
import os
import struct

import pytest
import torch

import inr_scenes as inr
from inr_scenes.errors import InrError
from inr_scenes.field import build
from inr_scenes.siren import Siren
from inr_scenes.testing import small_signal


@pytest.fixture
def field():
    return build(Siren, small_signal("image").spec, {"hidden_features": 32, "hidden_layers": 1}, seed=0).eval()


@pytest.fixture
def archive(field, tmp_path):
    return inr.save(field, tmp_path / "a.safetensors", metrics={"psnr": 31.5})


def rewrite(path, change):
    """Change an archive's JSON header in place, keeping the file consistent otherwise."""
    raw = path.read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    head = json.loads(raw[8:8 + n])
    ours = json.loads(head["__metadata__"]["inr_scenes"])
    change(ours)
    head["__metadata__"]["inr_scenes"] = json.dumps(ours)
    new = json.dumps(head).encode()
    new += b" " * (-len(new) % 8)
    path.write_bytes(struct.pack("<Q", len(new)) + new + raw[8 + n:])


def test_round_trip_is_exact(field, archive):
    again = inr.open(archive)
    coords = torch.rand(100, 2) * 2 - 1
    with torch.no_grad():
        assert torch.equal(field(coords), again(coords))
    assert again.spec == field.spec and again.config == field.config


def test_header_needs_no_torch(archive, tmp_path):
    import subprocess
    import sys
    code = (f"import sys; from inr_scenes.archive import header; h = header({str(archive)!r}); "
            "assert 'torch' not in sys.modules; print(h['parameters'], h['metrics']['psnr'])")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["1251", "31.5"]


def test_half_precision_halves_the_weights(field, archive, tmp_path):
    half = inr.save(field, tmp_path / "h.safetensors", dtype="float16")
    weights = 4 * field.parameter_count
    assert abs(archive.stat().st_size - half.stat().st_size - weights // 2) < 64
    coords = torch.rand(100, 2)
    with torch.no_grad():
        assert (inr.open(half)(coords) - field(coords)).abs().max() < 0.02


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_truncated(archive, cut):
    raw = archive.read_bytes()
    archive.write_bytes(raw[:cut])
    with pytest.raises(InrError, match="truncated|empty"):
        inr.open(archive)


def test_tampered_tensors(archive):
    raw = archive.read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    for change, message in ((lambda t: t.pop("shape"), "not readable"), (lambda t: t.update(shape=[3, 1]), "shape")):
        head = json.loads(raw[8:8 + n])
        change(head["field.output.weight"])
        new = json.dumps(head).encode()
        archive.write_bytes(struct.pack("<Q", len(new)) + new + raw[8 + n:])
        with pytest.raises(InrError, match=message):
            inr.open(archive)


def test_foreign_files(tmp_path):
    from safetensors.torch import save_file
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(InrError, match="not one of inr_scenes"):
        inr.open(path)
    path.write_text("hello, this is a text file that is no archive")
    with pytest.raises(InrError, match="no archive"):
        inr.open(path)


@pytest.mark.parametrize("change, message", [
    (lambda h: h.update(format=99), "Upgrade"),
    (lambda h: h.update(field="sirn"), "Did you mean siren"),
    (lambda h: h["config"].update(hidden_features=64), "shape"),
    (lambda h: h["config"].update(hidden_features=10**12), "cannot be"),
    (lambda h: h["config"].update(hidden_layers=3000), "shape"),
    (lambda h: h["config"].update(hidden_features="wide"), "should be int"),
    (lambda h: h["config"].update(colour=1), "no setting"),
    (lambda h: h["spec"].update(out_features=2**50), "spec does not make sense"),
    (lambda h: h["spec"].pop("axes"), "lacks"),
    (lambda h: h["spec"].update(frame=[[1, 0], [0, 1]]), "frame is singular"),
    (lambda h: h.update(parameters=7), "7 parameters"),
    (lambda h: h.pop("parameters"), "lacks"),
])
def test_tampered_header(archive, change, message):
    rewrite(archive, change)
    with pytest.raises(InrError, match=message) as error:
        inr.open(archive)
    assert len(str(error.value).splitlines()) == 1


def test_failed_write_leaves_the_old_file(field, archive, monkeypatch):
    before = archive.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InrError, match="disk is full"):
        inr.save(field, archive)
    assert archive.read_bytes() == before
    assert [p.name for p in archive.parent.iterdir()] == [archive.name]
