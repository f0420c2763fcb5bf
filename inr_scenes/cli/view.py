"""inr view ARCHIVE: look at a field in the browser."""

from dataclasses import dataclass

from .common import Output, note, parse


@dataclass(frozen=True)
class View:
    """What to look at."""

    archive: str
    """Archive, or the run folder that holds one."""
    port: int = 8080
    """Port of the web page."""
    view_size: int = 256
    """Height of light-field views in pixels."""
    resolution: int = 192
    """Resolution of a shape's mesh."""
    seconds: float | None = None
    """Stop after that time; default: when interrupted."""
    model: str | None = None
    """The generalizable model that latents stored alone need."""
    device: str = "auto"
    """auto or a torch device."""


def run(arguments: list[str]) -> None:
    """Serve a shape or a light field to the browser until interrupted."""
    from ..archive import open
    from ..viewer import view

    options = parse((View, Output), arguments, prog="view", description=run.__doc__, positional=("archive",))[View]
    field = open(options.archive, device=options.device, model=options.model)
    note(f"http://localhost:{options.port}  (Ctrl-C ends it)")
    view(field, port=options.port, size=options.view_size, resolution=options.resolution, seconds=options.seconds)
