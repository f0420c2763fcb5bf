"""inr sample ARCHIVE -o OUT: draw new signals from a prior over latents."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InrError
from .common import Output, parse

PICTURES = (".png", ".jpg", ".jpeg", ".webp")


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
    steps: int = 50
    """Steps of the sampler."""
    guidance: float = 2.5
    """How far samples are led towards their class; 1: not beyond what was learned of it."""
    export: str | None = None
    """Folders: also export each signal to a file of this suffix; default: .png for images."""
    seed: int = 0
    """Another seed draws others."""
    overwrite: bool = False
    """Replace what is there."""
    device: str = "auto"
    """auto or a torch device."""


def run(arguments: list[str]) -> dict[str, Any]:
    """Draw new signals. Each is an ordinary archive: info, export, render, eval take it."""
    from ..archive import open
    from ..prior import Prior

    short = {"-n": "--count", "--n": "--count", "--class": "--of-class"}
    arguments = [short.get(a, a) for a in arguments]
    options = parse((Sample, Output), arguments, prog="sample", description=run.__doc__ or "",
                    positional=("archive",))[Sample]
    if options.output is None:
        raise InrError("name where to write with -o: a folder, a .png for a sheet, or one .safetensors.")
    if options.count < 1 or options.seed < 0:
        raise InrError("-n must be at least 1 and --seed at least 0.")
    output = Path(options.output).expanduser()
    suffix = output.suffix.lower()
    if suffix == ".safetensors" and options.count > 1:
        raise InrError(f"{options.count} need a folder, as -o {output.with_suffix('')}; a file holds one, -n 1.")
    if suffix and suffix not in (".safetensors", *PICTURES):
        raise InrError(f"{output} is no folder, .safetensors or picture; inr export writes {suffix} of a sample.")
    if output.exists() and not options.overwrite and not (output.is_dir() and not any(output.iterdir())):
        raise InrError(f"{output} is there already. Replace it with --overwrite or choose another place with -o.")
    prior = open(options.archive, device=options.device)
    if not isinstance(prior, Prior):
        raise InrError(f"{options.archive} holds no prior; inr train latent-diffusion makes them.")
    if suffix in PICTURES and prior.spec.kind != "image":
        raise InrError(f"A sheet shows images; this prior draws signals of kind {prior.spec.kind!r}. Name a folder.")
    start = time.perf_counter()
    fields = prior.sample(options.count, options.of_class, options.seed, steps=options.steps,
                          guidance=options.guidance)
    seconds = time.perf_counter() - start
    result = {"output": str(output), "field": prior.name, "signals": len(fields), "class": options.of_class,
              "seconds": round(seconds, 3)}
    if suffix in PICTURES:
        _sheet(fields, output)
        return result
    return result | {"files": [str(path) for path in _write(fields, output, options, prior)]}


def _write(fields, output: Path, options: Sample, prior) -> list[Path]:
    """Write an archive a field, and what it is exported to."""
    from ..archive import save
    from ..export import export

    facts = {"drawn from": str(options.archive), "class": options.of_class or "", "seed": options.seed,
             "kind": prior.spec.kind}
    if output.suffix:
        return [save(fields[0], output, fit=facts)]
    suffix = options.export or (".png" if prior.spec.kind == "image" else "")
    suffix = suffix if not suffix or suffix.startswith(".") else f".{suffix}"
    written = []
    for i, field in enumerate(fields):
        place = output / f"{i:0{len(str(len(fields) - 1))}}.safetensors"
        written.append(save(field, place, fit={**facts, "number": i}))
        if suffix:
            written.append(export(field, place.with_suffix(suffix)))
    return written


def _sheet(fields, output: Path) -> None:
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
