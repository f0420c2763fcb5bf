"""inr export ARCHIVE OUT: write a field to a file; the suffix decides."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .common import Output, parse, words


@dataclass(frozen=True)
class Export:
    """What to write where."""

    archive: str
    """Archive, or the run folder that holds one."""
    output: str
    """File to write: .png .mp4 .wav .glb .ply .npz …"""
    model: str | None = None
    """The generalizable model that latents stored alone need."""
    device: str = "auto"
    """auto or a torch device."""


def run(arguments: list[str]) -> dict[str, Any]:
    """Write a field to a file: the suffix decides. inr export ARCHIVE OUT --help shows the flags of that suffix."""
    from ..archive import header, open
    from ..export import export_facts
    from ..plugins import find_exporter, host

    written = [item.options for item, _ in host().collect("inr_exporters")]
    loose = [arguments[i] for i in words(arguments, (Export, Output, *written))]
    exporter = None
    if len(loose) > 1:
        exporter = find_exporter(header(loose[0])["spec"]["kind"], Path(loose[1]).suffix)
    parts = (Export, Output, *((exporter.options,) if exporter else ()))
    chosen = parse(parts, arguments, prog="export", description=run.__doc__, positional=("archive", "output"))
    options = chosen[Export]
    field = open(options.archive, device=options.device, model=options.model)
    settings = {f.name: getattr(chosen[exporter.options], f.name) for f in dataclasses.fields(exporter.options)}
    return {"output": str(Path(options.output).expanduser()), **export_facts(field, options.output, settings)}
