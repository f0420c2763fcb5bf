"""The generalizable field `lainr`, and those it is compared with."""

from importlib.resources import files

from inr_scenes import hookimpl
from inr_scenes.hookspecs import Weights


@hookimpl
def inr_models():
    """The generalizable fields of this plugin."""
    from .baselines import HyperSiren, LearnedInit, LightFieldNetwork
    from .fields import LocalityAware, PatternComposer, WeightModulation
    return [LocalityAware, PatternComposer, WeightModulation, LearnedInit, HyperSiren, LightFieldNetwork]


@hookimpl
def inr_priors():
    """What draws new latents."""
    from .diffusion import LatentDiffusion
    return [LatentDiffusion]


@hookimpl
def inr_weights():
    """The models trained beforehand, each with a card beside it that says on what and how well."""
    lines = {"pretrained-image": "lainr for photographs of any size, in windows of 32 × 32 pixels",
             "pretrained-views": "lainr for light fields of single objects, from 1 to 5 views of 64 × 64 pixels"}
    place = files(__package__) / "trained"
    return [Weights(name, place / f"{name}.safetensors", line) for name, line in lines.items()
            if (place / f"{name}.safetensors").is_file()]
