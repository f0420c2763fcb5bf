"""inr render ARCHIVE OUT: novel views of a light field or a shape."""

from dataclasses import dataclass
from typing import Any

from ..errors import InrError
from .common import Output, parse

PATHS = ("orbit", "spiral", "train", "test")


@dataclass(frozen=True)
class Render:
    """What to render and from where."""

    archive: str
    """Archive, or the run folder that holds one."""
    output: str
    """.mp4, .gif, or a folder for frames."""
    path: str = "orbit"
    """orbit, spiral, the cameras of the train or test views, or a camera-path JSON of nerfstudio's viewer."""
    transforms: str | None = None
    """Camera paths: the dataparser_transforms.json of the nerfstudio training they were made in."""
    frames: int = 120
    """Frames of an orbit or a spiral."""
    size: tuple[int, int] | None = None
    """Height and width; default: the training views', 512×512 for shapes."""
    fps: float | None = None
    """Frames per second; default: 24, or the camera path's own."""
    frame: int | None = None
    """Only this view of the path."""
    elevation: float | None = None
    """Orbits: degrees above the horizon; default: the training cameras' median."""
    resolution: int = 256
    """Shapes: resolution of the mesh that is rendered."""
    model: str | None = None
    """The generalizable model that latents stored alone need."""
    device: str = "auto"
    """auto or a torch device."""


def run(arguments: list[str]) -> dict[str, Any]:
    """Render novel views to .mp4, .gif or a folder of frames, without a display."""
    from pathlib import Path

    from ..archive import open
    from ..camera import read_path
    from ..render import held_out, orbit, render, spiral

    options = parse((Render, Output), arguments, prog="render", description=run.__doc__,
                    positional=("archive", "output"))[Render]
    field = open(options.archive, device=options.device, model=options.model)
    spec, fps = field.spec, options.fps
    if options.frames < 1 or (options.size is not None and min(options.size) < 1):
        raise InrError("--frames and --size must be at least 1.")
    if options.transforms is not None and not options.path.endswith(".json"):
        raise InrError("--transforms places a camera path of nerfstudio's viewer: give that path's .json as --path.")
    if options.path == "orbit":
        cameras = orbit(spec, frames=options.frames, elevation=options.elevation)
    elif options.path == "spiral":
        cameras = spiral(spec, frames=options.frames)
    elif options.path == "train":
        if spec.cameras is None:
            raise InrError(f"A field of kind {spec.kind!r} has no training cameras. Use --path orbit.")
        cameras = spec.cameras
    elif options.path == "test":
        cameras = held_out(spec)
    elif options.path.endswith(".json"):
        transforms = None if options.transforms is None else Path(options.transforms).expanduser()
        cameras, path_fps = read_path(Path(options.path).expanduser(), transforms)
        fps = path_fps if fps is None else fps
    else:
        raise InrError(f"--path {options.path!r} is not known: {', '.join(PATHS)}, or a camera-path .json.")
    if options.frame is not None:
        if not 0 <= options.frame < len(cameras):
            raise InrError(f"--frame {options.frame} is not among the {len(cameras)} views of this path.")
        cameras = cameras[[options.frame]]
    if options.size is not None:
        cameras = cameras.framed(*options.size)
    extra = {"resolution": options.resolution} if spec.kind == "shape" else {}
    path = render(field, cameras, options.output, fps=24.0 if fps is None else fps, **extra)
    return {"output": str(path), "frames": len(cameras), "size": cameras.size[0].tolist()}
