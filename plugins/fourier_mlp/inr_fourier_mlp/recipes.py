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
    """Return our recipe for a signal: frequencies of all octaves that its samples hold, Muon, bfloat16."""
    kind, samples = signal.spec.kind, len(signal)
    config, passes, lowest = FAST.get(kind, FAST["image"])
    batch = min(max(samples // 48, 1024), 16384)
    steps = min(max(1500, round(passes * samples / batch)), 4000)
    fit = {"steps": steps, "batch": batch, "optimizer": "muon", "lr": 1e-2, "precision": "bf16"}
    return Recipe(config, fit)
