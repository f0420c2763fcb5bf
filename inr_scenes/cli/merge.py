"""inr merge ARCHIVE ARCHIVE OUT: join two archives of neighbouring regions."""

from dataclasses import dataclass
from typing import Any

from .common import Output, parse


@dataclass(frozen=True)
class Merge:
    """What to join."""

    first: str
    """Archive of one region."""
    second: str
    """Archive of another region that shares its global network."""
    output: str
    """Archive to write."""


def run(arguments: list[str]) -> dict[str, Any]:
    """Join two archives of neighbouring regions that share one global network, as parts cropped from one archive do."""
    from ..archive import header, open, save

    options = parse((Merge, Output), arguments, prog="merge", description=run.__doc__,
                    positional=("first", "second", "output"))[Merge]
    whole = open(options.first).joined(open(options.second))
    kinds = {header(part).get("dtype", "float32") for part in (options.first, options.second)}
    path = save(whole, options.output, dtype=kinds.pop() if len(kinds) == 1 else "float32")
    return {"output": str(path), "parameters": whole.parameter_count, "bytes": path.stat().st_size,
            "shape": [*whole.spec.shape, whole.spec.out_features]}
