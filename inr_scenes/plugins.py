"""The plugin host: finds plugins, loads each in a guard, and answers for names.

A broken plugin never takes a command down: it is set aside with its error, which `inr plugins` and every
"not found" message show.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pluggy

from . import hookspecs
from .errors import InrError, suggestion

GROUP = "inr_scenes"
BUILTIN = "inr_scenes.builtin"


@dataclass
class Plugin:
    """One plugin: where it came from, and its error if it failed to load or to answer a hook."""

    name: str
    distribution: str
    version: str
    error: str = ""


@dataclass(eq=False)
class Host:
    """The loaded plugins and the catalogue of what they bring."""

    manager: pluggy.PluginManager
    plugins: list[Plugin] = field(default_factory=list)

    def register(self, plugin: Plugin, load) -> None:
        """Load one plugin in a guard: whatever its import raises is kept as its error."""
        same = next((known for known in self.plugins if known.name == plugin.name), None)
        self.plugins.append(plugin)
        if same is not None:
            plugin.error = (f"a plugin called {plugin.name!r} is loaded already, from {same.distribution} "
                            f"{same.version}; this one is from {plugin.distribution} {plugin.version}. Take one away.")
            return
        try:
            self.manager.register(load(), name=plugin.name)
            self.manager.check_pending()            # a hook whose name is misspelt
        except (KeyboardInterrupt, MemoryError):
            raise
        except BaseException as error:          # an import may raise anything, SystemExit included
            plugin.error = f"{type(error).__name__}: {error}"
            if self.manager.has_plugin(plugin.name):
                self.manager.unregister(name=plugin.name)

    @functools.cache  # noqa: B019 - one host lives as long as the program
    def collect(self, hook: str) -> list[tuple[Any, Plugin]]:
        """Return what every plugin answers to a hook, each item with its plugin."""
        found = []
        owners = {plugin.name: plugin for plugin in reversed(self.plugins)}      # of one name the first is loaded
        for impl in getattr(self.manager.hook, hook).get_hookimpls():
            owner = owners[impl.plugin_name]
            try:
                found += [(item, owner) for item in impl.function()]
            except (KeyboardInterrupt, MemoryError):
                raise
            except BaseException as error:
                owner.error = f"{hook}: {type(error).__name__}: {error}"
        return found

    def find(self, hook: str, what: str, name: str, attribute: str = "name") -> Any:
        """Return the one item called `name`; raise InrError when there is none or more than one."""
        items = self.collect(hook)
        hits = [(item, owner) for item, owner in items if getattr(item, attribute) == name]
        if len(hits) > 1:
            raise InrError(f"{what} {name!r} is brought by {_places(hits)}. Uninstall one of them.")
        if hits:
            return hits[0][0]
        names = sorted({getattr(item, attribute) for item, _ in items})
        raise InrError(f"There is no {what} {name!r}.{suggestion(name, names)} "
                       f"Installed: {', '.join(names)}.{self.broken()}")

    def broken(self) -> str:
        """Say which plugins failed to load, for an error about what they might have brought."""
        return "".join(f" (plugin {p.name} failed to load: {p.error})" for p in self.plugins if p.error)

    def owner(self, hook: str, item: Any) -> Plugin:
        """Return the plugin that brought `item`."""
        return next(owner for found, owner in self.collect(hook) if found is item)

    def fields(self) -> list[type]:
        """Return all field classes."""
        return [item for item, _ in self.collect("inr_fields")]

    def models(self) -> list[type]:
        """Return all generalizable field classes."""
        return [item for item, _ in self.collect("inr_models")]

    def priors(self) -> list[type]:
        """Return all classes that learn how the latents of signals are distributed."""
        return [item for item, _ in self.collect("inr_priors")]

    def signals(self) -> list[type]:
        """Return all signal classes."""
        return [item for item, _ in self.collect("inr_signals")]


@functools.cache
def host() -> Host:
    """Return the host with all plugins loaded, once per program."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    found = Host(manager)
    version = _version("inr-scenes")
    found.register(Plugin("built-in", "inr-scenes", version), lambda: importlib.import_module(BUILTIN))
    if os.environ.get("INR_NO_PLUGINS", "") not in ("", "0"):
        return found
    for entry in _entry_points():
        distribution = entry.dist.name if entry.dist else "?"
        found.register(Plugin(entry.name, distribution, entry.dist.version if entry.dist else "?"), entry.load)
    for source in filter(None, (part.strip() for part in os.environ.get("INR_PLUGINS", "").split(","))):
        found.register(Plugin(Path(source).stem, source, "-"), functools.partial(_load_source, source))
    return found


def find_field(name: str) -> type:
    """Return the field class called `name`."""
    return host().find("inr_fields", "field", name)


def find_model(name: str) -> type:
    """Return the generalizable field class called `name`."""
    return host().find("inr_models", "generalizable field", name)


def find_prior(name: str) -> type:
    """Return the prior class called `name`."""
    return host().find("inr_priors", "prior", name)


def find_signal(kind: str) -> type:
    """Return the signal class of a kind."""
    return host().find("inr_signals", "signal type", kind, "kind")


def find_problem(name: str) -> type:
    """Return the inverse problem called `name`."""
    return host().find("inr_problems", "problem", name)


def find_exporter(kind: str, suffix: str) -> hookspecs.Exporter:
    """Return the exporter of a kind that writes `suffix`; the error lists what this kind can be written to."""
    items = [(item, owner) for item, owner in host().collect("inr_exporters") if kind in item.kinds]
    hits = [(item, owner) for item, owner in items if suffix.lower() in item.suffixes]
    if len(hits) > 1:
        raise InrError(f"Two exporters write {kind} as {suffix}: {_places(hits)}. Uninstall one of them.")
    if hits:
        return hits[0][0]
    known = sorted({suffix for item, _ in items for suffix in item.suffixes})
    if kind == "lightfield":
        raise InrError(f"A light field is not written as {suffix or 'a file without suffix'}: inr render makes films "
                       f"and pictures of it, --path train those of its own cameras.")
    raise InrError(f"A field of kind {kind!r} cannot be written as {suffix or 'a file without suffix'}; "
                   f"it can as {' '.join(known) or 'nothing'}.")


def conflicts() -> list[str]:
    """Return a line for every name of a field, signal, problem, exporter or command that two plugins bring."""
    lines = []
    named = (("inr_fields", "name"), ("inr_models", "name"), ("inr_priors", "name"), ("inr_weights", "name"),
             ("inr_signals", "kind"), ("inr_problems", "name"), ("inr_exporters", "name"), ("inr_commands", "name"))
    for hook, attribute in named:
        seen: dict[str, Plugin] = {}
        for item, owner in host().collect(hook):
            name = getattr(item, attribute)
            if name in seen:
                lines.append(f"{name!r} is brought by {seen[name].distribution} and {owner.distribution}")
            seen[name] = owner
    return lines


def _places(hits: Iterable[tuple[Any, Plugin]]) -> str:
    """Say which distributions brought things of one name."""
    return " and ".join(f"{owner.distribution} {owner.version}" for _, owner in hits)


def _entry_points() -> Iterable[importlib.metadata.EntryPoint]:
    return sorted(importlib.metadata.entry_points(group=GROUP), key=lambda entry: entry.name)


def _load_source(source: str):
    if not source.endswith(".py"):
        return importlib.import_module(source)
    path = Path(source).expanduser()
    if not path.is_file():
        raise InrError(f"{path} does not exist (named in INR_PLUGINS).")
    name = f"inr_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module              # dataclasses and tyro look modules up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "0"
