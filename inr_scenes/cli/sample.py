"""inr sample ARCHIVE -o OUT: draw new signals from a prior over latents."""

import itertools
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InrError
from .common import Output, parse
from .fit import flags

DIGITS = 4                          # of the numbers that name the files of a folder


@dataclass(frozen=True)
class Sample:
    """What to draw, and how carefully."""

    archive: str
    """Archive of a trained prior, or its run folder."""
    output: str | None = None
    """Folder for an archive a signal; a .png or .jpg draws a sheet of images instead; or one .safetensors."""
    count: int = 4
    """How many signals."""
    of_class: str | None = None
    """Their class; default: any."""
    steps: int | None = None
    """Steps of the sampler; default: 50, or as many as the prior has."""
    guidance: float = 2.5
    """With --class: how far samples are led towards it; 1: not beyond what was learned of it."""
    export: str | None = None
    """Of a folder: also export each signal to a file of this suffix; default: .png for images."""
    seed: int = 0
    """Another seed draws others."""
    overwrite: bool = False
    """Replace what is there."""
    device: str = "auto"
    """auto or a torch device."""


def run(arguments: list[str]) -> dict[str, Any]:
    """Draw new signals. Each is an ordinary archive: info, export, render, eval take it."""
    from ..archive import open
    from ..media import PICTURES
    from ..prior import Prior

    options = parse((Sample, Output), arguments, prog="sample", description=run.__doc__ or "",
                    positional=("archive",), aliases={"count": ["-n"], "of_class": ["--class"]})[Sample]
    given = flags(arguments)
    if options.output is None:
        raise InrError("name where to write with -o: a folder, a .png for a sheet, or one .safetensors.")
    if options.count < 1:
        raise InrError("-n must be at least 1.")
    output = Path(options.output).expanduser()
    suffix = output.suffix.lower() if output.suffix.lower() in (".safetensors", *PICTURES) else ""
    if not suffix and output.is_file():
        raise InrError(f"{output} is a file; -o names a folder, a picture or one .safetensors.")
    if suffix and options.export:
        raise InrError(f"--export adds files to a folder; {output} is one file.")
    if options.of_class is None and "guidance" in given:
        raise InrError("--guidance leads samples towards a class; give --class too.")
    if suffix == ".safetensors" and options.count > 1:
        raise InrError(f"{options.count} need a folder, as -o {output.with_suffix('')}; a file holds one, -n 1.")
    if output.exists() and not options.overwrite and not (output.is_dir() and not any(output.iterdir())):
        raise InrError(f"{output} is there already. Replace it with --overwrite or choose another place with -o.")
    prior = open(options.archive, device=options.device)
    if not isinstance(prior, Prior):
        raise InrError(f"{options.archive} holds no prior; inr train latent-diffusion makes them.")
    if suffix in PICTURES and prior.spec.kind != "image":
        raise InrError(f"A sheet shows images; this prior draws signals of kind {prior.spec.kind!r}. Name a folder.")
    exported = _exported(prior, options, suffix)
    start = time.perf_counter()
    fields = prior.sample(options.count, options.of_class, options.seed, steps=options.steps,
                          guidance=options.guidance)
    files = _sheet(fields, output) if suffix in PICTURES else _write(fields, output, options, prior, exported)
    return {"output": str(output), "field": prior.name, "signals": options.count, "class": options.of_class,
            "seconds": round(time.perf_counter() - start, 3), "files": [str(path) for path in files]}


def _exported(prior, options: Sample, suffix: str) -> str:
    """Return the suffix that each signal in a folder is exported to, "" for none; refuse one that cannot be."""
    from ..plugins import find_exporter

    if suffix:
        return ""
    wanted = options.export or (".png" if prior.spec.kind == "image" else "")
    wanted = wanted if not wanted or wanted.startswith(".") else f".{wanted}"
    if wanted:
        find_exporter(prior.spec.kind, wanted)
    return wanted


def _write(fields, output: Path, options: Sample, prior, exported: str) -> list[Path]:
    """Write an archive a field, and what it is exported to, in the place of what was drawn there before."""
    from ..archive import save
    from ..export import export

    facts = {"drawn from": str(options.archive), "class": options.of_class or "", "seed": options.seed,
             "kind": prior.spec.kind}
    if output.suffix.lower() == ".safetensors":
        return [save(next(fields), output, fit=facts)]
    fields = itertools.chain([next(fields)], fields)        # nothing is removed before drawing has proved possible
    for old in output.glob("*") if output.is_dir() else ():
        if old.is_file() and old.stem.isdigit() and len(old.stem) == DIGITS:
            old.unlink()
    written = []
    for i, field in enumerate(fields):
        place = output / f"{i:0{DIGITS}}.safetensors"
        written.append(save(field, place, fit={**facts, "number": i}))
        if exported:
            written.append(export(field, place.with_suffix(exported)))
    return written


def _sheet(fields, output: Path) -> list[Path]:
    """Write one picture of all images, in rows."""
    import numpy as np

    from ..field import decode_all
    from ..files import atomic
    from ..media import write_image

    images = [decode_all(field).clamp(0, 1).numpy() for field in fields]
    columns = math.ceil(math.sqrt(len(images)))
    blank = np.ones_like(images[0])
    images += [blank] * (-len(images) % columns)
    rows = [np.concatenate([np.pad(image, ((0, 1), (0, 1), (0, 0)), constant_values=1) for image in row], 1)
            for row in (images[i:i + columns] for i in range(0, len(images), columns))]
    with atomic(output) as temporary:
        write_image(temporary, np.concatenate(rows))
    return [output]
