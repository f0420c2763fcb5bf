"""The generalizable field `lainr`, and those it is compared with."""

from inr_scenes import hookimpl


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
