"""Generalizable fields: LAINR against IPC, TransINR and its own ablations, at equal data, steps and encoder.

    python benchmarks/generalizable.py                       # small: 32 px, minutes on a CPU
    python benchmarks/generalizable.py --full                # 128 px, the published sizes, a GPU
    python benchmarks/generalizable.py --parts speed decode  # steps per second; encoding and decoding large images
    python benchmarks/generalizable.py --parts few-shot      # light fields of held-out objects from 1 to 5 views
    python benchmarks/generalizable.py --parts refine        # test-time optimisation against a random Fourier network

Held-out PSNR is the mean over images that no variant trained on. Results go to benchmarks/results/.
"""

import argparse
import contextlib
import json
import math
import resource
import statistics
import time
from pathlib import Path

import torch

from inr_scenes.dataset import open_set
from inr_scenes.fit import FitConfig, steps
from inr_scenes.generalizable import build_model, concentration, token_maps
from inr_scenes.metrics import psnr
from inr_scenes.plugins import find_field, find_model
from inr_scenes.signals.image import ImageSignal
from inr_scenes.train import TrainConfig, Validation, spread, train_steps

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
RESULTS = Path(__file__).parent / "results"
VARIANTS = {
    "lainr": ("lainr", {}),
    "ipc": ("ipc", {}),
    "transinr": ("transinr", {}),
    "without token aggregation": ("lainr", {"token_aggregation": False}),
    "without multi-band modulation": ("lainr", {"multi_band": False}),
    "without linear maps": ("lainr", {"linear_maps": False}),
    "bands reversed": ("lainr", {"reverse": True}),
    "one level": ("lainr", {"levels": 1}),
    "three levels": ("lainr", {"levels": 3}),
}
SMALL = {"patch": 4, "width": 96, "blocks": 2, "heads": 3, "head_features": 32, "hidden_features": 64,
         "frequency_features": 64}
FULL = {"patch": 8, "width": 768, "blocks": 6, "heads": 12, "head_features": 64, "hidden_features": 256,
        "frequency_features": 256}


def model(variant: str, signal, sizes: dict, tokens: int, seed: int):
    """Build a variant: the same encoder for all, bandwidths in the paper's ratios scaled to the size of the images."""
    name, changes = VARIANTS[variant]
    cls = find_model(name)
    changes = dict(changes)
    config = {**cls.suggest(signal, "fast").config, **sizes}
    if name == "transinr":
        config["groups"] = tokens // 4
    else:
        config["tokens"] = tokens
    if name == "lainr":
        config |= {"token_features": sizes["hidden_features"]}
        bands = config["bandwidths"]
        if changes.pop("reverse", False):
            bands = tuple(reversed(bands))
        middle = (math.sqrt(bands[0] * bands[1]),)
        config["bandwidths"] = {1: bands[:1], 2: bands, 3: bands[:1] + middle + bands[1:]}[changes.pop("levels", 2)]
    return build_model(cls, signal.spec, {**config, **changes}, seed=seed)


def compare(options) -> dict:
    """Train every variant with every seed; return PSNR over steps, parameters and steps per second."""
    found = open_set(DATA / "many_images" / "flowers128", options={"size": (options.size, options.size)})
    training, held_out = found.split(options.held_out, 0)
    validation = Validation([held_out[i] for i in range(len(held_out))])
    rows = {}
    for seed in range(options.seeds):
        for variant in options.variants:
            field = model(variant, found[0], FULL if options.full else SMALL, options.tokens, seed)
            config = TrainConfig(steps=options.steps, lr=options.lr, points=options.points, batch=16, seed=seed,
                                 validate_every=max(1, options.steps // 8), ema=options.ema, warmup=options.warmup,
                                 precision=options.precision)
            curve, seconds = [], 0.0
            for step in train_steps(field, training, config, validation=validation):
                seconds = step.seconds
                if step.metrics:
                    curve.append((step.step, step.metrics["psnr"]))
            row = rows.setdefault(variant, {"parameters": field.parameter_count, "curves": [], "steps_per_second": [],
                                            "concentration": []})
            row["curves"].append(curve)
            row["steps_per_second"].append(round(options.steps / seconds, 2))
            row["concentration"].append(_concentration(field, held_out))
            print(f"seed {seed}  {variant:<30} {curve[-1][1]:.2f} dB  {options.steps / seconds:.1f} steps/s  "
                  f"concentration {row['concentration'][-1]:.2f}", flush=True)
            _write("compare", {"options": _facts(options), "variants": rows})
    print("\n| variant | parameters | held-out PSNR | spread | concentration |\n|---|---|---|---|---|")
    for variant, row in sorted(rows.items(), key=lambda item: -statistics.mean(c[-1][1] for c in item[1]["curves"])):
        ends = [curve[-1][1] for curve in row["curves"]]
        print(f"| {variant} | {row['parameters']:,} | {statistics.mean(ends):.2f} | "
              f"{max(ends) - min(ends):.2f} | {statistics.mean(row['concentration']):.2f} |")
    _plot({variant: row["curves"] for variant, row in rows.items()}, "step", "held-out PSNR (dB)", "compare")
    return rows


@torch.no_grad()
def _concentration(field, signals) -> float:
    field.eval()
    scores = []
    for i in range(2):
        signal = signals[i]
        bound = field.field(field.encode([signal]), signal.spec)
        coords = signal.coords(torch.arange(len(signal))).to(bound.device)
        scores.append(concentration(token_maps(bound, coords)))
    return statistics.mean(scores)


def speed(options) -> dict:
    """Compare training steps of LAINR, IPC, and LAINR written plainly; interleaved, the best of several rounds."""
    found = open_set(DATA / "many_images" / "flowers128", options={"size": (options.size, options.size)})
    training, _ = found.split(options.held_out, 0)
    rounds: dict[str, list[float]] = {}
    names = ("lainr", "ipc", "plain")
    running = {}
    for name in names:
        field = model("lainr" if name == "plain" else name, found[0], FULL if options.full else SMALL,
                      options.tokens, 0)
        if name == "plain":
            field.decode = _plain_decode(field)
        config = TrainConfig(steps=10_000, points=0, ema=0.0, precision="32" if name == "plain" else options.precision)
        running[name] = train_steps(field, training, config)
        next(running[name])
    for _ in range(5):
        for name in names:
            start = time.perf_counter()
            next(running[name])
            rounds.setdefault(name, []).append(1 / (time.perf_counter() - start))
    best = {name: max(times) for name, times in rounds.items()}
    facts = {"steps_per_second": best, "lainr_over_ipc": best["lainr"] / best["ipc"],
             "lainr_over_plain": best["lainr"] / best["plain"]}
    print(json.dumps(facts, indent=1))
    _write("speed", {"options": _facts(options), **facts})
    return facts


def _plain_decode(field, chunk: int = 256):
    """LAINR as it is written down: every signal's own coordinates, keys and values projected anew for each chunk."""
    attention = field.decoder.modulation

    def attend(query, tokens):
        parts = attention.query(query), attention.key(tokens), attention.value(tokens)
        q, k, v = (part.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for part in parts)
        weights = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1)
        return attention.output((weights @ v).transpose(1, 2).flatten(-2))

    def decode(coords, latents):
        tokens = latents["tokens"]
        parts = []
        for part in coords.expand(len(tokens), -1, -1).split(chunk, 1):
            parts.append(field.decoder.bands(part, attend(field.decoder.query(part), tokens)))
        return torch.cat(parts, 1)

    return decode


@torch.no_grad()
def decode(options) -> dict:
    """Encode a 178×178 image and decode a 1024×1024 one with the published sizes (weights untrained)."""
    small = ImageSignal.from_array(torch.rand(178, 178, 3).numpy())
    cls = find_model("lainr")
    config = cls.suggest(small, "published").config
    field = build_model(cls, small.spec, config).eval()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        latents = field.encode([small])
        times.append(time.perf_counter() - start)
    large = small.spec.resampled((1024, 1024))
    bound = field.field(latents, large)
    from inr_scenes.field import decode_all
    start = time.perf_counter()
    decode_all(bound)
    facts = {"encode_178_seconds": min(times), "decode_1024_seconds": time.perf_counter() - start,
             "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, "threads": torch.get_num_threads()}
    print(json.dumps(facts, indent=1))
    _write("decode", facts)
    return facts


def refine(options) -> dict:
    """Train LAINR, then refine unseen images: latents, everything, and a random Fourier network, over seconds."""
    from inr_scenes.field import build

    found = open_set(DATA / "many_images" / "flowers128", options={"size": (options.size, options.size)})
    training, held_out = found.split(options.held_out, 0)
    field = model("lainr", found[0], FULL if options.full else SMALL, options.tokens, 0)
    config = TrainConfig(steps=options.steps, lr=options.lr, points=options.points, batch=16, ema=options.ema,
                         warmup=options.warmup, precision=options.precision)
    for _ in train_steps(field, training, config):
        pass
    curves: dict[str, list] = {"latents only": [], "everything": [], "random Fourier network": []}
    for i in range(options.images):
        signal = held_out[i]
        for name in curves:
            if name == "random Fourier network":
                cls = find_field("fourier-mlp")
                one, lr = build(cls, signal.spec, {}, seed=i), 1e-3
            else:
                with torch.no_grad():
                    one = field.field(field.encode([signal]), signal.spec)
                one.tune("latents" if name == "latents only" else "all")
                lr = 3e-3 if name == "latents only" else 5e-4
            curve = [(0.0, signal.metrics(one.eval())["psnr"])]
            looks = [0.1, 0.3, 0.6, 1, 2, 4, 7, 10, 15, 20, 30]
            fit = FitConfig(steps=None, seconds=options.seconds, lr=lr, batch=0, warmup=0, schedule="constant")
            for step in steps(one, signal, fit):
                if looks and step.seconds >= looks[0]:
                    looks = [look for look in looks if look > step.seconds]
                    curve.append((step.seconds, signal.metrics(one.eval())["psnr"]))
                    one.train()
            curves[name].append(curve)
            print(f"image {i}  {name:<24}" + "  ".join(f"{s:.1f} s {p:.2f}" for s, p in curve), flush=True)
    _write("refine", {"options": _facts(options), "curves": curves})
    _plot(curves, "seconds", "PSNR (dB)", "refine")
    return curves


def few_shot(options) -> dict:
    """Train on views of many meshes; held-out objects from 1 to 5 support views, beside the nearest support view."""
    import tempfile

    from inr_scenes.views import render_set

    with tempfile.TemporaryDirectory() as folder:
        pack = DATA / "many_meshes" / "quaternius.npz"
        for _ in render_set(pack, folder, views=24, size=options.size, test=0, up="y", limit=options.objects):
            pass
        found = open_set(folder, kind="lightfield", cache=Path(folder) / "cache")
        training, held_out = found.split(max(2, options.objects // 10), 0)
        signals = [held_out[i] for i in range(len(held_out))]
        scores = {"nearest support view": [_nearest(signals, views) for views in range(1, 6)]}
        for variant in ("lainr", "ipc"):
            field = model(variant, found[0], FULL if options.full else SMALL | {"patch": 8}, options.tokens, 0)
            config = TrainConfig(steps=options.steps, lr=options.lr, points=options.points, batch=16, ema=options.ema,
                                 warmup=options.warmup, precision=options.precision)
            for _ in train_steps(field, training, config):
                pass
            scores[variant] = [Validation(signals, views).metrics(field)["psnr"] for views in range(1, 6)]
    print("| held-out PSNR | " + " | ".join(f"{k} views" for k in range(1, 6)) + " |\n" + "|---" * 6 + "|")
    for name, row in scores.items():
        print(f"| {name} | " + " | ".join(f"{score:.2f}" for score in row) + " |", flush=True)
    _write("few-shot", {"options": _facts(options), "psnr": scores})
    return scores


def _nearest(signals, views: int) -> float:
    """PSNR when every asked view is answered with the support view whose camera is nearest."""
    scores = []
    for signal in signals:
        origins = signal.spec.cameras.poses[:, :, 3]
        seen = spread(len(origins), views)
        _, values = signal.sample(torch.arange(len(signal)))
        pictures = signal.spec.values.to_stored(values).reshape(len(origins), -1)
        asked = [v for v in range(len(origins)) if v not in seen]
        near = [seen[int((origins[seen] - origins[v]).norm(dim=-1).argmin())] for v in asked]
        scores.append(psnr((pictures[asked] - pictures[near]).double().square().mean().item()))
    return statistics.mean(scores)


def _plot(curves: dict, across: str, up: str, name: str) -> None:
    with contextlib.suppress(ImportError):
        import matplotlib
        matplotlib.use("Agg")
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(figsize=(7, 4.5))
        for i, (label, runs) in enumerate(curves.items()):
            for j, run in enumerate(runs):
                axes.plot(*zip(*run), color=f"C{i}", alpha=0.8, label=label if j == 0 else None)
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        RESULTS.mkdir(exist_ok=True)
        figure.savefig(RESULTS / f"generalizable-{name}.png", dpi=120, bbox_inches="tight")


def _facts(options) -> dict:
    return {k: v for k, v in vars(options).items() if k not in ("parts",)}


def _write(name: str, facts: dict) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"generalizable-{name}.json").write_text(json.dumps(facts, indent=1) + "\n")


PARTS = {"compare": compare, "speed": speed, "decode": decode, "refine": refine, "few-shot": few_shot}


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["compare"])
    parser.add_argument("--full", action="store_true", help="128 px and the published sizes")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS)[:7])
    parser.add_argument("--size", type=int)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--hidden", type=int, help="width of the decoders")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--points", type=float)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--ema", type=float, default=0.99)
    parser.add_argument("--warmup", type=int, default=50)
    parser.add_argument("--precision", default="32")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--objects", type=int, default=200, help="meshes of the few-shot set")
    parser.add_argument("--held-out", type=int, default=32)
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    defaults = {"size": 128, "tokens": 256, "steps": 20_000, "points": 4096, "lr": 1e-4} if options.full else \
        {"size": 32, "tokens": 32, "steps": 800, "points": 512, "lr": 1e-3}
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if not DATA.is_dir():
        raise SystemExit(f"{DATA} is not here: this benchmark needs the flowers128 set.")
    if options.hidden:
        for sizes in (SMALL, FULL):
            sizes |= {"hidden_features": options.hidden, "frequency_features": options.hidden}
    for part in options.parts:
        PARTS[part](options)


if __name__ == "__main__":
    main()
