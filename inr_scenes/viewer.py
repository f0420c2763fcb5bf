"""view: look at a field in the browser (viser); nothing is needed on the server but a port."""

import threading
import time
from typing import Any

import numpy as np

from .errors import InrError, need
from .field import Field
from .spec import Spec


def view(field: Field, *, port: int = 8080, size: int = 256, resolution: int = 192,
         seconds: float | None = None) -> None:
    """Serve a field until interrupted: shapes as a mesh, light fields as the view from the browser's camera.

    size: height of light-field views. resolution: of a shape's mesh. seconds: stop after that time. Raises InrError for
    kinds without a third dimension.
    """
    viser = need("viser", extra="viewer", why="for inr view")
    if field.spec.kind not in ("shape", "lightfield"):
        raise InrError(f"inr view shows shapes and light fields; export a {field.spec.kind} instead.")
    server = viser.ViserServer(port=port)
    if field.spec.kind == "shape":
        from .mesh import mesh
        server.scene.add_mesh_trimesh("/shape", mesh(field, resolution=resolution))
    else:
        _follow(server, field, size)
    end = time.monotonic() + seconds if seconds is not None else float("inf")
    try:
        while time.monotonic() < end:
            time.sleep(0.1)
    except KeyboardInterrupt:
        pass
    finally:
        server.stop()


def _follow(server, field: Field, size: int) -> None:
    """Put each browser where the scene was seen from, and show it what its camera sees."""
    from .render import frames

    spec = field.spec
    start = spec.cameras.poses[0].numpy()
    lock = threading.Lock()             # viser calls from many threads, whose pictures would overtake each other

    def joined(client) -> None:
        client.camera.position = start[:, 3]
        client.camera.look_at = look_target(spec)
        client.camera.up_direction = start[:, 1]
        shown = None

        def moved(_: Any = None) -> None:
            nonlocal shown
            with lock:
                seen = client.camera
                now = tuple(seen.wxyz), tuple(seen.position), seen.fov, seen.aspect
                if now == shown:        # by a call that came earlier: this one's camera has moved on
                    return
                camera = browser_camera(*now[:3], size, max(1, round(size * now[3])))
                client.scene.set_background_image(next(frames(field, camera)), format="jpeg")
                shown = now

        client.camera.on_update(moved)

    server.on_client_connect(joined)


def look_target(spec: Spec) -> np.ndarray:
    """Return the world point the scene's cameras look at, (3,)."""
    from .camera import focus
    return focus(spec.cameras).numpy()


def browser_camera(wxyz, position, fov: float, height: int, width: int):
    """Return the browser's camera (OpenCV axes, vertical field of view in radians) as ours (OpenGL axes)."""
    import torch
    from scipy.spatial.transform import Rotation

    from .camera import Cameras

    w, x, y, z = (float(v) for v in wxyz)
    rotation = Rotation.from_quat([x, y, z, w]).as_matrix() @ np.diag([1.0, -1.0, -1.0])
    pose = torch.tensor(np.concatenate([rotation, np.asarray(position, float)[:, None]], 1), dtype=torch.float32)
    focal = height / 2 / float(np.tan(fov / 2))
    return Cameras(pose[None], torch.full((1, 2), focal), torch.tensor([[width / 2, height / 2]]),
                   torch.tensor([[height, width]]))
