"""The field `fourier-mlp`: random features of the coordinates, then a network of linear maps."""

from inr_scenes import hookimpl


@hookimpl
def inr_fields():
    """The one field of this plugin."""
    from .field import FourierMLP
    return [FourierMLP]
