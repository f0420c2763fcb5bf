"""What the host itself brings, through the same hooks as everybody's plugins."""

from .hookspecs import Command, hookimpl

COMMANDS = {
    "fit": "fit one field to one signal",
    "train": "train a generalizable field on a folder of signals",
    "encode": "turn signals into fields with a trained model, in one pass each",
    "sample": "draw new signals from a prior over latents",
    "tokens": "which region each latent token governs",
    "solve": "recover a signal from measurements",
    "export": "write a field to a file: the suffix decides",
    "render": "novel views of a light field or a shape",
    "crop": "keep part of a signal and of the weights",
    "extend": "grow an encoded signal by new local parts",
    "merge": "join two archives of neighbouring regions",
    "eval": "metrics of an archive against a reference",
    "view": "look at a shape or a light field in the browser",
    "info": "what an archive holds, from its header alone",
    "list": "installed fields, signals, problems and exporters",
    "plugins": "installed plugins, and those that failed to load",
    "data": "list, get: public data sets with verified checksums; views: posed views of meshes",
    "doctor": "check this installation; say what mends it",
}


@hookimpl
def inr_fields():
    """The sine network, as published."""
    from .siren import Siren
    return [Siren]


@hookimpl
def inr_signals():
    """One class a medium."""
    from .signals.audio import AudioSignal
    from .signals.image import ImageSignal
    from .signals.lightfield import LightFieldSignal
    from .signals.shape import ShapeSignal
    from .signals.video import VideoSignal
    return [ImageSignal, VideoSignal, AudioSignal, ShapeSignal, LightFieldSignal]


@hookimpl
def inr_problems():
    """Inverse problems, one a file, and two equations."""
    from .problems.ct import Tomography
    from .problems.denoise import Denoising
    from .problems.inpaint import Inpainting
    from .problems.pde import Helmholtz, Wave
    from .problems.poisson import Poisson
    from .problems.sdf import SignedDistance
    from .problems.superres import SuperResolution
    return [SuperResolution, Denoising, Inpainting, Tomography, Poisson, SignedDistance, Helmholtz, Wave]


@hookimpl
def inr_exporters():
    """Writers for every built-in kind."""
    from .exporters import media, shape
    return [*media.EXPORTERS, *shape.EXPORTERS]


@hookimpl
def inr_commands():
    """The commands of `inr`."""
    modules = {"list": "listing"}       # a module called list would hide the type from its package
    return [Command(name, text, f"inr_scenes.cli.{modules.get(name, name)}:run") for name, text in COMMANDS.items()]
