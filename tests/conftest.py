"""Shared by all tests: few threads, real data where it is, and small fields."""

import os
from pathlib import Path

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
