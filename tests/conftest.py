"""Shared by all tests: few threads, real data where it is, and small fields."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("INR_TEST_DATA", ROOT.parent / "shared" / "data"))

if "PYTEST_XDIST_WORKER" in os.environ:        # the workers share the cores
    torch.set_num_threads(1)


def data(name: str) -> Path:
    """Return a real file of the data folder beside the checkout, or skip the test where there is none."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not here")
    return path


@pytest.fixture
def real():
    return data


@pytest.fixture
def samples() -> Path:
    return ROOT / "datasets"


@pytest.fixture
def inr(capsys, monkeypatch, tmp_path):
    """Run the command line in this process: inr("fit", …) → (exit status, stdout, stderr)."""
    from inr_scenes.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = main([str(a) for a in arguments])
        except SystemExit as stop:
            status = stop.code
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture(scope="session")
def picture():
    """Make small pictures that are alike, (size, size, 3) uint8: picture(number, size)."""
    def make(i, size=16):
        y, x = np.mgrid[:size, :size] / size
        phase = i * 0.7
        waves = np.stack([np.sin(4 * x + phase), np.cos(5 * y * x + phase), np.sin(3 * y - phase)], -1)
        return (waves * 100 + 128).astype(np.uint8)
    return make


@pytest.fixture
def folder(tmp_path, picture):
    """A folder of ten small pictures."""
    from PIL import Image

    place = tmp_path / "pictures"
    place.mkdir()
    for i in range(10):
        Image.fromarray(picture(i)).save(place / f"{i:02}.png")
    return place


@pytest.fixture
def signals(folder, tmp_path):
    """The pictures of `folder` as a set."""
    from inr_scenes.dataset import open_set
    return open_set(folder, cache=tmp_path / "cache")


@pytest.fixture(scope="session")
def small():
    """Settings of a lainr that trains in a second."""
    return {"patch": 4, "width": 32, "blocks": 1, "heads": 2, "head_features": 16, "hidden_features": 32,
            "frequency_features": 24, "tokens": 8, "token_features": 16, "bandwidths": (8.0, 4.0),
            "query_bandwidth": 2.0}
