"""The hooks a plugin may implement. Each takes nothing and returns a list; see plugins/README.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from .field import Field
    from .generalizable import GeneralizableField
    from .prior import Prior
    from .problems import Problem
    from .signal import Signal

hookspec = pluggy.HookspecMarker("inr_scenes")
hookimpl = pluggy.HookimplMarker("inr_scenes")


@dataclass(frozen=True)
class Exporter:
    """Writes one field to one file; the suffix of the file decides which exporter is taken.

    kinds: signal kinds it accepts · suffixes: lower case, with the dot · options: a frozen dataclass whose fields
    become flags · write(field, path, options) writes `path` and returns facts worth reporting, JSON-able.
    """

    name: str
    kinds: frozenset[str]
    suffixes: tuple[str, ...]
    options: type
    write: Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Command:
    """A command of `inr`: run(arguments) returns a JSON-able result, printed by the command line.

    `run` may be given as "package.module:function", which is imported when the command is used.
    """

    name: str
    help: str
    run: Callable[[list[str]], dict[str, Any] | None] | str


@dataclass(frozen=True)
class Weights:
    """An archive that a plugin brings, and what it holds in a line."""

    name: str
    path: Path
    help: str


@hookspec
def inr_fields() -> list[type[Field]]:
    """Return the field classes this plugin brings; each has a `name` and a `Config`."""


@hookspec
def inr_models() -> list[type[GeneralizableField]]:
    """Return generalizable fields, trained on many signals; each has a `name` and a `Config`."""


@hookspec
def inr_priors() -> list[type[Prior]]:
    """Return classes that learn how latents are distributed and draw new ones; each has a `name` and a `Config`."""


@hookspec
def inr_weights() -> list[Weights]:
    """Return trained models that come with the plugin, addressed by name wherever an archive is asked for."""


@hookspec
def inr_signals() -> list[type[Signal]]:
    """Return signal types; each has a `kind` and the `suffixes` it loads."""


@hookspec
def inr_problems() -> list[type[Problem]]:
    """Return inverse problems; each has a `name`, wrap(signal, **options) and load(path, **options)."""


@hookspec
def inr_exporters() -> list[Exporter]:
    """Return exporters, found by kind and file suffix."""


@hookspec
def inr_commands() -> list[Command]:
    """Return further commands of the command line."""
