"""inr list: installed fields, signals, problems and exporters."""

from typing import Any

from ..plugins import host
from .common import Output, parse


def run(arguments: list[str]) -> dict[str, Any]:
    """List installed fields, signals, problems and exporters, and the plugin each comes from."""
    from .fit import describe

    parse((Output,), arguments, prog="list", description=run.__doc__)
    kinds = ("fields", "generalizable fields", "priors", "trained models", "signals", "problems", "exporters")
    found: dict[str, Any] = {kind: {} for kind in kinds}
    for item, owner in host().collect("inr_fields"):
        found["fields"][item.name] = f"{describe(item).split('. ')[0].rstrip('.')}  [{owner.distribution}]"
    for item, owner in host().collect("inr_models"):
        found["generalizable fields"][item.name] = (f"{describe(item).split('. ')[0].rstrip('.')}"
                                                    f"  [{owner.distribution}]")
    for item, owner in host().collect("inr_priors"):
        found["priors"][item.name] = f"{describe(item).split('. ')[0].rstrip('.')}  [{owner.distribution}]"
    for item, owner in host().collect("inr_weights"):
        found["trained models"][item.name] = f"{item.help}  [{owner.distribution}]"
    for item, owner in host().collect("inr_signals"):
        found["signals"][item.kind] = f"{' '.join(item.suffixes) or 'folders'}  [{owner.distribution}]"
    for item, owner in host().collect("inr_problems"):
        found["problems"][item.name] = f"{describe(item).split('. ')[0].rstrip('.')}  [{owner.distribution}]"
    for item, owner in host().collect("inr_exporters"):
        found["exporters"][item.name] = (f"{', '.join(sorted(item.kinds))} → {' '.join(item.suffixes)}"
                                         f"  [{owner.distribution}]")
    return found
