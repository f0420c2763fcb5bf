"""inr train FIELD FOLDER: train a generalizable field on many signals."""

import functools
import os
import signal as signals
import threading
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InrError
from .common import Output, note, parse
from .fit import (
    Names,
    check_config,
    check_preset,
    configuration,
    describe,
    flags,
    held_back,
    names,
    section_of,
    value_of,
    values,
    wants_help,
)
from .run import Run, RunOptions, budget, execute, plain

GRACE = 60.0                        # seconds that the first process has to save after an interruption


@dataclass(frozen=True)
class SetOptions:
    """The set, and what it is trained on."""

    kind: str | None = None
    """Kind of the signals; default: what most of the folder's entries are."""
    validation: int = 32
    """Signals held out of the training, chosen by the seed; their PSNR is the training's quality."""
    support: int = 3
    """Light fields: views that validation encodes; it asks for all others."""
    on_error: str = "skip"
    """A file that cannot be read: skip (named in a warning) or stop."""
    workers: int = 0
    """Processes that decode the set the first time; 0: this one."""
    cache: str | None = None
    """Folder for the decoded set; default: the user's cache."""
    devices: int = 1
    """Accelerators, or CPU processes, on each machine."""
    nodes: int = 1
    """Machines; start the same command on each, as Lightning Fabric documents."""


def run(arguments: list[str]) -> dict[str, Any] | None:
    """Train a generalizable field on a folder of signals. Flags go before --config, that before its suggestion."""
    from ..plugins import find_model, host
    from ..train import TrainConfig

    config = configuration(arguments)
    known = [*host().models(), *host().priors()]
    name, folder, rest = names(arguments, config, known, (SetOptions, TrainConfig))
    if name is None:
        if wants_help(arguments):
            parse((Names, RunOptions, SetOptions, TrainConfig, Output), arguments, prog="train",
                  description=run.__doc__ or "", positional=("field", "signal"))
        raise InrError("name what to train on what: inr train FIELD FOLDER. inr list shows what is installed.")
    if name in [cls.name for cls in host().priors()]:
        from .prior import train
        return train(name, folder, rest, config)
    return _begin(find_model(name), folder, rest, config)


def _begin(cls, folder: str | None, arguments: list[str], config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Train a field's class with what flags say, and a file of settings."""
    from ..augment import Parts
    from ..dataset import members
    from ..train import TrainConfig, check

    name = cls.name
    if folder is None and not wants_help(arguments):
        raise InrError(f"name a folder of signals: inr train {name} FOLDER.")
    stored = section_of(config, "load") | section_of(config, "run") | section_of(config, "set")
    kind = value_of(arguments, "--kind") or stored.get("kind")
    signal_cls = members(folder, kind)[0] if folder is not None and Path(folder).expanduser().is_dir() else None
    if signal_cls is None and not wants_help(arguments):
        raise InrError(f"{folder} is no folder. A set is a folder of signals of one kind.")
    load = (signal_cls.Options,) if signal_cls else ()
    if signal_cls is not None:
        check_config(config, {"run": (RunOptions,), "set": (SetOptions,), "load": load, "model": (cls.Config,),
                              "fit": (TrainConfig,)})
    parts = (RunOptions, SetOptions, TrainConfig, cls.Config, *load, Output)
    command = f"train {name}"
    fit = section_of(config, "fit")
    first = parse(parts, arguments, prog=command, description=describe(cls), defaults={**stored, **fit})
    options = first[RunOptions]
    check_preset(cls, options.preset)
    target = Run(options, f"{Path(folder).expanduser().resolve().name}-{name}")
    if not config and (own := target.own_config()):
        return _begin(cls, folder, arguments, own)
    check(first[TrainConfig])
    crop = first[TrainConfig].crop
    found = _open(folder, first[SetOptions], values(first[signal_cls.Options]), crop)
    recipe = cls.suggest(Parts(found.spec, crop)(found[0], 0), options.preset)      # for what the model will see
    defaults = {**recipe.config, **recipe.fit, **stored, **section_of(config, "model"), **fit}
    given = flags(arguments)
    chosen = parse(parts, arguments, prog=command, description=describe(cls), defaults=budget(defaults, given, fit))
    chosen[SetOptions] = held_back(chosen[SetOptions], len(found), given | section_of(config, "set").keys())
    return _train(target, cls, found, folder, chosen, signal_cls)


def _train(target: Run, cls, found, folder: str, chosen, signal_cls) -> dict[str, Any] | None:
    from ..augment import Parts
    from ..generalizable import build_model
    from ..train import TrainConfig, check, train_steps
    from ..validation import Validation

    config, options = chosen[TrainConfig], chosen[SetOptions]
    check(config)
    training, held_out = found.split(options.validation, config.seed)
    seen = Parts(found.spec, config.crop, config.zoom, config.augment).spec
    field = build_model(cls, seen, values(chosen[cls.Config]), seed=config.seed)
    validation = Validation(held_out, options.support)
    fabric = _fabric(options, config)
    if fabric is not None and fabric.global_rank != 0:      # the other processes only help
        _help(train_steps(field, training, config, validation=validation, resume=target.state(), fabric=fabric))
        return None
    settings = {"field": cls.name, "signal": str(Path(folder).expanduser().resolve()),
                "run": {"preset": target.options.preset, "dtype": target.options.dtype},
                "set": plain(options), "load": plain(chosen[signal_cls.Options]),
                "model": plain(chosen[cls.Config]), "fit": plain(config)}
    facts = {"field": cls.name, "signal": str(folder), "kind": found.spec.kind, "signals": str(len(training))}
    loop = functools.partial(train_steps, field, training, config, validation=validation, fabric=fabric)
    return execute(target, field, validation, config, facts, settings, loop, "train")


def _help(steps) -> None:
    """Take a training's steps; what interrupts all its processes is for the first one to say and to save after.

    This one goes when the first one's end of the line is closed, or GRACE seconds later: it may wait for it forever.
    """
    told, (read, write) = threading.Event(), os.pipe()

    def wait() -> None:
        os.read(read, 1)
        told.set()
        time.sleep(GRACE)
        os._exit(1)

    os.set_blocking(write, False)
    signals.set_wakeup_fd(write)                # written to at once, also while all of Python waits for another process
    for number in (signals.SIGINT, signals.SIGTERM):
        signals.signal(number, lambda *_: None)
    threading.Thread(target=wait, daemon=True).start()
    try:
        for _ in steps:
            pass
    except RuntimeError:
        if not told.is_set():
            raise


def _open(folder, options: SetOptions, load: dict[str, Any], crop: tuple[int, ...]):
    """Open the set; what was left out goes to stderr, a line a file."""
    from ..dataset import open_set

    if options.validation < 0 or options.support < 1 or options.workers < 0 or min(options.devices, options.nodes) < 1:
        raise InrError("--validation and --workers must be at least 0, --support, --devices and --nodes at least 1.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = open_set(folder, kind=options.kind, options=load, on_error=options.on_error, workers=options.workers,
                         cache=options.cache, crop=crop)
    for line in found.skipped:
        note(f"left out: {line}")
    return found


def _fabric(options: SetOptions, config):
    """Launch Lightning Fabric when there is more than one process to train in."""
    if options.devices * options.nodes < 2:
        return None
    from ..device import resolve_device
    from ..lightning import fabric

    found = fabric(resolve_device(config.device).type, options.devices, options.nodes)
    found.launch()
    return found
