"""inr data list | get NAME: public data sets."""

from dataclasses import dataclass
from typing import Any

from ..errors import InrError, suggestion
from .common import Output, parse

VERBS = ("list", "get")


@dataclass(frozen=True)
class Get:
    """What to fetch."""

    name: str
    """Name of a set in inr data list."""
    output: str | None = None
    """Folder to put it into; default: the user's cache."""


def run(arguments: list[str]) -> dict[str, Any]:
    """List public data sets, or get one with its checksums verified."""
    from ..catalog import catalog, get

    verb = next((a for a in arguments if not a.startswith("-")), None)
    if verb not in VERBS:
        raise InrError(f"inr data takes {' or '.join(VERBS)}.{suggestion(verb or '', VERBS)}")
    rest = list(arguments)
    rest.remove(verb)
    if verb == "list":
        parse((Output,), rest, prog="data list", description=run.__doc__)
        return {"sets": {name: f"{len(entry['files'])} files, {sum(f['bytes'] for f in entry['files']) / 1e6:.1f} MB, "
                               f"{entry['licence']}" for name, entry in catalog().items()}}
    options = parse((Get, Output), rest, prog="data get", description=run.__doc__, positional=("name",))[Get]
    path = get(options.name, options.output)
    return {"output": str(path), "licence": catalog()[options.name]["licence"]}
