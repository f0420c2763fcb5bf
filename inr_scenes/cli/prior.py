"""inr train PRIOR LATENTS: learn how the latents of encoded signals are distributed."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InrError
from .common import Output, note, parse
from .fit import check_config, check_preset, describe, flags, held_back, section_of, values, wants_help
from .run import Run, RunOptions, budget, execute, plain

OF_SIGNALS = {"points", "views", "crop", "zoom", "augment"}     # settings that say what is seen of signals


@dataclass(frozen=True)
class LatentOptions:
    """Which latents to learn from."""

    model: str | None = None
    """The generalizable model that latents stored alone need; default: the one they name."""
    classes: str = "auto"
    """A signal's class is the name of its sub-folder (folder), of its file up to the first _ (name), or none."""
    validation: int = 64
    """Signals held out of the training, chosen by the seed."""


def train(name: str, folder: str | None, arguments: Sequence[str], config: Mapping[str, Any]) -> dict[str, Any]:
    """Train a prior on a folder of archives that one model encoded."""
    from ..latents import LatentDrawer, LatentValidation, open_latents
    from ..plugins import find_prior
    from ..prior import build_prior
    from ..train import TrainConfig, check, train_steps

    cls = find_prior(name)
    if folder is None and not wants_help(arguments):
        raise InrError(f"name a folder of encoded signals: inr train {name} FOLDER; inr encode makes them.")
    given = flags(arguments)
    if idle := given & OF_SIGNALS:
        raise InrError(f"--{min(idle)} says what is seen of signals; a prior learns from whole latents.")
    parts = (RunOptions, LatentOptions, TrainConfig, cls.Config, Output)
    check_config(config, {"run": (RunOptions,), "load": (LatentOptions,), "model": (cls.Config,),
                          "fit": (TrainConfig,)})
    stored = section_of(config, "load") | section_of(config, "run")
    command = f"train {name}"
    first = parse(parts, arguments, prog=command, description=describe(cls), defaults=stored)
    run, options = first[RunOptions], first[LatentOptions]
    check_preset(cls, run.preset)
    if run.sheet:
        raise InrError("--sheet shows a reconstruction, and a prior reconstructs nothing: inr sample draws a sheet.")
    target = Run(run, f"{Path(folder).expanduser().resolve().name}-{name}")
    if not config and (own := target.own_config()):
        return train(name, folder, arguments, own)
    found = open_latents(folder, model=options.model, classes=options.classes)
    recipe = cls.suggest(found, run.preset)
    defaults = {**recipe.config, **recipe.fit, **stored, **section_of(config, "model"), **section_of(config, "fit")}
    chosen = parse(parts, arguments, prog=command, description=describe(cls),
                   defaults=budget(defaults, given, section_of(config, "fit")))
    settings = chosen[TrainConfig]
    check(settings)
    options = held_back(options, len(found), given | section_of(config, "load").keys())
    training, held_out = found.split(options.validation, settings.seed)
    note(f"{len(training)} signals, {len(held_out)} held out; classes: {', '.join(found.classes) or 'none'}")
    prior = build_prior(cls, training, values(chosen[cls.Config]), seed=settings.seed)
    validation = LatentValidation(held_out)
    record = {"field": name, "signal": str(Path(folder).expanduser().resolve()),
              "run": {"preset": run.preset, "dtype": run.dtype}, "load": plain(options),
              "model": plain(chosen[cls.Config]), "fit": plain(settings)}
    facts = {"field": name, "signal": str(folder), "kind": found.spec.kind, "signals": str(len(training)),
             "classes": " ".join(found.classes)}
    loop = functools.partial(train_steps, prior, training, settings, validation=validation, drawer=LatentDrawer)
    return execute(target, prior, validation, settings, facts, record, loop, "train")
