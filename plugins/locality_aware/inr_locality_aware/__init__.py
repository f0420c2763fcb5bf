"""Generalizable fields: `lainr`, and `ipc`, `transinr` it is compared with."""

from inr_scenes import hookimpl


@hookimpl
def inr_models():
    """The generalizable fields of this plugin."""
    from .fields import LocalityAware, PatternComposer, WeightModulation
    return [LocalityAware, PatternComposer, WeightModulation]
