"""Local-Global fields against SIREN, a SIREN per partition, and a Local-Global network written the plain way.

    python benchmarks/local_global.py                               # short: small excerpts, up to half an hour a section
    python benchmarks/local_global.py --only speed images
    python benchmarks/local_global.py --full --device cuda          # the published sizes and numbers of steps

Parameter counts of what is compared agree within 4 %. PSNR is plain, over the whole signal; --paper-metric adds the
published one for images, which stretches truth and reconstruction to their own extremes first. Short settings keep
the published samples per parameter, block sizes and learning rates, on smaller excerpts and for fewer steps. Prints
tables in Markdown; --json FILE also writes the figures.
"""

import argparse
import dataclasses
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from inr_local_global.siren import LgSiren, SirenPerPartition
from PIL import Image
from plain import FieldSteps, PlainSteps, Relu
from report import machine, show

from inr_scenes.field import Field, build, decode_all
from inr_scenes.fit import FitConfig, fit, steps
from inr_scenes.metrics import psnr
from inr_scenes.signal import GridSignal, Signal
from inr_scenes.signals.audio import AudioSignal
from inr_scenes.signals.image import ImageSignal, read_image
from inr_scenes.signals.shape import ShapeSignal
from inr_scenes.signals.video import VideoSignal
from inr_scenes.siren import Siren, waves
from inr_scenes.spec import Spec

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
PUBLISHED = {"lr": 1e-4, "optimizer": "adam", "schedule": "constant", "warmup": 0}


@dataclasses.dataclass(frozen=True)
class Options:
    """How much to run, and where."""

    full: bool
    device: str
    seed: int
    paper_metric: bool
    signals: tuple[str, ...] = ()
    precision: str = "32"
    fields: tuple[str, ...] = ("per-partition", "siren", "local-global")
    excerpt: float | None = None
    blocks: int | None = None


@dataclasses.dataclass
class Table:
    """One table: a title, and rows of named cells."""

    title: str
    rows: list[dict[str, object]]
    note: str = ""


# ---- data: real signals where they are, else generated or bundled ones -----------------------------------------------

def photo(name: str, side: int) -> ImageSignal:
    """Return the middle of a photograph, side × side pixels."""
    path = DATA / "image" / f"{name}.png"
    if path.is_file():
        array = read_image(path, "rgb")[0]
    else:
        from skimage import data
        array = {"kodim05": data.coffee, "kodim23": data.astronaut}.get(name, data.chelsea)()
    top, left = ((n - side) // 2 for n in array.shape[:2])
    return ImageSignal.from_array(array[top:top + side, left:left + side], grid="ends", name=name)


def reduced(name: str, width: int) -> ImageSignal:
    """Return a whole photograph, area-averaged to so many pixels across, as the published images were."""
    path = DATA / "image" / f"{name}.png"
    if path.is_file():
        image = Image.open(path)
    else:
        from skimage import data
        image = Image.fromarray(data.coffee() if name == "kodim05" else data.astronaut())
    height = round(width * image.height / image.width)
    return ImageSignal.from_array(np.asarray(image.resize((width, height), Image.Resampling.BOX)), grid="ends",
                                  name=name)


def sound(name: str, seconds: float | None) -> AudioSignal:
    """Return a recording, or that many seconds of it."""
    path = DATA / "audio" / f"{name}.wav"
    path = path if path.is_file() else ROOT / "datasets" / "audio" / "chord.wav"
    start = 1.0 if seconds and path.parent.parent == DATA else 0.0
    return AudioSignal.load(path, start=start, seconds_long=seconds, mono=True, grid="ends")


def clip(name: str, frames: int, size: tuple[int, int]) -> VideoSignal:
    """Return the first frames of a video, resized."""
    path = DATA / "video" / f"{name}.mp4"
    path = path if path.is_file() else next((ROOT / "datasets" / "video").glob("*.mp4"))
    return VideoSignal.load(path, frames=frames, size=size, grid="ends")


def solid(name: str, resolution: int) -> ShapeSignal:
    """Return the voxels of a mesh."""
    path = DATA / "mesh" / f"{name}.ply"
    if not path.is_file():
        path = next(p for p in sorted((ROOT / "datasets" / "shape").iterdir()) if p.suffix in ShapeSignal.suffixes)
    return ShapeSignal.load(path, resolution=resolution, grid="ends")


def dense_width(parameters: int, spec: Spec, layers: int = 3) -> int:
    """Return the width at which a SIREN has about so many parameters."""
    d, o = spec.in_features, spec.out_features
    return min(range(4, 2048), key=lambda h: abs((d + 1) * h + layers * (h * h + h) + (h + 1) * o - parameters))


# ---- running ---------------------------------------------------------------------------------------------------------

def run(cls: type[Field], config: dict, signal: Signal, options: Options, base: dict = PUBLISHED,
        **settings) -> tuple[Field, dict]:
    """Fit one field with settings upon those of `base`; returns it and its row."""
    field = build(cls, signal.spec, config, seed=options.seed)
    common = {"precision": options.precision, "seed": options.seed, "device": options.device}
    result = fit(field, signal, FitConfig(**{**common, **base, **settings}))
    field = result.field
    row = {"parameters": field.parameter_count, "steps": result.steps, "seconds": round(result.seconds, 1)}
    return field, row | {name: float(value) for name, value in result.metrics.items() if name in WANTED}


WANTED = ("psnr", "ssim", "snr", "iou")


def compare(signal: Signal, budget: int, partitions: tuple[int, ...] | None, options: Options,
            omega: float = 30.0, extra: dict[str, Callable] | None = None, **settings) -> list[dict]:
    """Fit SIREN per partition, SIREN and Local-Global at one number of parameters; returns their rows."""
    blocks = {"budget": budget, "partitions": partitions, "first_omega_0": omega,
              "local_rate": None if settings.get("optimizer") == "muon" else 1.0}
    made = {
        "per-partition": ("SIREN per partition", SirenPerPartition, blocks),
        "siren": ("SIREN", Siren, {"hidden_features": dense_width(budget, signal.spec), "first_omega_0": omega}),
        "local-global": ("Local-Global", LgSiren, blocks),
        "additive": ("Local-Global, additive", LgSiren, {**blocks, "merge": "add"}),
    }
    rows = []
    for name, cls, config in (made[field] for field in options.fields):
        field, row = run(cls, config, signal, options, **settings)
        rows.append({"field": name, **row, **{key: of(field, signal) for key, of in (extra or {}).items()}})
        print(rows[-1], file=sys.stderr, flush=True)        # a run that is broken off has said something
    return rows


def stretched_psnr(field: Field, signal: Signal) -> float:
    """The published PSNR: truth and reconstruction each stretched to [0, 1] by their own extremes."""
    def stretch(image):
        return (image - image.min()) / (image.max() - image.min())
    truth, guess = stretch(signal.array().cpu()), stretch(decode_all(field, signal.spec).clamp(0, 1))
    return psnr(float((truth - guess).square().mean()))


# ---- sections --------------------------------------------------------------------------------------------------------

def audio(options: Options) -> Iterator[Table]:
    """Two recordings at the published settings: 1001 full-batch steps at 1e-4; 32 blocks for 308,207 samples.

    An excerpt of so many seconds keeps steps, parameters a sample and waves a second; in small it is 1 s for 400 steps.
    """
    published = options.full or options.excerpt is not None
    for name in options.signals or ("bach", "counting"):
        signal = sound(name, options.excerpt or (None if options.full else 1.0))
        n = len(signal)
        share = n / 308_207
        whole = options.full and options.excerpt is None
        rows = compare(signal, 198_182 if whole else round(198_182 * share), (max(2, round(32 * share)),), options,
                       omega=3000 * min(1.0, share), steps=1001 if published else 400, batch=0)
        yield Table(f"Sound: {name}, {n:,} samples", rows, "Published: Bach 39.26 / 39.94 / 45.18 dB, Counting 31.24 / "
                    "32.07 / 33.18 dB (per partition / SIREN / Local-Global).")


def images(options: Options) -> Iterator[Table]:
    """Photographs reduced to the published size, 200k parameters for 510×339: 2001 full batches at 5e-4.

    In small to half of it, with half the first frequency factor, so that waves keep their length in pixels.
    """
    width, names = (510, ("kodim05", "kodim23", "kodim08", "kodim13", "kodim19")) if options.full else \
        (255, ("kodim05", "kodim23"))
    names = options.signals or names
    extra, found = {"psnr_paper": stretched_psnr} if options.paper_metric else None, []
    for name in names:
        signal = reduced(name, width)
        rows = compare(signal, 200_000 * len(signal) // (510 * 339), None, options, omega=30 * width / 510, extra=extra,
                       lr=5e-4, batch=0, steps=2001)
        found.append(rows)
        yield Table(f"Image: {name}, {' × '.join(map(str, signal.spec.shape))}", rows)
    means = [{"field": rows[0]["field"], **{k: float(np.mean([row[k] for row in rows]))
                                            for k in rows[0] if isinstance(rows[0][k], float)}}
             for rows in zip(*found)]
    yield Table(f"Images: mean of {len(names)}", means, "Published on 25 images of DIV2K (stretched PSNR): per "
                "partition 31.90, SIREN 33.57, Local-Global 34.13 dB.")


def partitions(options: Options) -> Iterator[Table]:
    """Local-Global with more and more blocks, against SIREN, at equal steps: PSNR and time.

    In small by the fields' fast recipes, 1200 steps of 8,192 pixels; published: 1001 full batches. Two of them are fitted
    once more, for as many seconds as SIREN took.
    """
    signal, budget = photo("kodim23", 512), 200_000
    ways = [("SIREN", Siren, {"hidden_features": dense_width(budget, signal.spec)}, False),
            *((f"Local-Global {c}×{c}", LgSiren, {"budget": budget, "partitions": (c, c)}, False)
              for c in (2, 4, 8, 16, 32)),
            *((f"Local-Global {c}×{c}, in SIREN's time", LgSiren, {"budget": budget, "partitions": (c, c)}, True)
              for c in (8, 16))]
    rows = []
    for name, cls, config, by_time in ways:
        recipe = cls.suggest(signal, "fast")
        base, settings, steps = (PUBLISHED, {"lr": 5e-4, "batch": 0}, 1001) if options.full else \
            (recipe.fit, {"precision": "auto", "batch": 8192}, 1200)
        settings |= {"steps": None, "seconds": rows[0]["seconds"]} if by_time else {"steps": steps}
        field, row = run(cls, config if options.full else {**recipe.config, **config}, signal, options, base, **settings)
        rows.append({"field": name, **row, "global share": getattr(field, "global_share", "")})
        print(rows[-1], file=sys.stderr, flush=True)
    yield Table("Partitions: kodim23, 512×512", rows, "Published at 512×512: SIREN 31.17 dB in 34 s; 2×2 32.59 "
                "in 74, 4×4 32.10 in 40, 8×8 32.29 in 26, 16×16 32.00 in 22, 32×32 31.51 in 15.")


def video(options: Options) -> Iterator[Table]:
    """A video at the same samples per step, 1e-4: blocks of about 60 × 64 × 64, parameters as many a sample.

    In small with the smaller of the published shares of the samples a step, 0.38 %, and by the fast recipe's optimiser.
    """
    frames, size, blocks, share, settings = \
        (150, (270, 480), (3, 4, 8), 0.02, {"steps": 5001}) if options.full else \
        (80, (180, 320), (2, 3, 5), 0.0038,
         {"optimizer": "muon", "lr": 7e-4, "schedule": "cosine", "warmup": 20, "steps": 1200})
    for name in options.signals or ("flower",):
        signal = clip(name, frames, size)
        budget = 3_192_400 * len(signal) // (300 * 512 * 512)
        chosen = settings | {"batch": round(share * len(signal)), "sampling": "uniform"}
        plain = options.fields == Options.fields
        wanted = dataclasses.replace(options, fields=(*options.fields, "additive")) if plain else options
        rows = compare(signal, budget, blocks, wanted, **chosen)
        if plain:
            relu = run(Relu, {"hidden_features": dense_width(budget, signal.spec)}, signal, options, **chosen)[1]
            rows.append({"field": "ReLU network", **relu})
        yield Table(f"Video: {name}, {frames} frames of {size[0]}×{size[1]}", rows, "Published (cat, 300 frames of "
                    "512²): per partition 29.58, SIREN 29.71 in 2354 s, Local-Global 30.28 dB in 284 s; SIREN about "
                    "5 dB above ReLU.")


def shape(options: Options) -> Iterator[Table]:
    """Occupancy of two meshes at one number of parameters; networks only where the shape is.

    By Muon at the rates and the frequencies of the fast recipes: published rates take ten times the samples.
    Local-Global has the published share of global parameters, a tenth, or narrow blocks beside a wide global network: for
    as many steps, and for as many seconds as SIREN took.
    """
    resolution = 256 if options.full else 128
    budget = 200_000 if options.full else 50_000
    for name in options.signals or ("armadillo", "skull"):
        settings = {"optimizer": "muon", "lr": 7e-4, "schedule": "cosine", "warmup": 20, "batch": 16_384,
                    "sampling": "uniform", "steps": 3000 if options.full else 1500, "focus": 0.75}
        signal, blocks = solid(name, resolution), (options.blocks or (8 if options.full else 4),) * 3
        omega = waves(signal.spec)["first_omega_0"]
        rows = compare(signal, budget, blocks, options, omega=omega, **settings)
        settings["lr"] = 5e-4           # at 7e-4 a wide global network is unsteady
        wide = {"budget": budget, "partitions": blocks, "local_features": 10, "local_rate": None, "first_omega_0": omega}
        if "local-global" in options.fields:
            rows.append({"field": "Local-Global, wide global", **run(LgSiren, wide, signal, options, **settings)[1]})
        for row in [row for row in rows if row["field"] == "SIREN"]:
            again = run(LgSiren, wide, signal, options, **{**settings, "steps": None, "seconds": row["seconds"]})[1]
            rows.append({"field": "Local-Global, wide global, in SIREN's time", **again})
        yield Table(f"Shape: {name}, {resolution}³", rows)


def volume(options: Options) -> Iterator[Table]:
    """One shape of 512³ voxels by the fast recipe: time, memory, and the blocks that have a network."""
    tick = time.perf_counter()
    signal = solid("armadillo", 512)
    loading = time.perf_counter() - tick
    recipe = LgSiren.suggest(signal, "fast")
    field, row = run(LgSiren, {**recipe.config, "budget": 200_000, "partitions": (8, 8, 8)}, signal, options,
                     recipe.fit, steps=None, seconds=600.0 if options.full else 60.0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    yield Table("Volume: armadillo, 512³", [{"field": "lg-siren --preset fast", **row, "loading (s)": round(loading, 1),
                "whole (s)": round(time.perf_counter() - tick, 1), "blocks kept": f"{len(field.layout.blocks)} of 512",
                "peak memory (GiB)": round(peak, 2)}])


def extension(options: Options) -> Iterator[Table]:
    """A photo grown by a quarter on its right: only the new part is trained, against the whole from the start."""
    side, seconds = 512, 120.0 if options.full else 24.0
    whole = photo("kodim23", side)
    ends = {"left": (0, side * 3 // 4), "right": (side * 3 // 4, side)}
    left, right = (whole.part(whole.spec.cropped(((0, side), end)), (slice(None), slice(*end))) for end in ends.values())

    def fitted(field: Field, signal: GridSignal, seconds: float) -> Field:
        recipe = LgSiren.suggest(whole, "fast").fit
        config = FitConfig(**{**recipe, "steps": None, "seconds": seconds, "device": options.device})
        return fit(field, signal, config).field.baked()

    config = LgSiren.suggest(whole, "fast").config | {"block": (32, 32)}
    first = fitted(build(LgSiren, left.spec, config | {"budget": 150_000}, seed=options.seed), left, seconds)
    rows = [{"way": "left three quarters", "seconds": seconds, "PSNR left": left.metrics(first)["psnr"],
             "PSNR right": ""}]
    for start in ("neighbour", "fresh"):
        grown = fitted(first.extend(whole.spec, start), right, seconds / 3)
        rows.append({"way": f"extended, new blocks start {start}", "seconds": seconds / 3,
                     "PSNR left": left.metrics(grown)["psnr"], "PSNR right": right.metrics(grown)["psnr"]})
    anew = fitted(build(LgSiren, whole.spec, config, seed=options.seed), whole, seconds * 4 / 3)
    rows.append({"way": "the whole from the start", "seconds": seconds * 4 / 3,
                 "PSNR left": left.metrics(anew)["psnr"], "PSNR right": right.metrics(anew)["psnr"]})
    yield Table(f"Extension: kodim23, {side}×{side}, the right quarter is new", rows)


def speed(options: Options) -> Iterator[Table]:
    """Steps per second against the plain way, interleaved, and seconds to the same PSNR."""
    signal = photo("kodim23", 512)
    config = {"partitions": (16, 16), "local_features": 14, "global_features": 84}
    plain = PlainSteps(signal, (16, 16), 14, 84, options.device, options.seed)
    ways = {"the plain way": plain.step}
    for name, precision in (("lg-siren", "32"), ("lg-siren, bf16", "bf16")):
        ways[name] = FieldSteps(signal, config, options.device, options.seed, batch=0, precision=precision).step
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(10):
        for name, step in ways.items():
            tick = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - tick)
    best = {name: float(np.median(seconds[1:])) for name, seconds in times.items()}
    rows = [{"training step of": name, "seconds": round(s, 3),
             "range": f"{min(times[name]):.3f}–{max(times[name]):.3f}", "ns per coordinate": s / len(signal) * 1e9,
             "times faster": best["the plain way"] / s, "by the fastest": min(times["the plain way"]) / min(times[name])}
            for name, s in best.items()]
    yield Table("Speed: 512×512, 256 partitions, all 262,144 coordinates a step", rows)
    yield time_to_quality(options)


def time_to_quality(options: Options) -> Table:
    """Seconds to the PSNR that the plain way reaches at the published settings."""
    side, count, limit = 512, 16, 300 if options.full else 60
    signal = photo("kodim23", side)
    config = {"partitions": (count, count), "local_features": 14, "global_features": 84}
    plain = PlainSteps(signal, (count, count), 14, config["global_features"], options.device, options.seed)
    tick = time.perf_counter()
    for _ in range(limit):
        plain.step()
    plain_seconds, goal = time.perf_counter() - tick, plain.psnr()
    recipe = LgSiren.suggest(signal, "fast")
    field = build(LgSiren, signal.spec, recipe.config | config, seed=options.seed)
    settings = FitConfig(**{**recipe.fit, "steps": None, "seconds": max(2.0, plain_seconds / 20), "device": options.device,
                            "until": f"psnr={goal:.3f}"})
    for step in steps(field, signal, settings):
        mine = step.seconds
        reached = step.metrics.get("psnr", 0.0)
    rows = [{"way": f"the plain way, published settings, {limit} steps", "PSNR": goal, "seconds": plain_seconds,
             "times faster": 1.0},
            {"way": f"lg-siren --preset fast --until psnr={goal:.2f}", "PSNR": reached, "seconds": mine,
             "times faster": plain_seconds / mine}]
    return Table(f"Speed: time to the same PSNR, {side}×{side}, {count}×{count} partitions", rows)


SECTIONS: dict[str, Callable[[Options], Iterator[Table]]] = {
    "speed": speed, "audio": audio, "images": images, "partitions": partitions, "video": video, "shape": shape,
    "volume": volume, "extension": extension}


def main() -> None:
    """Run the sections asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the published sizes and steps: hours on a CPU")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections to run")
    parser.add_argument("--device", default="auto", help="auto or a torch device")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="32", help="of every fit but the fast recipes': 32, as published, or bf16")
    parser.add_argument("--paper-metric", action="store_true", help="add the published PSNR of stretched images")
    parser.add_argument("--fields", nargs="+", choices=(*Options.fields, "additive"), default=Options.fields,
                        help="what sound, images, video and shape compare, in this order")
    parser.add_argument("--signals", nargs="+", default=(), metavar="NAME", help="these photographs, recordings, videos or meshes only")
    parser.add_argument("--excerpt", type=float, metavar="SECONDS", help="of sound, at the published number of steps")
    parser.add_argument("--blocks", type=int, help="of shapes, along each axis: 8, in small 4")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    options = Options(arguments.full, arguments.device, arguments.seed, arguments.paper_metric,
                      tuple(arguments.signals), arguments.precision, tuple(arguments.fields), arguments.excerpt,
                      arguments.blocks)
    print(f"{machine(options.device)}\n")
    written = {}
    for name in arguments.only:
        for table in SECTIONS[name](options):
            show(table.rows, table.title, table.note)
            written[table.title] = table.rows
            if arguments.json:
                arguments.json.write_text(json.dumps(written, indent=1))


if __name__ == "__main__":
    main()
