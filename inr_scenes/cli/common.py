"""What the commands share: flags from dataclasses, results on stdout, everything else on stderr."""

import dataclasses
import json
import math
import sys
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from ..errors import InrError
from ..settings import help_of


@dataclass(frozen=True)
class Output:
    """Flags of every command."""

    json: bool = False
    """Print exactly one JSON object on stdout."""


def parse(parts: Sequence[type], arguments: Sequence[str], *, prog: str, description: str,
          positional: Sequence[str] = (), defaults: Mapping[str, Any] | None = None,
          aliases: Mapping[str, Sequence[str]] | None = None) -> dict[type, Any]:
    """Parse `arguments` into one instance of each dataclass in `parts`, all flags in one flat namespace.

    positional: names of fields taken by position. defaults: over the classes' own. aliases: further flags of fields.
    Exits with status 2 on usage errors.
    """
    import tyro

    defaults = defaults or {}
    if positional:                          # to the front, so that no flag of many values takes one for its own
        places = words(arguments, parts)
        arguments = [*(arguments[i] for i in places), *(a for i, a in enumerate(arguments) if i not in places)]
    fields, homes = [], {}
    for cls in parts:
        hints = typing.get_type_hints(cls, include_extras=True)
        for f in dataclasses.fields(cls):
            if f.name in homes:
                raise InrError(f"{cls.__name__} and {homes[f.name].__name__} both have an option {f.name!r}; "
                               f"the plugin that brought one of them must rename it.")
            homes[f.name] = cls
            also = ["-o"] if f.name == "output" and f.name not in positional else (aliases or {}).get(f.name)
            hint = Annotated[hints[f.name], tyro.conf.arg(help=help_of(cls).get(f.name, ""), aliases=also)]
            if f.name in positional:
                hint = tyro.conf.Positional[hint]
            default = defaults.get(f.name, f.default if f.default is not dataclasses.MISSING else
                                   f.default_factory() if f.default_factory is not dataclasses.MISSING else
                                   dataclasses.MISSING)
            fields.append((f.name, hint) if default is dataclasses.MISSING else
                          (f.name, hint, dataclasses.field(default=default)))
    fields.sort(key=len)                    # those without a default first, as dataclasses need
    flat = dataclasses.make_dataclass("Arguments", fields, frozen=True)
    flat.__doc__ = description
    values = tyro.cli(flat, args=list(arguments), prog=f"inr {prog}", description=description)
    return {cls: cls(**{f.name: getattr(values, f.name) for f in dataclasses.fields(cls)}) for cls in parts}


def words(arguments: Sequence[str], parts: Iterable[type]) -> list[int]:
    """Return the places of the arguments that are no flag and no flag's value.

    A flag takes the word behind it, unless it is a switch of one of the dataclasses in `parts`, and all numbers that
    follow.
    """
    switches = {f.name for part in parts for f in dataclasses.fields(part) if f.type in (bool, "bool")}
    found, waits, numbers = [], False, False
    for i, argument in enumerate(arguments):
        if _is_number(argument) and (waits or numbers):
            waits = False
        elif argument.startswith("-") and not _is_number(argument):
            name = argument.lstrip("-").replace("-", "_")
            waits = numbers = not ("=" in name or name in ("h", "help") or name.removeprefix("no_") in switches)
        elif waits:
            waits = False
        else:
            found.append(i)
            numbers = False
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def emit(result: Mapping[str, Any], as_json: bool) -> None:
    """Print a command's result: one JSON object, or the file it wrote, or a table of what it found."""
    if as_json:
        sys.stdout.write(json.dumps(finite(result)) + "\n")
        return
    for key in ("archive", "output"):
        if key in result:
            details = {k: v for k, v in result.items() if k != key and not _long(v)}
            if details:
                note("  ".join(_pairs(details)))
            sys.stdout.write(f"{result[key]}\n")
            return
    if result and all(isinstance(value, Mapping) for value in result.values()):
        sys.stdout.write("\n".join(_tables(result)) + "\n")
    else:
        sys.stdout.write("\n".join(_pairs(result)) + "\n")


def _long(value) -> bool:
    """Say whether a value is a list of results too long to read; --json has it."""
    return isinstance(value, (Mapping, list)) and len(value) > 12


def note(text: str) -> None:
    """Write a line for people to stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def finite(value):
    """Return JSON-able values: numbers that JSON does not know become null."""
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _tables(result: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = []
    for title, entries in result.items():
        width = max((len(str(key)) for key in entries), default=0)
        lines.append(title)
        lines += [f"  {key:<{width}}  {value:.5g}" if isinstance(value, float) else f"  {key:<{width}}  {value}"
                  for key, value in entries.items()]
    return lines


def _pairs(result: Mapping[str, Any], prefix: str = "") -> list[str]:
    lines = []
    for key, value in result.items():
        if isinstance(value, Mapping):
            lines += _pairs(value, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key} {value:.6g}" if isinstance(value, float) else f"{prefix}{key} {value}")
    return lines
