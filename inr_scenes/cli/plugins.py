"""inr plugins: what loaded from which distribution, and what failed and why."""

from typing import Any

from ..plugins import conflicts, host
from .common import Output, parse


def run(arguments: list[str]) -> dict[str, Any]:
    """List installed plugins with their versions, those that failed to load and why, and names brought twice."""
    parse((Output,), arguments, prog="plugins", description=run.__doc__)
    loaded = host()
    for hook in ("inr_fields", "inr_models", "inr_signals", "inr_problems", "inr_exporters", "inr_commands"):
        loaded.collect(hook)            # a hook that raises shows here too
    result: dict[str, Any] = {"loaded": {}, "failed": {}}
    for plugin in loaded.plugins:
        if plugin.error:
            result["failed"][plugin.name] = f"{plugin.distribution} {plugin.version}: {plugin.error}"
        else:
            result["loaded"][plugin.name] = f"{plugin.distribution} {plugin.version}"
    if lines := conflicts():
        result["conflicts"] = {str(i): line for i, line in enumerate(lines, 1)}
    return result
