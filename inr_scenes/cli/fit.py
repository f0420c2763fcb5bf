"""inr fit FIELD SIGNAL: fit one field to one signal."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InrError, suggestion
from ..settings import converted
from .common import Output, parse, words
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
    field, path, rest = names(arguments, config)
    if field is None:
        return usage("fit", arguments, (Names,), ("field", "signal"), run.__doc__)
    cls = signal_class(path) if path is not None and (Path(path).exists() or not wants_help(arguments)) else None
    if cls is None and not wants_help(arguments):
        raise InrError(f"name a signal: inr fit {field} SIGNAL, a file or folder.")

    def load(chosen):
        return cls.load(Path(path).expanduser(), **values(chosen[cls.Options]))

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
    stored = section_of(config, "load") | section_of(config, "run")
    first = parse(parts, arguments, prog=command, description=describe(cls), defaults=stored)
    options = first[RunOptions]
    check_preset(cls, options.preset)
    target = Run(options, f"{Path(source.path or source.facts.get('problem', 'signal')).stem}-{name}")
    if not config and (own := target.own_config()):         # the default folder's, which --output did not name
        return fit_to(source, name, arguments, own)
    check_config(config, {"run": (RunOptions,), "load": source.options, "model": (cls.Config,), "fit": (FitConfig,)})
    signal = source.load(first)
    recipe = signal.adapt(cls.suggest(signal, options.preset), cls, options.preset)
    grid = None if "grid" in given else config.get("load", {}).get("grid", recipe.grid)
    if grid and hasattr(signal, "regrid"):
        signal.regrid(grid)
    defaults = {**recipe.config, **recipe.fit, **stored, **section_of(config, "model"), **section_of(config, "fit")}
    chosen = parse(parts, arguments, prog=command, description=describe(cls),
                   defaults=budget(defaults, given, section_of(config, "fit")))
    fit_config = chosen[FitConfig]
    field = build(cls, signal.spec, values(chosen[cls.Config]), seed=fit_config.seed)
    grid = signal.spec.grid if signal.spec.axes else grid       # files and problems may keep their own
    load = {k: v for part in source.options for k, v in plain(chosen[part]).items()} | ({"grid": grid} if grid else {})
    settings = {"field": name, **({"signal": str(Path(source.path).expanduser().resolve())} if source.path else {}),
                **source.facts, "run": {"preset": options.preset, "dtype": options.dtype}, "load": load,
                "model": plain(chosen[cls.Config]), "fit": plain(fit_config)}
    facts = {"field": name, "signal": str(source.path), "kind": signal.kind, **source.facts}
    return execute(target, field, signal, fit_config, facts, settings, command=source.command.split()[0])


def check_preset(cls: type, preset: str) -> None:
    """Raise InrError for a preset that a field does not have."""
    if preset not in cls.presets():
        raise InrError(f"{cls.name} has no preset {preset!r}.{suggestion(preset, cls.presets())} "
                       f"Known: {', '.join(cls.presets())}.")


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


def names(arguments: Sequence[str], config: Mapping[str, Any], known: Sequence[type] | None = None,
          more: Sequence[type] = ()) -> tuple[str | None, str | None, list[str]]:
    """Find FIELD and SIGNAL among flags in any order; return them and what is left of the arguments.

    The field is the first installed field's name that is no flag's value, the signal the first other such word.
    `config` fills in. known: the field classes to choose from; default: those that fit one signal. more: dataclasses
    of further flags.
    """
    from ..fit import FitConfig
    from ..plugins import host

    classes = host().fields() if known is None else known
    fields = [cls.name for cls in classes]
    options = {RunOptions, FitConfig, Output, *(cls.Config for cls in (*host().fields(), *host().models())),
               *(cls.Options for cls in host().signals()), *more}
    places = words(arguments, options)
    at = next((i for i in places if arguments[i] in fields), None)
    field = None if at is None else arguments[at]
    if field is None:
        word = next((arguments[i] for i in places), None)
        if known is None and word in [cls.name for cls in host().models()]:
            raise InrError(f"{word} learns from many signals: inr train {word} FOLDER, then inr encode.")
        if word is not None and "field" not in config:
            raise InrError(f"There is no field {word!r}.{suggestion(word, fields)} "
                           f"Installed: {', '.join(sorted(fields))}.{host().broken()}")
        field = config.get("field")
    signal = next((i for i in places if i != at), None)
    rest = [a for i, a in enumerate(arguments) if i not in (at, signal)]
    return field, config.get("signal") if signal is None else arguments[signal], rest


def held_back(options, signals: int, given: Collection[str]):
    """Return options of a training whose default of signals held out for validation is no more than a fifth of all."""
    if "validation" in given:
        return options
    return dataclasses.replace(options, validation=min(options.validation, signals // 5))


def flags(arguments: Sequence[str]) -> set[str]:
    """Return the names of the flags that were given, as field names; that of a switch also where it was turned off."""
    return {a[2:].partition("=")[0].replace("-", "_").removeprefix("no_") for a in arguments if a.startswith("--")}


def describe(cls: type) -> str:
    """Return the first paragraph of a field's docstring, for its help."""
    return (cls.__doc__ or cls.__name__).strip().split("\n\n")[0]


def configuration(arguments: Sequence[str]) -> dict[str, Any]:
    """Read --config, or a resumed run's own config.toml."""
    path = value_of(arguments, "--config")
    if path is None and "--resume" in arguments and (folder := value_of(arguments, "-o", "--output")):
        path = Path(folder).expanduser() / CONFIG
        if not path.is_file():
            return {}
    return read_config(path) if path is not None else {}


def value_of(arguments: Sequence[str], *flags: str) -> str | None:
    """Return the value of the first of some flags that was given, before they are parsed."""
    for word, following in zip(arguments, [*arguments[1:], None]):
        if word in flags and following is not None:
            return following
        flag, _, value = word.partition("=")
        if flag in flags and value:
            return value
    return None


def check_config(config: Mapping[str, Any], sections: Mapping[str, Sequence[type]]) -> None:
    """Raise InrError for a section, a name or a value that a file of settings should not hold."""
    for section, entries in config.items():
        if not isinstance(entries, Mapping):
            continue
        if section not in sections:
            raise InrError(f"The settings have a section [{section}].{suggestion(section, sections)} "
                           f"Known: {', '.join(sections)}.")
        known = {f.name: part for part in sections[section] for f in dataclasses.fields(part)}
        for name, value in entries.items():
            if name in known:
                converted(known[name], {name: value}, f"The settings' [{section}]")
            elif name != "grid":
                raise InrError(f"The settings have {name!r} in [{section}], which is no option."
                               f"{suggestion(name, known)}")


def section_of(config: Mapping[str, Any], section: str) -> dict[str, Any]:
    """Return a section's settings with lists as the tuples the dataclasses hold."""
    return {name: _tuples(value) for name, value in config.get(section, {}).items()}


def _tuples(value):
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
