"""inr info ARCHIVE: what an archive holds, from its header alone; loads neither torch nor weights."""

import math
from dataclasses import dataclass
from typing import Any

from .common import Output, parse


@dataclass(frozen=True)
class Info:
    """What to look at."""

    archive: str
    """Archive, or the run folder that holds one."""


def run(arguments: list[str]) -> dict[str, Any]:
    """Print field, kind, shape, parameters, bytes, bits per value, metrics."""
    from ..archive import header

    options = parse((Info, Output), arguments, prog="info", description=run.__doc__, positional=("archive",))[Info]
    head = header(options.archive)
    spec = head["spec"]
    grid = [axis["count"] for axis in spec["axes"]]
    shape = [*(grid or head.get("views", [])), spec["out_features"]]
    values = (math.prod(grid) if grid else head.get("samples", 0)) * spec["out_features"]
    return {
        "field": head["field"], "kind": spec["kind"], "shape": shape, "parameters": head["parameters"],
        "bytes": head["bytes"], "bits_per_value": 8 * head["bytes"] / values if values else None,
        "dtype": head.get("dtype", "float32"), "plugin": f"{head.get('plugin')} {head.get('plugin_version')}",
        "format": head["format"], "config": head["config"], "metrics": head["metrics"], "fit": head.get("fit", {}),
        "meta": spec["meta"],
    }
