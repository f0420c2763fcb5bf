"""Turn signals into implicit neural representations, and back.

    import inr_scenes as inr
    signal = inr.load("bunny.ply", resolution=128)
    field = inr.field("siren", signal.spec)
    inr.fit(field, signal, steps=2000).save("bunny.safetensors")

Everything is imported when it is first used, so `import inr_scenes` is instant and loads no torch.
"""

import importlib

_HOME = {
    "InrError": "errors", "hookimpl": "hookspecs", "Exporter": "hookspecs", "Command": "hookspecs",
    "Axis": "spec", "Spec": "spec", "Frame": "spec", "ValueMap": "spec", "Cameras": "camera",
    "Signal": "signal", "GridSignal": "signal", "Field": "field", "Recipe": "field", "decode": "field",
    "SineLayer": "siren", "Siren": "siren",
    "FitConfig": "fit", "Step": "fit", "Result": "fit", "Diverged": "fit", "fit": "fit", "steps": "fit",
    "open": "archive", "save": "archive", "header": "archive",
    "export": "export", "mesh": "mesh", "render": "render", "orbit": "render", "spiral": "render",
    "evaluate": "evaluate", "sheet": "evaluate", "load": "api", "field": "api", "bar": "api",
}
__all__ = sorted(_HOME)
__version__ = "0.1.0"


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value         # over a submodule of the same name, as inr.fit
    return value


def __dir__() -> list[str]:
    return __all__
