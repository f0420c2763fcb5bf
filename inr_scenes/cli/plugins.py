"""inr plugins: what loaded from which distribution, and what failed and why."""

from typing import Any

from ..plugins import conflicts, host
from .common import Output, parse


def run(arguments: list[str]) -> dict[str, Any]:
    """List installed plugins with their versions, those that failed to load and why, and names brought twice."""
    parse((Output,), arguments, prog="plugins", description=run.__doc__)
    lines = conflicts()                 # calls every hook, so that one that raises shows below
    result: dict[str, Any] = {"loaded": {}, "failed": {}}
    for plugin in host().plugins:
        if plugin.error:
            result["failed"][plugin.name] = f"{plugin.distribution} {plugin.version}: {plugin.error}"
        else:
            result["loaded"][plugin.name] = f"{plugin.distribution} {plugin.version}"
    if lines:
        result["conflicts"] = {str(i): line for i, line in enumerate(lines, 1)}
    return result
