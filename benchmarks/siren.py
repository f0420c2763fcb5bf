"""SIREN 3×256 on 512×512 photographs: seconds to 30 and 35 dB, against the published loop and two plain ones.

    python benchmarks/siren.py                           # kodim23
    python benchmarks/siren.py --photos kodim23 kodim05 kodim19 --goals 30 35
    python benchmarks/siren.py --goals 35 --plot         # also draw PSNR against seconds
    python benchmarks/siren.py --ways                    # ours alone, beside the published loop's curve
    python benchmarks/siren.py --record 400              # also take the published loop's curve for so many steps

All have the same layers and numbers of parameters. A schedule needs an end, so every way runs with longer and longer
ones until the PSNR is reached; the shortest that does counts, from its start to the moment it is reached, looks at the
whole image left out. The published loop (full batches, Adam 1e-4) would take hours: its curve of PSNR against steps is
recorded once (results/siren-published.json) and multiplied with the seconds a step takes in this run. "More than" says
how long a way had been at it when it was given up, or its curve ended. The share of the roofline is that of the bare
matrix products, measured right after each way.
The second table is what a step costs, each way and the bare matrix products in turn, several rounds, so that a machine
whose speed changes slows them all.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from image_study import PHOTOS, centre
from report import machine, show

from inr_scenes.device import quick_half, resolve_device, wait
from inr_scenes.field import Field, build
from inr_scenes.fit import FitConfig, steps
from inr_scenes.kernels.choice import choose
from inr_scenes.sampler import Sampler
from inr_scenes.signal import Signal
from inr_scenes.signals.image import ImageSignal, read_image
from inr_scenes.siren import Siren

RECORD = Path(__file__).parent / "results" / "siren-published.json"
HORIZONS = (20, 30, 40, 50, 80, 120, 180, 270, 400, 600, 900, 1400, 2100, 3200)     # steps of 16,384 rows
LOOKS = 0.85                                                            # of a schedule: where looks at the PSNR begin
PLAIN = {"batch": 16_384, "lr": 7e-4}    # of 3e-4 to 4e-3 the best, as is the recipe's first frequency: see RESULTS.md
FLOP = 6 * (2 * 256 + 3 * 256**2 + 3 * 256)                             # of a training row: forward and backward

ROUNDS = 9                                                              # of what a step costs
Moment = tuple[int, float, Callable[[], float]]                         # rows and seconds so far, the PSNR when asked
WAYS = ("plain, float32", "plain, autocast")


def photo(name: str, side: int = 512) -> ImageSignal:
    """Return the middle of a photograph."""
    path = PHOTOS / f"{name}.png"
    if path.is_file():
        return ImageSignal.from_array(centre(read_image(path, "rgb")[0], side), name=name)
    from skimage import data
    return ImageSignal.from_array(centre(data.astronaut(), side), name="astronaut")


def plain(signal: ImageSignal, horizon: int, device, dtype) -> Iterator[Moment]:
    """A plain loop, tuned: the recipe's network, Adam, minibatches, cosine."""
    field = build(Siren, signal.spec, Siren.suggest(signal, "fast").config, seed=0).to(device)
    optimizer = torch.optim.Adam(field.parameters(), lr=PLAIN["lr"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, horizon)
    seconds = 0.0
    for step in range(1, horizon + 1):
        tick = time.perf_counter()
        coords, values = signal.sample(torch.randint(len(signal), (PLAIN["batch"],), device=device))
        with choose("torch"), torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            loss = F.mse_loss(field(coords).float(), values)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        loss.item()                         # the usual progress bar
        seconds += time.perf_counter() - tick
        yield step * PLAIN["batch"], seconds, lambda: signal.probe(field)["psnr"]


def ours(cls: type[Field], seen: Callable[[Signal, Field], float]) -> Callable[..., Iterator[Moment]]:
    """Return the loop of a field's fast recipe, for as many rows as a plain loop of so many steps."""
    def loop(signal: Signal, horizon: int, device, dtype) -> Iterator[Moment]:
        recipe = cls.suggest(signal, "fast")
        field = build(cls, signal.spec, recipe.config, seed=0)
        batch = recipe.fit["batch"]
        config = FitConfig(**{**recipe.fit, "steps": horizon * PLAIN["batch"] // batch, "device": str(device)})
        waited = 0.0
        for count, step in enumerate(steps(field, signal, config), 1):
            tick = time.perf_counter()
            wait(device)                    # what an accelerator still has to do of the step
            waited += time.perf_counter() - tick
            yield count * batch, step.seconds + waited, lambda: seen(signal, field)
    return loop


class Reached(NamedTuple):
    """How a way came to a goal, or how far it was when it was given up; curve: (seconds, PSNR) along the way."""

    there: bool
    seconds: float
    rows: int
    curve: list[tuple[float, float]]
    horizon: int = 0


def time_to(goal: float, loop, signal: Signal, device, dtype, limit: float, looks: float = LOOKS,
            shortest: int = 0) -> Reached:
    """Run a way by longer and longer schedules, `shortest` the first, until the goal or the limit in seconds.

    looks: the share of a schedule from which on it is looked at.
    """
    for horizon in (h for h in HORIZONS if h >= shortest):
        share, curve = looks, []
        for rows, seconds, psnr in loop(signal, horizon, device, dtype):
            if rows >= share * horizon * PLAIN["batch"]:
                curve.append((seconds, psnr()))
                if share >= LOOKS - 1e-6 and curve[-1][1] >= goal:
                    return Reached(True, seconds, rows, curve, horizon)
                share += 0.05
        if seconds > limit:
            break
    return Reached(False, seconds, rows, curve, horizon)


def shares(signal: ImageSignal, device, half: torch.dtype | None, rounds: int) -> Iterator[dict]:
    """Yield a row for each way: what a training step costs, and how near that is to its matrix products alone."""
    endless = 1000 * HORIZONS[-1]
    loops = {"ours": ours(Siren, lambda s, f: 0.0)(signal, endless, device, None),
             "plain, float32": plain(signal, endless, device, None),
             "plain, autocast": plain(signal, endless, device, half)}
    published, reached = Published(signal, device), dict.fromkeys(loops, (0, 0.0))
    found: dict[str, list[float]] = {"products alone": [], **{way: [] for way in loops}, "as published": []}
    for _ in range(rounds):
        found["products alone"].append(FLOP / ceiling(device, half or torch.float32))
        for way, loop in loops.items():
            rows, seconds, _ = next(moment for moment in loop if moment[1] - reached[way][1] > 0.25)
            found[way].append((seconds - reached[way][1]) / (rows - reached[way][0]))
            reached[way] = rows, seconds
        found["as published"].append(published.seconds(1) / published.rows)
    for way, times in found.items():
        share = statistics.median(top / time for top, time in zip(found["products alone"], times))
        yield {"training step of": way, "µs a row": statistics.median(times) * 1e6,
               "range": f"{min(times) * 1e6:.2f}–{max(times) * 1e6:.2f}", "share of the roofline": f"{share:.0%}"}


def plot(name: str, curves: dict[str, list[tuple[float, float]]], goal: float) -> None:
    """Draw PSNR against seconds, each way by the schedule that came to the goal first."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for way, curve in curves.items():
        if curve:
            axes.plot(*zip(*curve), label=way, marker=".")
    axes.axhline(goal, color="grey", linewidth=0.8)
    axes.set(xscale="log", xlabel="seconds of training", ylabel="PSNR (dB)", title=f"{name}, 512×512, SIREN 3×256")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(RECORD.with_name(f"siren-{name}-{goal:g}.png"), dpi=120, bbox_inches="tight")
    pyplot.close(figure)


class Published:
    """The loop as published: plain torch in float32, Adam 1e-4, the preset's batches, the loss read every step.

    kernel "auto" takes the same steps quicker, but for rounding: in parts that have room in the cache.
    """

    def __init__(self, signal: Signal, device, kernel: str = "torch"):
        recipe = Siren.suggest(signal, "published")
        self.signal, self.kernel = signal, kernel
        self.field = build(Siren, signal.spec, recipe.config | {"hidden_features": 256}, seed=0).to(device)
        self.optimizer = torch.optim.Adam(self.field.parameters(), lr=1e-4)
        self.sampler, self.taken = Sampler(signal, FitConfig(**recipe.fit), device), 0
        self.rows = self.sampler.batch
        self.part = self.rows if kernel == "torch" or device.type != "cpu" else 4096

    def step(self) -> None:
        """Take one step."""
        self.optimizer.zero_grad()
        for index in self.sampler.draw(self.taken).split(self.part):
            query, values = self.signal.sample(index)
            with choose(self.kernel):
                loss = self.signal.loss(self.signal.predict(self.field, query), values) * (len(index) / self.rows)
            loss.backward()
            loss.item()
        self.optimizer.step()
        self.taken += 1

    def seconds(self, count: int = 3) -> float:
        """Return the median time of a step."""
        times = []
        for _ in range(count):
            tick = time.perf_counter()
            self.step()
            times.append(time.perf_counter() - tick)
        return statistics.median(times)


def record(signal: ImageSignal, count: int, device) -> None:
    """Take the published loop's PSNR for `count` steps, in parts that are quicker and add up to the same."""
    curves = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    loop, curve = Published(signal, device, "auto"), []
    for step in range(1, count + 1):
        loop.step()
        if step % 10 == 0:
            curve.append((step, round(signal.probe(loop.field)["psnr"], 3)))
            curves[signal.name] = curve
            RECORD.parent.mkdir(exist_ok=True)
            RECORD.write_text(json.dumps(curves) + "\n")


def ceiling(device, dtype) -> float:
    """Return the FLOP a second of the matrix products of a hidden layer, best of several."""
    a, b = torch.randn(4096, 256, device=device, dtype=dtype), torch.randn(256, 256, device=device, dtype=dtype)
    best = 0.0
    for _ in range(30):
        tick = time.perf_counter()
        for _ in range(20):
            torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 20 * 2 * 4096 * 256**2 / (time.perf_counter() - tick))
    return best


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", nargs="+", default=["kodim23"])
    parser.add_argument("--goals", nargs="+", type=float, default=[30.0, 35.0])
    parser.add_argument("--record", type=int, default=0, help="steps of the published loop to record first")
    parser.add_argument("--record-only", action="store_true", help="and end")
    parser.add_argument("--plot", action="store_true", help="also draw PSNR against seconds into results/")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds after which a way is given up")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=WAYS, help="ours beside these of the loops run here")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = resolve_device(options.device)
    signals = [photo(name).to(device) for name in options.photos]
    for signal in signals if options.record else ():
        record(signal, options.record, device)
    if options.record_only:
        return
    print(f"{machine(options.device)}\n")
    show(times(signals, options, device))
    if options.ways:
        show(shares(signals[0], device, quick_half(device), ROUNDS))


def times(signals: list[ImageSignal], options: argparse.Namespace, device) -> Iterator[dict]:
    """Yield a row for each photograph, goal and way: how long it takes."""
    half = quick_half(device)
    loops = {"ours": (ours(Siren, lambda s, f: s.probe(f)["psnr"]), None), "plain, float32": (plain, None),
             "plain, autocast": (plain, half)}
    loops = {way: loop for way, loop in loops.items() if way == "ours" or way in options.ways}
    curves = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    for signal in signals:
        a_step, shortest = Published(signal, device).seconds(), dict.fromkeys(loops, 0)
        for goal in sorted(options.goals):
            first = 0.05 if options.plot else LOOKS
            ways, tops = {}, {}
            for way, (loop, dtype) in loops.items():
                ways[way] = time_to(goal, loop, signal, device, dtype, options.limit, first, shortest[way])
                tops[way] = ceiling(device, half or torch.float32)          # the machine may have changed its speed
            shortest = {way: found.horizon for way, found in ways.items()}
            if signal.name in curves:
                curve = curves[signal.name]
                step, there = next(((step, True) for step, psnr in curve if psnr >= goal), (curve[-1][0], False))
                ways["as published, from its curve"] = Reached(
                    there, step * a_step, step * len(signal), [(at * a_step, psnr) for at, psnr in curve if at <= step])
            if options.plot:
                plot(signal.name, {way: found.curve for way, found in ways.items()}, goal)
            for way, found in ways.items():
                more = "" if found.there else "more than "
                times = f"{more}{found.seconds / ways['ours'].seconds:.1f} times" if ways["ours"].there else "-"
                yield {"photo": signal.name, "goal": f"{goal:g} dB", "way": way, "seconds": f"{more}{found.seconds:.1f}",
                       "ours is faster": times,
                       "rows": f"{more}{found.rows:,}", "µs a row": 1e6 * found.seconds / found.rows,
                       "share of the roofline": f"{FLOP * found.rows / found.seconds / tops[way]:.0%}" if way in tops else ""}


if __name__ == "__main__":
    main()
