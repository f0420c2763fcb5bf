"""Turn signals into implicit neural representations, and back.

    import inr_scenes as inr
    signal = inr.load("bunny.ply", resolution=128)
    field = inr.field("siren", signal.spec)
    inr.fit(field, signal, steps=2000).save("bunny.safetensors")

Everything is imported when it is first used, so `import inr_scenes` is instant and loads no torch.
"""

import importlib
import sys
import types

_HOME = {
    "InrError": "errors", "hookimpl": "hookspecs", "Exporter": "hookspecs", "Command": "hookspecs",
    "Axis": "spec", "Spec": "spec", "Frame": "spec", "ValueMap": "spec", "Cameras": "camera",
    "Signal": "signal", "GridSignal": "signal", "Field": "field", "Recipe": "field", "decode": "field",
    "gradient": "derivatives", "divergence": "derivatives", "laplacian": "derivatives", "jacobian": "derivatives",
    "hessian": "derivatives", "SineLayer": "siren", "Siren": "siren",
    "FitConfig": "fit", "Step": "fit", "Result": "fit", "Diverged": "guard", "fit": "fit", "steps": "fit",
    "open": "archive", "save": "archive", "header": "archive",
    "GeneralizableField": "generalizable", "TrainConfig": "train", "train_steps": "train", "open_set": "dataset",
    "export": "export", "mesh": "mesh", "render": "render", "orbit": "render", "spiral": "render",
    "evaluate": "evaluate", "sheet": "evaluate", "load": "api", "field": "api", "bar": "api",
}
__all__ = sorted(_HOME)
__version__ = "0.1.0"


class _Package(types.ModuleType):
    """A package whose public names win over its submodules of the same name: `inr.fit` is always the function."""

    def __setattr__(self, name: str, value) -> None:
        if not (name in _HOME and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)

    def __getattr__(self, name: str):
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
        setattr(self, name, value)
        return value

    def __dir__(self) -> list[str]:
        return __all__


sys.modules[__name__].__class__ = _Package
