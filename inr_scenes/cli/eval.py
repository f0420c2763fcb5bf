"""inr eval ARCHIVE SIGNAL: metrics of an archive against a reference."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InrError
from ..plugins import find_signal
from .common import Output, parse, words
from .fit import flags, section_of


@dataclass(frozen=True)
class Eval:
    """What to compare with what."""

    archive: str
    """Archive, or the run folder that holds one."""
    signal: str
    """File or folder of the reference."""
    sheet: str | None = None
    """Also write this contact sheet: ground truth, reconstruction, error."""
    mesh_resolution: int = 256
    """Shapes: mesh the field at this resolution for Chamfer and normal consistency; 0: leave them out."""
    model: str | None = None
    """The generalizable model that latents stored alone need."""
    device: str = "auto"
    """auto or a torch device."""


def run(arguments: list[str]) -> dict[str, Any]:
    """PSNR and SSIM; IoU, Chamfer, normal consistency; SNR; held-out views; a partitioned field's seams."""
    from ..api import load
    from ..archive import header, open
    from ..evaluate import evaluate, sheet
    from ..plugins import host

    wants_help = not arguments or "-h" in arguments or "--help" in arguments
    loose = [arguments[i] for i in words(arguments, (Eval, Output, *(cls.Options for cls in host().signals())))]
    signal_cls = None
    if loose and not wants_help:
        head = header(loose[0])
        signal_cls = find_signal(head["spec"]["kind"])
    parts = (Eval, Output, *((signal_cls.Options,) if signal_cls else ()))
    chosen = parse(parts, arguments, prog="eval", description=run.__doc__, positional=("archive", "signal"))
    options = chosen[Eval]
    given = flags(arguments)
    field = open(options.archive, device=options.device, model=options.model)
    load_options = fitted_from(head, options.signal) | {
        f.name: getattr(chosen[signal_cls.Options], f.name)
        for f in dataclasses.fields(signal_cls.Options) if f.name in given}
    if not Path(options.signal).expanduser().exists():
        raise InrError(f"{options.signal} does not exist.")
    signal = load(options.signal, kind=field.spec.kind, like=field.spec, **load_options)
    signal.to(next(field.parameters()).device)
    result: dict[str, Any] = {"metrics": evaluate(field, signal, mesh_resolution=options.mesh_resolution or None)}
    if options.sheet:
        result["output"] = str(sheet(field, signal, options.sheet))
    return result


def fitted_from(head: dict[str, Any], path: str) -> dict[str, Any]:
    """Return how the signal of a fit was loaded, where `path` bears its name: eval then reads it alike."""
    fit = head.get("fit", {})
    if Path(str(fit.get("signal"))).name != Path(path).expanduser().name:
        return {}
    known = {f.name for f in dataclasses.fields(find_signal(head["spec"]["kind"]).Options)}
    return {name: value for name, value in section_of(fit, "load").items() if name in known}
