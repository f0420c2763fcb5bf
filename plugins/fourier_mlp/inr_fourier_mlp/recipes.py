"""Settings of `fourier-mlp`: the image study's steps as it took them, and our own recipe for each kind of signal."""

from typing import Any

from inr_scenes.field import Recipe
from inr_scenes.signal import Signal
from inr_scenes.spec import Spec

STUDY_SIDE = 768                            # pixels: the study's photographs are square
STUDY_SCALE = 40.0                          # its 80 on [0, 1]
STUDY_SECONDS = 180.0

# what each step of the study changes, one upon the other
LADDER: dict[str, dict[str, Any]] = {
    "study-baseline": {"features": "fourier", "encoding_features": 64, "frequency_scale": None, "octaves": 0.0,
                       "hidden_features": 256, "layers": 4, "activation": "relu", "layer_norm": False, "experts": 1},
    "study-width": {"hidden_features": 1024, "layers": 6},
    "study-encoding": {"encoding_features": 256, "frequency_scale": STUDY_SCALE},
    "study-schedule-free": {},
    "study-layernorm": {"layer_norm": True},
    "study-experts": {"experts": 2, "layers": 5},
    "study-gabor": {"features": "gabor"},
}
ADAMW = {"optimizer": "adamw", "lr": 1e-4}
SCHEDULE_FREE = {"optimizer": "schedule-free", "lr": 4e-4}
STUDY_FIT = {"steps": None, "seconds": STUDY_SECONDS, "batch": 4096, "schedule": "constant", "warmup": 0,
             "sampling": "permuted", "precision": "32"}


def suggest(signal: Signal, preset: str) -> Recipe:
    """Return the settings of a preset for a signal."""
    if preset == "published":
        return study("study-gabor", signal.spec)
    return study(preset, signal.spec) if preset in LADDER else fast(signal)


def study(step: str, spec: Spec) -> Recipe:
    """Return a step of the study. Its frequencies per sample are kept on signals that are not 768 samples across."""
    names = list(LADDER)
    config: dict[str, Any] = {}
    for name in names[:names.index(step) + 1]:
        config |= LADDER[name]
    if config["frequency_scale"] is not None and spec.axes:
        config["frequency_scale"] = per_axis(spec, STUDY_SCALE / STUDY_SIDE)
    optimizer = ADAMW if names.index(step) < names.index("study-schedule-free") else SCHEDULE_FREE
    return Recipe(config, STUDY_FIT | optimizer)


def per_axis(spec: Spec, per_sample: float) -> float | tuple[float, ...]:
    """Return the scale of frequencies that is `per_sample` times an axis's number of samples."""
    scales = tuple(per_sample * count for count in spec.shape)
    return scales[0] if len(set(scales)) == 1 else scales


def fast(signal: Signal) -> Recipe:
    """Return our own settings: frequencies over many octaves, GELU, Muon and bf16 instead of a wider network."""
    spec = signal.spec
    return Recipe({**FAST_CONFIG, **FAST_KINDS.get(spec.kind, lambda spec: {})(spec)},
                  {**FAST_FIT, **FAST_STEPS.get(spec.kind, {})})


FAST_CONFIG = {"features": "fourier", "encoding_features": 512, "hidden_features": 256, "layers": 4,
               "activation": "gelu", "layer_norm": False}
FAST_KINDS = {
    # 80 cycles per unit for 768 pixels, and seven octaves down from there: a photograph's spectrum falls off likewise
    "image": lambda spec: {"frequency_scale": per_axis(spec, 80 / 768), "octaves": 7.0},
    "video": lambda spec: {"frequency_scale": per_axis(spec, 80 / 768), "octaves": 5.0},
    "audio": lambda spec: {"frequency_scale": spec.shape[0] / 50, "octaves": 0.0, "encoding_features": 256,
                           "output_activation": "linear"},
    "shape": lambda spec: {"frequency_scale": 10.0, "octaves": 4.0, "encoding_features": 256},
    "lightfield": lambda spec: {"rays": "auto", "frequency_scale": 8.0, "octaves": 4.0, "encoding_features": 256},
}
FAST_FIT = {"optimizer": "muon", "lr": 9e-3, "batch": 4096, "precision": "auto", "steps": 2600}
FAST_STEPS = {
    # by error: photographs 0.4 to 1.6 dB further after as many steps; of sounds one gains, one loses
    "image": {"sampling": "error"},
    "shape": {"batch": 8192, "focus": 0.75, "steps": 600},
    "lightfield": {"batch": 8192, "focus": 0.5, "steps": 4000},
}
