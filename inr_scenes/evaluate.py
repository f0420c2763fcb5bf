"""evaluate: metrics of a field against a signal, and the contact sheet that shows them."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InrError
from .field import Field
from .files import atomic
from .media import to_bytes, write_image
from .signal import Signal


def evaluate(field: Field, signal: Signal, *, mesh_resolution: int | None = None) -> dict[str, Any]:
    """Return the signal's metrics, the field's own (as the seams of a partitioned one), and a shape's mesh metrics.

    mesh_resolution: also mesh a shape at this resolution and compare with the signal's mesh: chamfer (share of the
    bounding-box diagonal) and normal_consistency. Of a crop, which the signal's mesh reaches beyond, it cannot.
    """
    field.eval()
    result = dict(signal.metrics(field)) | field.diagnose(signal)
    truth = getattr(signal, "mesh", None)
    if mesh_resolution and truth is not None:
        from .geometry import compare_meshes, measures_distance
        from .mesh import mesh
        if not measures_distance():
            missing = "open3d does not import, see inr doctor"
        elif not getattr(signal, "has_whole_mesh", True):
            missing = f"the mesh {signal.name} reaches beyond the part that the field holds"
        else:
            result |= compare_meshes(truth, mesh(field, resolution=mesh_resolution))
            missing = ""
        if missing:
            warnings.warn(f"chamfer and normal_consistency are left out: {missing}.", stacklevel=2)
    return result


def sheet(field: Field, signal: Signal, path) -> Path:
    """Write a contact sheet: ground truth, reconstruction and error (×4, in grey) side by side, a row a picture."""
    path = Path(path).expanduser()
    pictures = signal.pictures(field)
    if not pictures:
        raise InrError("There are no pictures of this to show side by side, so no contact sheet.")
    rows = []
    for truth, image in pictures:
        error = np.abs(truth - image).mean(-1, keepdims=True).repeat(3, -1) * 4
        rows.append(np.concatenate([_frame(part) for part in (truth, image, error)], 1))
    width = max(row.shape[1] for row in rows)
    rows = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=1.0) for row in rows]
    with atomic(path) as temporary:
        write_image(temporary, to_bytes(np.concatenate(rows, 0)))
    return path


def _frame(picture: np.ndarray, margin: int = 2) -> np.ndarray:
    """Put a white margin around a picture and give it three channels."""
    picture = np.repeat(picture, 3, -1) if picture.shape[-1] == 1 else picture[..., :3]
    return np.pad(np.clip(picture, 0, 1), ((margin, margin), (margin, margin), (0, 0)), constant_values=1.0)
