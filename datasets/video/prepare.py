"""Make moving.mp4: two seconds of a textured disc that rolls over a patterned floor, 96×64 at 12 frames/s."""

from pathlib import Path

import numpy as np

from inr_scenes.media import to_bytes, write_video

HEIGHT, WIDTH, FRAMES, FPS = 64, 96, 24, 12


def frame(t: float) -> np.ndarray:
    """Return the picture (64, 96, 3) in [0, 1] at time t in [0, 1]."""
    y, x = np.meshgrid(np.arange(HEIGHT) / HEIGHT, np.arange(WIDTH) / HEIGHT, indexing="ij")
    floor = 0.5 + 0.25 * np.sign(np.sin(20 * x) * np.sin(20 * (y + 0.2 * x)))
    picture = np.stack([floor * 0.9, floor * 0.8 + 0.1 * y, 0.6 - 0.3 * y], -1)
    cx, cy, angle = 0.25 + t, 0.55 - 0.2 * np.sin(np.pi * t), 4 * t
    dx, dy = x - cx, y - cy
    u, v = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
    inside = np.clip((0.22 - np.hypot(dx, dy)) * HEIGHT, 0, 1)[..., None]
    ball = np.stack([0.8 + 0.2 * np.sign(u), 0.3 + 0.3 * np.sign(v * u), 0.2 + 0.1 * np.cos(30 * v)], -1)
    return np.clip(picture * (1 - inside) + ball * inside, 0, 1)


if __name__ == "__main__":
    write_video(Path(__file__).with_name("moving.mp4"), (to_bytes(frame(i / FRAMES)) for i in range(FRAMES)), FPS)
