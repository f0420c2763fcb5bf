"""inr fit FIELD SIGNAL: fit one field to one signal."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InrError, suggestion
from .common import Output, parse
from .run import CONFIG, Run, RunOptions, budget, execute, plain, read_config


@dataclass(frozen=True)
class Names:
    """What to fit to what."""

    field: str
    """Name of the field; see inr list."""
    signal: str
    """File or folder of the signal; the suffix decides its kind."""


def run(arguments: list[str]) -> dict[str, Any] | None:
    """Fit one field to one signal; flags go before --config, which goes before the field's suggestion."""
    from ..api import signal_class
    from ..fit import FitConfig
    from ..plugins import find_field, host

    wants_help = "-h" in arguments or "--help" in arguments
    given = flags(arguments)
    config = _config(arguments)
    field_name, path = names(arguments, [cls.name for cls in host().fields()], config)
    if field_name is None and wants_help:
        parse((Names, RunOptions, FitConfig, Output), arguments, prog="fit", description=run.__doc__,
              positional=("field", "signal"))
    if field_name is None:
        raise InrError("name a field and a signal: inr fit FIELD SIGNAL. inr list shows the fields.")
    cls = find_field(field_name)
    if path is None and not wants_help:
        raise InrError(f"name a signal: inr fit {field_name} SIGNAL, a file or folder.")
    signal_cls = signal_class(path) if path is not None and not (wants_help and not Path(path).exists()) else None
    parts = [Names, RunOptions, FitConfig, cls.Config, Output] + ([signal_cls.Options] if signal_cls else [])
    rest = [a for a in arguments if a not in (field_name, path)] if not wants_help else arguments
    positional = [] if not wants_help else ["field", "signal"]
    base = {"field": field_name, "signal": path or ""} if not wants_help else {}
    first = parse(parts, rest, prog=f"fit {field_name}", description=describe(cls), positional=positional,
                  defaults=base | _flat(config, "load") | _flat(config, "run"))
    output, options = first[Output], first[RunOptions]
    target = Run(options, f"{Path(path).stem}-{field_name}")
    signal = signal_cls.load(Path(path).expanduser(),
                             **{f.name: getattr(first[signal_cls.Options], f.name)
                                for f in dataclasses.fields(signal_cls.Options)})
    if options.preset not in cls.presets():
        raise InrError(f"{field_name} has no preset {options.preset!r}.{suggestion(options.preset, cls.presets())} "
                       f"Known: {', '.join(cls.presets())}.")
    recipe = cls.suggest(signal, options.preset)
    if recipe.grid and hasattr(signal, "regrid") and "grid" not in given and "grid" not in config.get("load", {}):
        signal.regrid(recipe.grid)
    defaults = {**base, **recipe.config, **recipe.fit, **_flat(config, "load"), **_flat(config, "run"),
                **_flat(config, "model"), **_flat(config, "fit")}
    chosen = parse(parts, rest, prog=f"fit {field_name}", description=describe(cls), defaults=budget(defaults, given))
    fit_config = chosen[FitConfig]
    from ..field import build
    field = build(cls, signal.spec, {f.name: getattr(chosen[cls.Config], f.name)
                                     for f in dataclasses.fields(cls.Config)}, seed=fit_config.seed)
    settings = {"field": field_name, "signal": str(Path(path).expanduser().resolve()),
                "run": {"preset": options.preset, "dtype": options.dtype},
                "load": plain(chosen[signal_cls.Options]) | ({"grid": recipe.grid} if recipe.grid else {}),
                "model": plain(chosen[cls.Config]), "fit": plain(fit_config)}
    return execute(target, field, signal, fit_config, {"field": field_name, "signal": str(path),
                                                       "kind": signal.kind}, settings)


def names(arguments: Sequence[str], fields: Sequence[str], config: dict[str, Any]) -> tuple[str | None, str | None]:
    """Find FIELD and SIGNAL among flags in any order: the installed field's name, and the word after it.

    A signal that stands elsewhere is the word that exists as a file and is no flag's value. `config` fills in.
    """
    field = next((a for a in arguments if a in fields), None)
    if field is None:
        word = next((a for a in arguments if not a.startswith("-")), None)
        if word is not None and "field" not in config:
            raise InrError(f"There is no field {word!r}.{suggestion(word, fields)} Installed: {', '.join(sorted(fields))}."
                           f"{_broken()}")
        field = config.get("field")
    at = arguments.index(field) if field in arguments else -1
    path = None
    if 0 <= at < len(arguments) - 1 and not arguments[at + 1].startswith("-"):
        path = arguments[at + 1]
    if path is None:
        loose = [b for a, b in zip(["", *arguments], arguments)
                 if not b.startswith("-") and b != field and not a.startswith("-")]
        path = loose[0] if loose else next((b for a, b in zip(["", *arguments], arguments) if not b.startswith("-")
                                            and b != field and a not in ("-o", "--output", "--config")
                                            and Path(b).expanduser().exists()), None)
    return field, path or config.get("signal")


def flags(arguments: Sequence[str]) -> set[str]:
    """Return the names of the flags that were given, as field names."""
    return {a[2:].partition("=")[0].replace("-", "_") for a in arguments if a.startswith("--")}


def describe(cls: type) -> str:
    """Return the first paragraph of a field's docstring, for its help."""
    return (cls.__doc__ or cls.__name__).strip().split("\n\n")[0]


def _broken() -> str:
    from ..plugins import host
    return "".join(f" (plugin {p.name} failed to load: {p.error})" for p in host().plugins if p.error)


def _config(arguments: Sequence[str]) -> dict[str, Any]:
    """Read --config, or a resumed run's own config.toml."""
    def value(*flags):
        for i, a in enumerate(arguments):
            if a in flags and i + 1 < len(arguments):
                return arguments[i + 1]
            for flag in flags:
                if a.startswith(f"{flag}="):
                    return a.partition("=")[2]
        return None

    path = value("--config")
    if path is None and "--resume" in arguments and (folder := value("-o", "--output")):
        path = Path(folder).expanduser() / CONFIG
        if not path.is_file():
            return {}
    return read_config(path) if path is not None else {}


def _flat(config: dict[str, Any], section: str) -> dict[str, Any]:
    """Return a section's settings with lists as the tuples the dataclasses hold."""
    return {name: _tuples(value) for name, value in config.get(section, {}).items()}


def _tuples(value):
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
