"""inr fit FIELD SIGNAL: fit one field to one signal."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
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


@dataclass(frozen=True)
class Source:
    """What a field is fitted to: the options it adds to the command line, and how those load it."""

    command: str
    path: str | None
    options: tuple[type, ...]
    load: Callable[[Mapping[type, Any]], Any]
    facts: Mapping[str, str]


def run(arguments: list[str]) -> dict[str, Any] | None:
    """Fit one field to one signal; flags go before --config, which goes before the field's suggestion."""
    from ..api import signal_class

    config = configuration(arguments)
    field, path = names(arguments, config)
    if field is None:
        return usage("fit", arguments, (Names,), ("field", "signal"), run.__doc__)
    cls = signal_class(path) if path is not None and (Path(path).exists() or not wants_help(arguments)) else None
    if cls is None and not wants_help(arguments):
        raise InrError(f"name a signal: inr fit {field} SIGNAL, a file or folder.")

    def load(chosen):
        return cls.load(Path(path).expanduser(), **values(chosen[cls.Options]))

    rest = [a for a in arguments if a not in (field, path)]
    return fit_to(Source("fit", path, (cls.Options,) if cls else (), load, {}), field, rest, config)


def fit_to(source: Source, name: str, arguments: list[str], config: Mapping[str, Any]) -> dict[str, Any]:
    """Parse the flags that apply to this field and this source, load it, and fit into a run folder."""
    from ..field import build
    from ..fit import FitConfig
    from ..plugins import find_field

    cls = find_field(name)
    parts = (RunOptions, FitConfig, cls.Config, *source.options, Output)
    command = f"{source.command} {name}"
    given = flags(arguments)
    stored = section_of(config, "load") | section_of(config, "problem") | section_of(config, "run")
    first = parse(parts, arguments, prog=command, description=describe(cls), defaults=stored)
    options = first[RunOptions]
    if options.preset not in cls.presets():
        raise InrError(f"{name} has no preset {options.preset!r}.{suggestion(options.preset, cls.presets())} "
                       f"Known: {', '.join(cls.presets())}.")
    target = Run(options, f"{Path(source.path or source.facts.get('problem', 'signal')).stem}-{name}")
    signal = source.load(first)
    recipe = signal.adapt(cls.suggest(signal, options.preset), cls, options.preset)
    grid = recipe.grid if "grid" not in given and "grid" not in config.get("load", {}) else None
    if grid and hasattr(signal, "regrid"):
        signal.regrid(grid)
    defaults = {**recipe.config, **recipe.fit, **stored, **section_of(config, "model"), **section_of(config, "fit")}
    chosen = parse(parts, arguments, prog=command, description=describe(cls), defaults=budget(defaults, given))
    fit_config = chosen[FitConfig]
    field = build(cls, signal.spec, values(chosen[cls.Config]), seed=fit_config.seed)
    load = {k: v for part in source.options for k, v in plain(chosen[part]).items()} | ({"grid": grid} if grid else {})
    settings = {"field": name, **({"signal": str(Path(source.path).expanduser().resolve())} if source.path else {}),
                **source.facts, "run": {"preset": options.preset, "dtype": options.dtype}, "load": load,
                "model": plain(chosen[cls.Config]), "fit": plain(fit_config)}
    facts = {"field": name, "signal": str(source.path), "kind": signal.kind, **source.facts}
    return execute(target, field, signal, fit_config, facts, settings)


def usage(command: str, arguments: list[str], what: tuple[type, ...], positional: Sequence[str], text: str | None):
    """Show the help of a command that was not told its field, or say what it needs."""
    from ..fit import FitConfig

    if wants_help(arguments):
        parse((*what, RunOptions, FitConfig, Output), arguments, prog=command, description=text or "",
              positional=positional)
    raise InrError(f"name what to {command}: inr {command} {' '.join(p.upper() for p in positional)}. "
                   f"inr list shows what is installed.")


def wants_help(arguments: Sequence[str]) -> bool:
    """Say whether --help was asked for."""
    return "-h" in arguments or "--help" in arguments


def values(settings) -> dict[str, Any]:
    """Return a dataclass's values by name."""
    return {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}


def names(arguments: Sequence[str], config: Mapping[str, Any],
          known: Sequence[type] | None = None) -> tuple[str | None, str | None]:
    """Find FIELD and SIGNAL among flags in any order: the installed field's name, and the word after it.

    A signal that stands elsewhere is the word that exists as a file and is no flag's value. `config` fills in. known:
    the field classes to choose from; default: those that fit one signal.
    """
    from ..plugins import host

    fields = [cls.name for cls in (host().fields() if known is None else known)]
    field = next((a for a in arguments if a in fields), None)
    if field is None:
        word = next((a for a in arguments if not a.startswith("-")), None)
        if known is None and word in [cls.name for cls in host().models()]:
            raise InrError(f"{word} learns from many signals: inr train {word} FOLDER, then inr encode.")
        if word is not None and "field" not in config:
            raise InrError(f"There is no field {word!r}.{suggestion(word, fields)} "
                           f"Installed: {', '.join(sorted(fields))}.{_broken()}")
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


def configuration(arguments: Sequence[str]) -> dict[str, Any]:
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


def section_of(config: Mapping[str, Any], section: str) -> dict[str, Any]:
    """Return a section's settings with lists as the tuples the dataclasses hold."""
    return {name: _tuples(value) for name, value in config.get(section, {}).items()}


def _tuples(value):
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
