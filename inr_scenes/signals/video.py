"""Video through PyAV; frames are kept as 8-bit RGB."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..errors import InrError
from ..field import decode_all, decode_bands
from ..files import readable
from ..metrics import psnr, ssim
from ..signal import GridSignal
from ..spec import UNIT_RANGE, Axis, Spec


class VideoSignal(GridSignal):
    """A video with values in [0, 1]; axes (t, y, x)."""

    kind = "video"
    suffixes = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".gif")

    @dataclass(frozen=True)
    class Options:
        """How to read a video."""

        first_frame: int = 0
        """First frame to take."""
        frames: int | None = None
        """How many frames to take; none: to the end."""
        every: int = 1
        """Take every n-th frame."""
        size: tuple[int, int] | None = None
        """Resize to height and width (area average)."""
        grid: str = "centers"
        """Samples at cell "centers", or a grid that includes both "ends" of [-1, 1]."""

    @classmethod
    def load(cls, path, *, like: Spec | None = None, first_frame: int = 0, frames: int | None = None, every: int = 1,
             size=None, grid: str = "centers"):
        """Read a video. Raises InrError when it cannot be decoded or has no frame in the range."""
        path = readable(path)
        if first_frame < 0 or every < 1 or (frames is not None and frames < 1):
            raise InrError("--first-frame must be 0 or more, --frames and --every at least 1.")
        held = None
        if like is not None and size is None:           # frames as large as the archive's are those of the part alone
            held = like.shape[1:]
            size = tuple(max(high, axis.stop) - min(low, axis.first)
                         for (low, high), axis in zip(like.whole, like.axes))[1:]
        array, fps = read_video(path, first_frame, frames, every, size, held)
        signal = cls.from_array(array, fps, grid=grid, name=path.stem)
        if like is not None:
            if like.part_of(signal.spec) is None:
                raise InrError(f"{path} gives {signal.spec.shape} (frames, height, width); the archive holds "
                               f"{like.shape}. Choose --first-frame, --frames and --size as in the fit.")
            signal = signal.beside(like, path)
        return signal

    @classmethod
    def from_array(cls, array, fps: float, *, grid: str = "centers", name: str = "video") -> "VideoSignal":
        """Make a signal of frames (t, h, w, 3), uint8, at `fps` frames per second."""
        array = np.ascontiguousarray(array, dtype=np.uint8)
        spec = Spec("video", tuple(Axis.regular(n, grid) for n in array.shape[:3]), 3, array.shape[3], UNIT_RANGE,
                    meta={"fps": float(fps), "bits": 8, "grid": grid})
        return cls(spec, torch.from_numpy(array).reshape(-1, array.shape[3]), 1 / 255, name)

    def metrics(self, field) -> dict[str, float]:
        """PSNR over all samples and the mean SSIM of the frames, one frame in memory at a time."""
        total, similar, frame = 0.0, [], 0
        for part, values in decode_bands(field, self.spec):
            truth, images = self.stored(part).cpu().reshape(values.shape).numpy(), values.clamp(0, 1).numpy()
            total += float(np.square(truth - images, dtype=np.float64).sum())
            for pair in zip(truth, images):
                if frame % max(1, self.spec.shape[0] // 32) == 0:
                    similar.append(ssim(*pair))
                frame += 1
        return {"psnr": psnr(total / (self.spec.size * self.spec.out_features)), "ssim": float(np.mean(similar))}

    def pictures(self, field) -> list[tuple[np.ndarray, np.ndarray]]:
        """Three frames: the first, the middle and the last."""
        pairs, first = [], self.spec.axes[0].first
        for i in sorted({0, self.spec.shape[0] // 2, self.spec.shape[0] - 1}):
            spec = self.spec.along(first + i, first + i + 1)
            truth = self.stored(slice(i * spec.size, (i + 1) * spec.size)).cpu().reshape(*spec.shape[1:], -1)
            pairs.append((truth.numpy(), decode_all(field, spec)[0].clamp(0, 1).numpy()))
        return pairs


def read_video(path: Path, first: int, count: int | None, every: int, size, held=None) -> tuple[np.ndarray, float]:
    """Decode frames first, first + every, … as (t, h, w, 3) uint8; return them with their rate.

    size: height and width that they are brought to, unless they have those in `held`.
    """
    import av

    frames: list[np.ndarray] = []
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InrError(f"{path} holds no video stream.")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            fps = float(stream.average_rate or stream.guessed_rate or 24) / every
            kept = size is None or (stream.height, stream.width) == held
            scale = {} if kept else dict(width=size[1], height=size[0], interpolation="AREA")
            for i, frame in enumerate(container.decode(stream)):
                if i < first or (i - first) % every:
                    continue
                frames.append(frame.to_ndarray(format="rgb24", **scale))
                if len(frames) == count:
                    break
            expected = stream.frames or len(frames)
    except av.FFmpegError as error:
        raise InrError(f"{path} cannot be decoded as video ({error.strerror or error}).") from None
    if not frames:
        raise InrError(f"{path} has no frame from {first} on.")
    if count is None and every == 1 and len(frames) + first < expected * 0.98:
        raise InrError(f"{path} is damaged: {len(frames) + first} of {expected} frames can be decoded. "
                       f"Take the whole ones with --frames {len(frames)}.")
    return np.stack(frames), fps
