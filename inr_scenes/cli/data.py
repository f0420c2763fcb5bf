"""inr data list | get NAME | views MESHES OUT: public data sets; posed views of meshes."""

from dataclasses import dataclass
from typing import Any

from ..errors import InrError, suggestion
from .common import Output, note, parse

VERBS = ("list", "get", "views")


@dataclass(frozen=True)
class Get:
    """What to fetch."""

    name: str
    """Name of a set in inr data list."""
    output: str | None = None
    """Folder to put it into; default: the user's cache."""


@dataclass(frozen=True)
class Views:
    """What to render."""

    meshes: str
    """Folder of meshes, one mesh, or an .npz pack of many."""
    output: str
    """Folder: one sub-folder an object, as NeRF-synthetic lays them out."""
    views: int = 24
    """Views of each object, spread evenly around it."""
    size: int = 128
    """Height and width of a view."""
    test: int = 4
    """How many of the views are held out, in transforms_test.json."""
    shading: str = "lambert"
    """lambert (a light above the camera's shoulder), flat (colours alone) or normal."""
    alpha: bool = False
    """RGBA pictures instead of a white background."""
    up: str = "z"
    """The meshes' upward axis: y or z."""
    limit: int | None = None
    """Only the first so many objects."""
    samples: int = 2
    """Rays along each side of a pixel."""


def run(arguments: list[str]) -> dict[str, Any] | None:
    """List public data sets, get one with its checksums verified, or render posed views of meshes."""
    from ..catalog import catalog, get

    verb = next((a for a in arguments if not a.startswith("-")), None)
    if verb not in VERBS:
        raise InrError(f"inr data takes {', '.join(VERBS)}.{suggestion(verb or '', VERBS)}")
    rest = list(arguments)
    rest.remove(verb)
    if verb == "list":
        parse((Output,), rest, prog="data list", description=run.__doc__)
        return {"sets": {name: f"{len(entry['files'])} files, {sum(f['bytes'] for f in entry['files']) / 1e6:.1f} MB, "
                               f"{entry['licence']}" for name, entry in catalog().items()}}
    if verb == "views":
        return _views(parse((Views, Output), rest, prog="data views", description="Render posed views of meshes.",
                            positional=("meshes", "output"))[Views])
    options = parse((Get, Output), rest, prog="data get", description=run.__doc__, positional=("name",))[Get]
    path = get(options.name, options.output)
    return {"output": str(path), "licence": catalog()[options.name]["licence"]}


def _views(options: Views) -> dict[str, Any]:
    from dataclasses import asdict

    from ..views import render_set

    settings = asdict(options)
    counts = {"objects": 0, "left_out": 0}
    for line in render_set(settings.pop("meshes"), settings.pop("output"), **settings):
        if "error" in line:
            note(f"left out: {line['name']}: {line['error']}")
        counts["left_out" if "error" in line else "objects"] += 1
        if counts["objects"] % 25 == 0:
            note(f"{counts['objects']} objects")
    if not counts["objects"]:
        raise InrError(f"None of the {counts['left_out']} meshes of {options.meshes} could be rendered.")
    return {"output": options.output, **counts}
