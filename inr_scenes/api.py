"""The verbs of the Python interface that look names up: load, field, bar."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from .errors import InrError
from .field import Field, build
from .plugins import find_field, find_signal, host
from .settings import from_dict
from .signal import Signal
from .spec import Spec


def signal_class(path, kind: str | None = None) -> type[Signal]:
    """Return the signal class that loads `path`: by `kind` if given, else by what the path looks like."""
    if kind is not None:
        return find_signal(kind)
    path = Path(path).expanduser()
    if not path.exists():
        raise InrError(f"{path} does not exist.")
    classes = host().signals()
    hits = [cls for cls in classes if cls.accepts(path)]
    if not hits:
        known = " ".join(sorted({suffix for cls in classes for suffix in cls.suffixes}))
        raise InrError(f"{path} is of no known signal type. Known suffixes: {known}; or a folder of posed images.")
    return hits[0]


def load(path, *, kind: str | None = None, like: Spec | None = None, **options) -> Signal:
    """Load a signal; the suffix decides its kind. Options are those of the kind, as resolution=128 for shapes."""
    cls = signal_class(path, kind or (like and like.kind))
    settings = from_dict(cls.Options, options, f"load {path}")
    values = {name: getattr(settings, name) for name in cls.Options.__dataclass_fields__}
    return cls.load(Path(path).expanduser(), like=like, **values)


def field(name: str, spec: Spec, *, seed: int = 0, **config) -> Field:
    """Build the field called `name` for a spec; `config` overrides its defaults."""
    return build(find_field(name), spec, config, seed=seed)


def bar(steps: Iterable, total: int | None = None) -> Iterator:
    """Show progress on stderr while passing the steps of a fit through."""
    from .track import bar as track_bar
    return track_bar(steps, total)
