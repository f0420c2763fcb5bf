"""Generalizable fields: LAINR against IPC, TransINR and its own ablations, at equal data, steps and encoder.

    python benchmarks/generalizable.py                               # compare: small, 32 px, minutes a run on a CPU
    python benchmarks/generalizable.py --parts compare ablations bands levels --seeds 2
    python benchmarks/generalizable.py --full --name full            # 128 px, the published decoder, a GPU
    python benchmarks/generalizable.py --parts speed decode          # steps per second; encoding and decoding large images
    python benchmarks/generalizable.py --parts baselines             # learned initialisation, hypernetwork, auto-decoder
    python benchmarks/generalizable.py --signals sounds --patch 64 --lr 3e-3 --name sounds     # or solids
    python benchmarks/generalizable.py --parts fewshot               # light fields of held-out objects from 1 to 5 views
    python benchmarks/generalizable.py --parts refine                # test-time optimisation against a Fourier network

Held-out PSNR is the mean over images that no variant trained on. All figures of one --name go, as they come, into
benchmarks/results/generalizable-NAME.json, curves into PNGs beside it. The same command again goes on where it was
stopped, within a training too, and leaves out what is there; more --seeds or --variants add to it; --fresh forgets it.
"""

import argparse
import contextlib
import itertools
import json
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pooch
import torch
from report import machine, show

from inr_scenes.archive import open as open_archive
from inr_scenes.archive import save
from inr_scenes.dataset import open_set
from inr_scenes.errors import InrError
from inr_scenes.files import atomic
from inr_scenes.fit import FitConfig, steps
from inr_scenes.generalizable import build_model, concentration, token_maps
from inr_scenes.metrics import psnr
from inr_scenes.plugins import find_field, find_model
from inr_scenes.signals.image import ImageSignal
from inr_scenes.signals.shape import ShapeSignal
from inr_scenes.train import TrainConfig, train_steps
from inr_scenes.validation import Validation
from inr_scenes.views import meshes, render_set

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
RESULTS = Path(__file__).parent / "results"
CACHE = Path(pooch.os_cache("inr_scenes")) / "benchmarks"
VARIANTS = {
    "lainr": ("lainr", {}),
    "ipc": ("ipc", {}),
    "transinr": ("transinr", {}),
    "without token aggregation": ("lainr", {"token_aggregation": False}),
    "without multi-band modulation": ("lainr", {"multi_band": False}),
    "without linear maps": ("lainr", {"linear_maps": False}),
    "bands reversed": ("lainr", {"bands": (0.25, 1.0)}),
    "bands both high": ("lainr", {"bands": (1.0, 1.0)}),
    "bands both low": ("lainr", {"bands": (0.25, 0.25)}),
    "query highest": ("lainr", {"bands": (0.25, 0.125), "query": 1.0}),
    "one level": ("lainr", {"bands": (1.0,)}),
    "three levels": ("lainr", {"bands": (1.0, 0.5, 0.25)}),
    "four levels": ("lainr", {"bands": (1.0, 0.7, 0.5, 0.25)}),
    "learned-init": ("learned-init", {}),
    "learned-init, Reptile": ("learned-init", {"method": "reptile", "inner_steps": 8}),
    "siren-hyper": ("siren-hyper", {}),
    "siren-hyper, convolutions": ("siren-hyper", {"encoder": "conv"}),
    "lfn": ("lfn", {}),
}
OWN = ("learned-init", "siren-hyper", "lfn")        # models without a transformer, trained by their own recipe
PLANS = {
    "compare": ("lainr", "ipc", "transinr"),
    "ablations": ("lainr", "without token aggregation", "without multi-band modulation", "without linear maps"),
    "bands": ("lainr", "bands reversed", "bands both high", "bands both low", "query highest"),
    "levels": ("one level", "lainr", "three levels", "four levels"),
    "baselines": ("lainr", "learned-init", "learned-init, Reptile", "siren-hyper", "siren-hyper, convolutions", "lfn"),
}
# of the views around an object that are encoded: the first, the first two, …
SUPPORT = (0, 1 / 2, 1 / 4, 3 / 4, 3 / 8)
SMALL = {"size": 32, "patch": 8, "width": 96, "blocks": 2, "heads": 3, "head_features": 32, "hidden": 64, "tokens": 32,
         "points": 512, "batch": 16, "steps": 2000, "optimizer": "muon", "lr": 1e-2, "ema": 0.99, "warmup": 50}
FULL = {"size": 128, "patch": 8, "width": 768, "blocks": 6, "heads": 12, "head_features": 64, "hidden": 256,
        "tokens": 256, "points": 4096, "batch": 16, "steps": 20_000, "optimizer": "adam", "lr": 1e-4, "ema": 0.999,
        "warmup": 200}
NEW = {"augment": False, "signals": "flowers"}      # what records that do not know a setting were made with
SETTINGS = (*SMALL, "minutes", "precision", "held_out", "augment", "signals")


class Record:
    """The figures of one --name: read when a benchmark begins, written whenever there is something new."""

    def __init__(self, options):
        self.path, self.cache = RESULTS / f"generalizable-{options.name}.json", CACHE / options.name
        self.facts = json.loads(self.path.read_text()) if self.path.is_file() else {}
        self.fresh = {"variants" if part in PLANS else part for part in options.parts} if options.fresh else set()

    def part(self, part: str, settings: dict) -> dict:
        """Return what is known of a part; refuse to mix figures of different settings."""
        known = self.facts.get(part)
        if known is None or part in self.fresh:
            self.fresh.discard(part)
            known = self.facts[part] = {"settings": settings}
        different = {k for k in settings.keys() | known["settings"].keys() if settings.get(k) != known["settings"].get(k, NEW.get(k))}
        if different:
            raise SystemExit(f"{self.path} holds {part} of another {', '.join(sorted(different))}: give those settings, "
                             f"another --name, or --fresh.")
        return known

    def write(self) -> None:
        """Write everything."""
        with atomic(self.path) as temporary:
            temporary.write_text(json.dumps(self.facts, indent=1) + "\n")

    def plot(self, curves: dict, across: str, up: str, name: str, logarithmic: bool = False) -> None:
        """Draw {label: [[(x, y), …], …]} into a PNG of the record's name."""
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
            axes.set_xscale("symlog", linthresh=0.1) if logarithmic else None
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)
            figure.savefig(self.path.with_name(f"{self.path.stem}-{name}.png"), dpi=120, bbox_inches="tight")
            pyplot.close(figure)


def model(variant: str, signal, options, seed: int = 0):
    """Build a variant: the same encoder for all, bandwidths in the paper's ratios scaled to the size of the images."""
    name, changes = VARIANTS[variant]
    cls, changes = find_model(name), dict(changes)
    if name in OWN:
        config = {**cls.suggest(signal, "fast").config, "hidden_features": options.hidden}
        return build_model(cls, signal.spec, {**config, **changes}, seed=seed)
    config = {**cls.suggest(signal, "fast").config, "hidden_features": options.hidden,
              "frequency_features": options.hidden,
              **{key: getattr(options, key) for key in ("patch", "width", "blocks", "heads", "head_features")}}
    if name == "transinr":
        config["groups"] = max(1, options.tokens // 4)      # of each of its five layers; the last has three columns
    else:
        config["tokens"] = options.tokens
    if name == "lainr":
        highest = config["bandwidths"][0]
        if "bands" in changes:
            config["bandwidths"] = tuple(max(1.0, ratio * highest) for ratio in changes.pop("bands"))
        if "query" in changes:
            config["query_bandwidth"] = changes.pop("query") * highest
        config["token_features"] = options.hidden
    return build_model(cls, signal.spec, {**config, **changes}, seed=seed)


def flowers(options):
    """Return the flowers for training, and those held out."""
    found = open_set(DATA / "many_images" / "flowers128", options={"size": (options.size, options.size)})
    return found.split(options.held_out, 0)


def sounds(options):
    """Return windows of 2,048 samples, 1/8 s, of all recordings, and other windows held out."""
    import soundfile
    from scipy.signal import resample_poly

    with made_once(CACHE / "sounds") as folder:
        for path in sorted((DATA / "audio").glob("*.wav")) if folder else ():
            samples, rate = soundfile.read(path, always_2d=True)
            samples = resample_poly(samples.mean(1), 16_000, rate)
            for i, part in enumerate(np.array_split(samples, max(1, len(samples) // 2048))):
                if np.abs(part).max() > 0.02:           # pauses teach nothing
                    soundfile.write(folder / f"{path.stem}-{i:04}.wav", part[:2048], 16_000)
    return open_set(CACHE / "sounds", kind="audio").split(options.held_out, 0)


def solids(options):
    """Return voxels, 32 each way, of small objects and random shapes, and others held out."""
    with made_once(CACHE / "solids") as folder:
        for pack in ("quaternius", "random_blobs") if folder else ():
            for name, load in itertools.islice(meshes(DATA / "many_meshes" / f"{pack}.npz"), 400):
                with contextlib.suppress(InrError):         # has no inside
                    signal = ShapeSignal.from_mesh(load(), 32, quantity="occupancy")
                    np.save(folder / f"{pack}-{name.replace('/', '_')}.npy", signal.array()[..., 0].numpy())
    return open_set(CACHE / "solids", kind="shape").split(options.held_out, 0)


@contextlib.contextmanager
def made_once(place: Path):
    """Yield a folder to fill, which becomes `place` when it is full; none if it is there."""
    if place.is_dir():
        yield None
        return
    part = place.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    part.rename(place)


SIGNALS = {"flowers": flowers, "sounds": sounds, "solids": solids}


def train(record: Record, entry: dict, key: str, variant: str, seed: int, data, options):
    """Train a variant, or go on with its training, or take it from the cache; its curve grows in `entry`.

    entry: {"curve": [[step, seconds, psnr], …], …} of this one training · key: names its files in the cache.
    """
    training, validation = data
    field = model(variant, training[0], options, seed)
    place = record.cache / f"{key}-{variant}-{seed}".replace(" ", "-")
    state, done = place.with_suffix(".pt"), place.with_suffix(".safetensors")
    if entry.get("done") and done.is_file():
        return open_archive(done, device=options.device)
    resume = None
    if entry.get("curve") and not entry.get("done") and state.is_file():
        resume = torch.load(state, weights_only=True)
        entry["curve"] = [point for point in entry["curve"] if point[0] <= resume["step"]]
    else:
        entry |= {"parameters": field.parameter_count, "curve": [], "done": False}
    own = VARIANTS[variant][0] in OWN
    way = {"lr": options.lr, "optimizer": options.optimizer}
    way = {"optimizer": "adam", **find_model(VARIANTS[variant][0]).suggest(training[0], "fast").fit} if own else way
    config = TrainConfig(steps=None if options.minutes else options.steps, batch=options.batch, points=options.points,
                         seconds=options.minutes * 60 if options.minutes else None, ema=options.ema, **way,
                         warmup=options.warmup, precision=options.precision, seed=seed,
                         augment=options.augment, validate_every=0 if options.minutes else max(1, options.steps // 10), device=options.device)
    saved = time.monotonic()
    for step in train_steps(field, training, config, validation=validation, resume=resume):
        if step.metrics:
            entry["curve"].append([step.step, round(step.seconds, 2), round(step.metrics["psnr"], 3)])
            record.write()
        if time.monotonic() - saved > options.save_every and step.progress < 1:
            saved = time.monotonic()
            with atomic(state) as temporary:
                torch.save(step.state(), temporary)
    entry |= {"done": True, "steps": step.step, "seconds": round(step.seconds, 3)}
    save(field, done)
    state.unlink(missing_ok=True)
    record.write()
    return field.eval()


def study(record: Record, plan: str, options) -> None:
    """Train the variants of a plan with every seed, seed after seed; print a table and plot PSNR over steps.

    All plans share their trainings: LAINR itself is trained once a seed.
    """
    training, held_out = SIGNALS[options.signals](options)
    data = training, Validation([held_out[i] for i in range(len(held_out))])
    facts = record.part("variants", {key: getattr(options, key) for key in SETTINGS})
    chosen = [variant for variant in PLANS[plan] if (not options.variants or variant in options.variants) and (
        options.signals == "flowers" or variant not in ("siren-hyper, convolutions", "lfn"))]       # of images alone
    for seed in range(options.seeds):
        for variant in chosen:
            entry = facts.setdefault("runs", {}).setdefault(variant, {}).setdefault(str(seed), {})
            if not entry.get("done") or "concentration" not in entry:
                field = train(record, entry, "images", variant, seed, data, options)
                tokens = VARIANTS[variant][0] not in OWN
                entry["concentration"] = round(_concentration(field, held_out), 3) if tokens else None
                record.write()
            print(f"seed {seed}  {variant:<30} {entry['curve'][-1][2]:.2f} dB  "
                  f"{entry['steps'] / entry['seconds']:.1f} steps/s  concentration {entry['concentration']}",
                  file=sys.stderr, flush=True)
    rows = {variant: [facts["runs"][variant][str(seed)] for seed in range(options.seeds)] for variant in chosen}
    table = []
    for variant, runs in rows.items():
        ends = [run["curve"][-1][2] for run in runs]
        table.append({"variant": variant, "parameters": runs[0]["parameters"], "held-out PSNR": statistics.mean(ends),
                      "spread": max(ends) - min(ends), **{f"seed {seed}": end for seed, end in enumerate(ends)},
                      "concentration": statistics.mean(run["concentration"] for run in runs)
                      if runs[0]["concentration"] is not None else ""})
    show(sorted(table, key=lambda row: -row["held-out PSNR"]), plan)
    record.plot({variant: [[(step, value) for step, _, value in run["curve"]] for run in runs]
                 for variant, runs in rows.items()}, "step", "held-out PSNR (dB)", plan)


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


def speed(record: Record, options) -> None:
    """Compare training steps of LAINR, IPC, and LAINR written plainly; interleaved, medians of several rounds."""
    training, _ = flowers(options)
    facts = record.part("speed", {key: getattr(options, key) for key in SETTINGS if key not in ("steps", "minutes")})
    rounds: dict[str, list[float]] = {}
    running = {}
    for name in ("lainr", "ipc", "plain"):
        field = model("lainr" if name == "plain" else name, training[0], options)
        if name == "plain":
            field.decode = _plain_decode(field)
        config = TrainConfig(steps=10_000, points=0, batch=options.batch, ema=0.0, device=options.device,
                             precision="32" if name == "plain" else options.precision,
                             kernel="torch" if name == "plain" else "auto")
        running[name] = train_steps(field, training, config)
        _timed_step(running[name])
    for _ in range(options.rounds):
        for name, loop in running.items():
            rounds.setdefault(name, []).append(1 / _timed_step(loop))
    mid = {name: statistics.median(found) for name, found in rounds.items()}
    facts |= {"steps_per_second": mid, "lainr_over_ipc": mid["lainr"] / mid["ipc"],
              "lainr_over_plain": mid["lainr"] / mid["plain"], "threads": torch.get_num_threads()}
    record.write()
    show([{"training step of": name, "a second": mid[name], "range": f"{min(found):.2f}–{max(found):.2f}",
           "LAINR is so much faster": mid["lainr"] / mid[name]} for name, found in rounds.items()], "speed")


def _timed_step(loop) -> float:
    start = time.perf_counter()
    next(loop).loss.item()              # waits for an accelerator
    return time.perf_counter() - start


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
def decode(record: Record, options) -> None:
    """Encode a 178×178 image and decode a 1024×1024 one with the published sizes (weights untrained)."""
    from inr_scenes.field import decode_all

    facts = record.part("decode", {})
    small = ImageSignal.from_array(torch.rand(178, 178, 3).numpy())
    cls = find_model("lainr")
    field = build_model(cls, small.spec, cls.suggest(small, "published").config).eval()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        latents = field.encode([small])
        times.append(time.perf_counter() - start)
    bound = field.field(latents, small.spec.resampled((1024, 1024)))
    start = time.perf_counter()
    decode_all(bound)
    facts |= {"encode_178_seconds": min(times), "decode_1024_seconds": time.perf_counter() - start,
              "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
              "threads": torch.get_num_threads()}
    record.write()
    show([{name: value for name, value in facts.items() if name != "settings"}], "decode")


LOOKS = (0.1, 0.3, 0.6, 1, 2, 4, 7, 10, 15, 20, 30)        # seconds of test-time optimisation


def refine(record: Record, options) -> None:
    """Train LAINR, then refine unseen images: latents, everything, and a random Fourier network, over seconds."""
    training, held_out = flowers(options)
    variants = record.part("variants", {key: getattr(options, key) for key in SETTINGS})
    entry = variants.setdefault("runs", {}).setdefault("lainr", {}).setdefault("0", {})
    data = training, Validation([held_out[i] for i in range(len(held_out))])
    field = train(record, entry, "images", "lainr", 0, data, options)
    facts = record.part("refine", {**variants["settings"], "seconds": options.seconds})
    curves = facts.setdefault("curves", {"latents only": [], "everything": [], "random Fourier network": []})
    for name, done in curves.items():
        for i in range(len(done), min(options.images, len(held_out))):
            done.append(_refined(field, name, held_out[i], i, options))
            print(f"image {i}  {name:<24}" + "  ".join(f"{s:.1f} s {p:.2f}" for s, p in done[-1]), file=sys.stderr,
                  flush=True)
            record.write()
    facts["summary"] = {name: _ahead(done, curves["random Fourier network"]) for name, done in curves.items()
                        if name != "random Fourier network"}
    record.write()
    show([{"way": name, **{f"{s:g} s": _at(done, s) for s in (0, *LOOKS) if s <= options.seconds}, **facts["summary"].get(name, {})} for name, done in curves.items()])
    record.plot(curves, "seconds", "PSNR (dB)", "refine", logarithmic=True)


def _refined(field, name: str, signal, seed: int, options) -> list[tuple[float, float]]:
    """Return (seconds, PSNR) of one image's test-time optimisation, or of a new network's fit."""
    from inr_scenes.field import build

    if name == "random Fourier network":
        cls = find_field("fourier-mlp")
        recipe = cls.suggest(signal, "fast")
        one, lr = build(cls, signal.spec, recipe.config, seed=seed), recipe.fit.get("lr", 1e-3)
    else:
        with torch.no_grad():
            one = field.field(field.encode([signal]), signal.spec)
        one.tune("latents" if name == "latents only" else "all")
        lr = 3e-3 if name == "latents only" else 3e-4
    curve, looks = [(0.0, signal.metrics(one.eval())["psnr"])], list(LOOKS)
    config = FitConfig(steps=None, seconds=options.seconds, lr=lr, batch=0, warmup=0, schedule="constant",
                       device=options.device)
    for step in steps(one, signal, config):
        if looks and step.seconds >= looks[0]:
            looks = [look for look in looks if look > step.seconds]
            curve.append((round(step.seconds, 3), signal.metrics(one.eval())["psnr"]))
            one.train()
    return curve


def _ahead(curves, others) -> dict[str, float]:
    """Return the mean lead in dB over the first second, and until when the mean curve stays ahead."""
    last = min(run[-1][0] for run in (*curves, *others))
    looks = [look for look in (0.0, *LOOKS) if look <= last]
    behind = [look for look in looks if _at(curves, look) < _at(others, look)]
    first = [look for look in looks if look <= 1]
    return {"lead_first_second": statistics.mean(_at(curves, look) - _at(others, look) for look in first),
            "ahead_until_seconds": min(behind, default=last), "still_ahead_at_the_end": not behind}


def _at(curves, second: float) -> float:
    """Return the mean of the best that curves have reached by a second."""
    return statistics.mean(max((p for s, p in curve if s <= second), default=curve[0][1]) for curve in curves)


def few_shot(record: Record, options) -> None:
    """Train on views of many meshes; held-out objects from 1 to 5 support views, beside the nearest support view.

    Every number's views are among the next one's, and those asked for are the same: what none of them encodes.
    """
    folder = CACHE / f"views-{options.size}-{options.objects}"
    pack = DATA / "many_meshes" / "quaternius.npz"
    for _ in render_set(pack, folder, views=24, size=options.size, test=0, up="y", limit=options.objects):
        pass
    found = open_set(folder, kind="lightfield")
    training, held_out = found.split(max(2, options.objects // 10), 0)
    signals = [held_out[i] for i in range(len(held_out))]
    facts = record.part("fewshot", {key: getattr(options, key) for key in (*SETTINGS, "objects")})
    rows = {"nearest support view": by_views(24, lambda seen, asked: nearest(signals, seen, asked))}
    for seed in range(options.seeds):
        for variant in options.variants or ("lainr", "ipc"):
            entry = facts.setdefault("runs", {}).setdefault(variant, {}).setdefault(str(seed), {})
            if "psnr" not in entry:
                field = train(record, entry, "views", variant, seed, (training, Validation(signals[:8])), options)
                entry["psnr"] = by_views(24, lambda seen, asked, field=field: Validation(
                    signals, seen, asked=asked).metrics(field)["psnr"])
                record.write()
            rows[f"{variant}, seed {seed}"] = entry["psnr"]
    facts["nearest support view"] = rows["nearest support view"]
    record.write()
    show([{"held-out PSNR": name, **{f"{k} views": score for k, score in enumerate(row, 1)}} for name, row in rows.items()])
    record.plot({name: [[*enumerate(row, 1)]] for name, row in rows.items()}, "support views", "PSNR (dB)", "fewshot")


def by_views(views: int, score) -> list[float]:
    """Return score(views encoded, views asked for) for 1 to 5 of SUPPORT's, of so many views."""
    support = [int(share * views) for share in SUPPORT]
    asked = [view for view in range(views) if view not in support]
    return [score(support[:count], asked) for count in range(1, 6)]


def nearest(signals, seen: Sequence[int], asked: list[int]) -> float:
    """PSNR when every asked view is answered with the support view whose camera is nearest."""
    scores = []
    for signal in signals:
        origins = signal.spec.cameras.poses[:, :, 3]
        seen = list(seen)
        _, values = signal.sample(torch.arange(len(signal)))
        pictures = signal.spec.values.to_stored(values).reshape(len(origins), -1)
        near = [seen[int((origins[seen] - origins[v]).norm(dim=-1).argmin())] for v in asked]
        scores.append(psnr((pictures[asked] - pictures[near]).double().square().mean().item()))
    return statistics.mean(scores)


PARTS = {**{plan: lambda record, options, plan=plan: study(record, plan, options) for plan in PLANS},
         "speed": speed, "fewshot": few_shot, "refine": refine, "decode": decode}


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["compare"])
    parser.add_argument("--full", action="store_true", help="128 px and the published sizes")
    parser.add_argument("--name", help="of the results' file; default: small, or full with --full")
    parser.add_argument("--fresh", action="store_true", help="forget the figures that the parts asked for have")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, help="only these of the parts' variants")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--minutes", type=float, help="of each training, instead of --steps")
    for name, value in SMALL.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float if name == "points" else type(value),
                            help=f"default: {value}, with --full {FULL[name]}")
    parser.add_argument("--augment", action="store_true", help="pictures varied, light fields turned, in every step")
    parser.add_argument("--precision", default="32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--save-every", type=float, default=120, help="seconds between states to resume from")
    parser.add_argument("--rounds", type=int, default=5, help="of the speed comparison")
    parser.add_argument("--objects", type=int, default=200, help="meshes of the few-shot set")
    parser.add_argument("--held-out", type=int, default=32)
    parser.add_argument("--signals", choices=SIGNALS, default="flowers", help="what the variants are trained on")
    parser.add_argument("--images", type=int, default=3, help="that refine looks at")
    parser.add_argument("--seconds", type=float, default=30, help="of refining an image")
    options = parser.parse_args()
    for name, value in (FULL if options.full else SMALL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.name = options.name or ("full" if options.full else "small")
    if not DATA.is_dir():
        raise SystemExit(f"{DATA} is not here: this benchmark needs the flowers128 set.")
    if options.signals != "flowers" and not set(options.parts) <= set(PLANS):
        raise SystemExit(f"--signals is for {', '.join(PLANS)}; the other parts have signals of their own.")
    record = Record(options)
    print(f"{machine(options.device)}\n")
    for part in options.parts:
        PARTS[part](record, options)


if __name__ == "__main__":
    main()
