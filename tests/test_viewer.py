import importlib
import socket
import threading
import time
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from inr_scenes.camera import Cameras, look_at
from inr_scenes.errors import InrError
from inr_scenes.field import build
from inr_scenes.siren import Siren
from inr_scenes.testing import small_signal
from inr_scenes.viewer import browser_camera, look_target, view

SMALL = {"hidden_features": 16, "hidden_layers": 1}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_the_page_is_served():
    pytest.importorskip("viser")
    field = build(Siren, small_signal("lightfield").spec, SMALL, seed=0).eval()
    port = free_port()
    thread = threading.Thread(target=view, args=(field,), kwargs={"port": port, "seconds": 4.0})
    thread.start()
    status = None
    for _ in range(40):
        try:
            status = urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=1).status
            break
        except OSError:
            time.sleep(0.1)
    thread.join()
    assert status == 200


def test_a_browser_ends_at_its_newest_view_drawn_once(monkeypatch):
    """viser calls from many threads: one draws while the camera moves on twice and two more calls wait."""
    from inr_scenes.viewer import _follow
    field = build(Siren, small_signal("lightfield").spec, SMALL, seed=0)
    begun, go, drawn, calls, browsers = threading.Event(), threading.Event(), [], [], []

    def frames(_, camera):
        begun.set()
        assert go.wait(10)
        yield float(camera.poses[0, 0, 3])

    monkeypatch.setattr(importlib.import_module("inr_scenes.render"), "frames", frames)
    camera = SimpleNamespace(wxyz=(1.0, 0, 0, 0), fov=1.0, aspect=1.0, on_update=calls.append)
    scene = SimpleNamespace(set_background_image=lambda image, format: drawn.append(image))
    _follow(SimpleNamespace(on_client_connect=browsers.append), field, 8)
    browsers[0](SimpleNamespace(camera=camera, scene=scene))
    threads = [threading.Thread(target=calls[0]) for _ in range(3)]
    for x, thread in enumerate(threads):
        camera.position = (float(x), 0.0, 0.0)
        thread.start()
        assert begun.wait(10)
    go.set()
    for thread in threads:
        thread.join(10)
    assert drawn == [0.0, 2.0]


def test_only_scenes_are_viewed():
    pytest.importorskip("viser")
    with pytest.raises(InrError, match="export a image|export"):
        view(build(Siren, small_signal("image").spec, SMALL))


def test_browser_cameras_are_ours():
    """viser gives a quaternion of an OpenCV camera: a camera built from ours comes back as it was."""
    from scipy.spatial.transform import Rotation
    pose = look_at(torch.tensor([[1.0, 2.0, 0.5]]), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))[0]
    x, y, z, w = Rotation.from_matrix(pose[:, :3].numpy() @ np.diag([1, -1, -1])).as_quat()
    mine = browser_camera((w, x, y, z), pose[:, 3].numpy(), np.pi / 2, 40, 60)
    assert torch.allclose(mine.poses[0], pose, atol=1e-6)
    assert isinstance(mine, Cameras) and torch.allclose(mine.focal, torch.full((1, 2), 20.0))
    _, directions = mine.rays(0)
    towards = -pose[:, 3] / pose[:, 3].norm()
    assert float((directions @ towards).max()) > 0.999


def test_target_is_what_the_cameras_look_at():
    assert np.abs(look_target(small_signal("lightfield").spec)).max() < 1e-3
