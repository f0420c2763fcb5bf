"""Make this folder's posed pictures: a textured toy on a disc, ray-cast from all around, 80×80 with transparency.

`transforms.json` is a nerfstudio set: 36 training views on two rings and 8 held-out ones in between.
"""

import json
from pathlib import Path

import numpy as np
import torch
import trimesh

from inr_scenes.camera import Cameras, look_at
from inr_scenes.geometry import cast_views
from inr_scenes.media import to_bytes, write_image

SIZE, FOV, DISTANCE = 80, 40.0, 3.4
LIGHT = np.array([0.5, -0.4, 0.77])
TARGET = torch.tensor([0.0, 0.0, 0.35])
# (how many, elevation in degrees, azimuth of the first) of each ring
TRAIN = ((20, 15.0, 0.0), (16, 42.0, 9.0))
TEST = ((5, 27.0, 4.0), (3, 15.0, 27.0))


def paint(mesh: trimesh.Trimesh, colour) -> trimesh.Trimesh:
    """Colour the vertices by a function of place, lit by one fixed lamp, so that every view shows the same colours."""
    light = 0.45 + 0.55 * np.clip(mesh.vertex_normals @ LIGHT, 0, 1)
    values = np.clip(colour(*mesh.vertices.T) * light[:, None], 0, 1)
    mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=to_bytes(np.c_[values, np.ones(len(values))]))
    return mesh


def mixed(share, first, second) -> np.ndarray:
    """Return colours (n, 3) between two, by a share (n,) in [0, 1]."""
    return np.outer(share, first) + np.outer(1 - share, second)


def scene() -> trimesh.Trimesh:
    """Return the toy: a striped ring standing on a disc, a spotted ball, a small banded cone."""
    ring = trimesh.creation.torus(0.48, 0.16, major_sections=160, minor_sections=64)
    ring.apply_transform(trimesh.transformations.rotation_matrix(1.25, [1, 0.2, 0]))
    ring.apply_translation([-0.15, 0.1, 0.62])
    ball = trimesh.creation.icosphere(5, 0.27).apply_translation([0.5, -0.4, 0.27])
    cone = trimesh.creation.cone(0.22, 0.55, sections=96).subdivide_to_size(0.03).apply_translation([-0.45, -0.55, 0.0])
    disc = trimesh.creation.cylinder(1.0, 0.08, sections=160).subdivide_to_size(0.035).apply_translation([0, 0, -0.04])
    parts = [
        paint(ring, lambda x, y, z: mixed(0.5 + 0.5 * np.tanh(4 * np.sin(9 * np.arctan2(z - 0.62, x + 0.15))),
                                          [0.95, 0.35, 0.15], [0.98, 0.85, 0.55])),
        paint(ball, lambda x, y, z: mixed(0.5 + 0.5 * np.tanh(4 * np.sin(16 * x) * np.sin(16 * y) * np.sin(16 * z)),
                                          [0.15, 0.3, 0.75], [0.6, 0.85, 0.95])),
        paint(cone, lambda x, y, z: mixed(0.5 + 0.5 * np.tanh(5 * np.sin(34 * z)), [0.2, 0.6, 0.3], [0.9, 0.95, 0.6])),
        paint(disc, lambda x, y, z: mixed(0.5 + 0.5 * np.tanh(3 * np.sin(14 * np.hypot(x, y))),
                                          [0.55, 0.5, 0.6], [0.75, 0.72, 0.8])),
    ]
    return trimesh.util.concatenate(parts)


def cameras(rings) -> Cameras:
    """Return cameras on rings around the toy."""
    places = []
    for count, elevation, azimuth in rings:
        angle = torch.deg2rad(torch.arange(count) * (360 / count) + azimuth)
        tilt = torch.deg2rad(torch.tensor(elevation))
        places.append(torch.stack([tilt.cos() * angle.cos(), tilt.cos() * angle.sin(), tilt.sin().expand(count)], -1))
    poses = look_at(TARGET + DISTANCE * torch.cat(places), TARGET, torch.tensor([0.0, 0.0, 1.0]))
    n, focal = len(poses), SIZE / 2 / float(np.tan(np.radians(FOV / 2)))
    return Cameras(poses, torch.full((n, 2), focal), torch.full((n, 2), SIZE / 2), torch.full((n, 2), SIZE))


def main(folder: Path) -> None:
    """Write the pictures and transforms.json."""
    toy, frames, names = scene(), [], {}
    for split, rings in (("train", TRAIN), ("test", TEST)):
        views = cameras(rings)
        names[split] = [f"images/{split}_{i:02d}.png" for i in range(len(views))]
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for name, pose, picture in zip(names[split], views.poses, cast_views(toy, views, shading="flat",
                                                                              background=None, samples=4)):
            write_image(folder / name, to_bytes(picture.numpy()))
            rows = [[round(value, 7) for value in row] for row in [*pose.tolist(), [0.0, 0.0, 0.0, 1.0]]]
            frames.append({"file_path": name, "transform_matrix": rows})
    focal = round(float(views.focal[0, 0]), 7)
    data = {"camera_model": "PINHOLE", "w": SIZE, "h": SIZE,
            "fl_x": focal, "fl_y": focal, "cx": SIZE / 2, "cy": SIZE / 2,
            **{f"{split}_filenames": names[split] for split in names}, "val_filenames": names["test"], "frames": frames}
    lines = json.dumps(data, indent=1)
    (folder / "transforms.json").write_text(lines + "\n")


if __name__ == "__main__":
    main(Path(__file__).parent)
