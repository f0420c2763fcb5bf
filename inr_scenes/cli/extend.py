"""inr extend ARCHIVE SIGNAL OUT --side …: grow an encoded signal by new local parts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InrError
from .common import Output, note, parse, words
from .fit import flags, values
from .run import Interrupted, budget, interrupts


@dataclass(frozen=True)
class Extend:
    """What to add where."""

    archive: str
    """Archive, or the run folder that holds one."""
    signal: str
    """File of the new part, or of the whole with the new part in it."""
    output: str
    """Archive to write."""
    side: str = "right"
    """Where the new part lies: right left below above; after before (frames, seconds); +x -x +y -y +z -z (shapes)."""
    contains: str = "auto"
    """What SIGNAL holds: new (the new part alone), whole (the old part too), or auto."""
    begin: str = "neighbour"
    """How new networks begin: neighbour (a copy of the nearest block's) or fresh."""


def run(arguments: list[str]) -> dict[str, Any]:
    """Grow an encoded signal: new local networks are trained on the new part alone, everything old stays as it is."""
    import torch

    from ..archive import header, locate, open, save
    from ..fit import FitConfig, Step, steps
    from ..plugins import find_signal, host
    from ..regions import side_of
    from ..track import bar

    options = (cls.Options for cls in host().signals())
    loose = [arguments[i] for i in words(arguments, (Extend, FitConfig, Output, *options))]
    kind = header(loose[0])["spec"]["kind"] if loose else None
    cls = find_signal(kind) if kind else None
    parts = (Extend, FitConfig, Output, *((cls.Options,) if cls else ()))
    positional = ("archive", "signal", "output")
    first = parse(parts, arguments, prog="extend", description=run.__doc__, positional=positional)
    options = first[Extend]
    field = open(options.archive)
    side_of(field.spec, options.side)
    if options.begin not in ("neighbour", "fresh"):
        raise InrError(f"--begin {options.begin!r} is not known: neighbour or fresh.")
    larger, part, read = _placed(field, cls, options, values(first[cls.Options]))
    if options.contains == "auto" and read is not None:
        note(f"{options.signal} is taken to hold the {read} {'part alone' if read == 'new' else 'signal'}; "
             f"--contains says otherwise.")
    big = field.extend(larger, options.begin, part)
    recipe = type(big).suggest(part, "fast").fit
    config = parse(parts, arguments, prog="extend", description=run.__doc__, positional=positional,
                   defaults=budget(recipe, flags(arguments)))[FitConfig]
    last = Step(0, torch.zeros(()), config.lr, 0.0, 0.0)
    with interrupts() as stopped:
        for step in bar(steps(big, part, config), config.steps, "extend"):
            last = step
            if stopped:
                break
    with last.averaged():
        whole = big.eval().baked()
        metrics = {f"{name}_new": value for name, value in part.metrics(whole).items()}
        path = save(whole, options.output, metrics=metrics, fit={"step": last.step, "seconds": last.seconds},
                    dtype=header(options.archive).get("dtype", "float32"))
    if stopped:
        raise Interrupted(f"stopped at step {last.step}; what was learned is in {path}.", stopped[0])
    return {"output": str(path), "parameters": whole.parameter_count, "bytes": path.stat().st_size,
            "shape": [*whole.spec.shape, whole.spec.out_features], "steps": last.step,
            "seconds": round(last.seconds, 3), "metrics": metrics,
            "grew_by": path.stat().st_size / locate(options.archive).stat().st_size}


def _placed(field, cls, options: Extend, load: dict[str, Any]):
    """Load the signal and place it: (the larger spec, the new part, how it was read; None for meshes, which say so)."""
    from ..geometry import read_mesh
    from ..regions import around_mesh, new_part
    from ..signals import voxels

    path = Path(options.signal).expanduser()
    if field.spec.kind == "shape" and path.suffix.lower() not in voxels.SUFFIXES:
        larger, box = around_mesh(field.spec, options.side, read_mesh(path).bounds)
        return larger, cls.load(path, like=larger.cropped(box), **load), None
    larger, part, read = new_part(field, cls.load(path, **load), options.side, options.contains)
    return larger, part, read
