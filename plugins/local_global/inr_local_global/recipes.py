"""Settings for each kind of signal: those of the publications, and tuned ones."""

from inr_scenes.field import Recipe
from inr_scenes.signal import Signal
from inr_scenes.siren import waves

# Ashkenazi & Treister, NeurIPS 2024: partitions and widths for an image of 512², a sound of 7 s, 300 frames of 512², a
# shape of 512³. Other sizes take blocks of the same size, and widths that meet the budget.
LOCAL = {"image": 15, "audio": 45, "video": 56, "shape": 18}
GLOBAL = {"image": (14, 84), "audio": (42, 72), "video": (55, 180), "shape": (17, 76)}
BUDGETS = {"video": 3_190_000}
PARTITIONS = {"audio": (32,), "video": (5, 8, 8), "shape": (8, 8, 8)}
# Muon, with `local_rate` none: after as many steps bach is 7 dB further than with Adam, video 5 dB, photographs 2 dB.
# At 8e-4 photographs end worse, and sounds learn nothing; the noise of "counting" bears 2e-4 only
# By error, within blocks: photographs 0.4 to 1.2 dB further, films 0.4; of sounds one gains, one loses
FAST_FIT = {
    "image": {"lr": 4e-4, "batch": 8192, "steps": 3000, "sampling": "error"},
    "audio": {"lr": 2e-4, "batch": 8192, "steps": 3000},
    "video": {"lr": 7e-4, "batch": 16384, "steps": 3000, "sampling": "error"},
    # 7e-4 is as good for 900 steps, and worse from then on: armadillo at 256³ after 3,000 0.9947, by this 0.9967
    "shape": {"lr": 5e-4, "batch": 8192, "focus": 0.75},
}
INCODE_FIT = {
    "image": {"optimizer": "muon", "lr": 4e-4, "batch": 4096, "precision": "auto"},
    "audio": {"optimizer": "muon", "lr": 4e-4, "batch": 8192, "precision": "auto"},
    "video": {"lr": 3e-4, "batch": 8192},
    "shape": {"optimizer": "muon", "lr": 7e-4, "batch": 8192, "focus": 0.75, "precision": "auto"},
}
STEPS = {"image": 1001, "audio": 1001, "video": 5001, "shape": 26_860}


def recipe(signal: Signal, preset: str, with_global: bool = True) -> Recipe:
    """Return what a partitioned SIREN suggests for a signal."""
    if preset == "published":
        return Recipe(_published(signal, with_global), _published_fit(signal), grid="ends")
    return _by_muon(signal)


def _published(signal: Signal, with_global: bool) -> dict:
    spec = signal.spec
    kind, shape = spec.kind, spec.shape
    config = {"first_omega_0": 3000.0} if kind == "audio" else {}
    if kind == "image" and shape != (512, 512):
        return config
    if all(c <= n for c, n in zip(PARTITIONS.get(kind, ()), shape)):
        config["partitions"] = PARTITIONS.get(kind, (16, 16))
    if kind != "shape" or shape == (512, 512, 512):     # other shapes occupy other blocks: widths from the budget
        h, g = GLOBAL[kind]
        config |= {"local_features": h, "global_features": g} if with_global else {"local_features": LOCAL[kind]}
    if kind == "video":
        config["overlap"] = (2, 1, 1)
    return config


def _published_fit(signal: Signal) -> dict:
    kind, n = signal.spec.kind, len(signal)
    batch = {"video": max(1, round(0.02 * n)), "shape": 100_000}.get(kind, 0)
    return {"steps": STEPS[kind], "optimizer": "adam", "lr": 5e-4 if kind == "image" else 1e-4, "batch": batch,
            "schedule": "constant", "warmup": 0, "sampling": "uniform" if batch else "permuted", "focus": 0.0}


def incode_recipe(signal: Signal, preset: str) -> Recipe:
    """Return what INCODE suggests for a signal."""
    kind = signal.spec.kind
    if preset == "published":
        config = {"first_omega_0": 3000.0} if kind == "audio" else {}
        return Recipe({**config, "train_encoder": True}, _incode_fit(kind), grid="ends")
    # Muon needs sound to begin as SIREN's: bach after 200 steps 17.2 dB with the published scalars, 28.3 without
    config = {"aux_bias": 0.0} if kind == "audio" else {}
    first = {} if kind == "shape" else waves(signal.spec)       # higher ones gain it nothing on shapes
    return Recipe({**first, **config}, INCODE_FIT.get(kind, {"lr": 3e-4}))


def lg_incode_recipe(signal: Signal, preset: str) -> Recipe:
    """Return what Local-Global INCODE suggests for a signal."""
    if preset == "published":
        return Recipe(_published(signal, True), _incode_fit(signal.spec.kind), grid="ends")
    fast = _by_muon(signal)
    fit = fast.fit | {"lr": min(4e-4, fast.fit["lr"])}
    return Recipe(fast.config | {"aux_bias": 0.0}, fit)     # begins as SIREN: eight shaped sines deep is unstable


def _by_muon(signal: Signal) -> Recipe:
    fit = {"optimizer": "muon", "lr": 4e-4, "precision": "auto", **FAST_FIT.get(signal.spec.kind, {})}
    return Recipe({**waves(signal.spec), "local_rate": None}, fit)


def _incode_fit(kind: str) -> dict:
    """Kazerouni et al., WACV 2024; the paper has no video, which takes an image's rate."""
    lr, final, steps, batch = {"image": (9e-4, 0.1, 501, 65_536), "audio": (9e-5, 0.2, 1001, 0),
                               "shape": (1e-4, 0.2, 26_860, 100_000)}.get(kind, (9e-4, 0.1, 1001, 65_536))
    return {"steps": steps, "optimizer": "adam", "lr": lr, "batch": batch, "schedule": "exponential",
            "final_lr": final, "warmup": 0, "sampling": "permuted", "focus": 0.0}
