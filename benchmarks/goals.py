"""Sound, video, a shape and a light field: seconds to a quality, and where the loop as published is after ten times that.

    python benchmarks/goals.py                           # all four
    python benchmarks/goals.py --signals bach --factor 20

Ours is a fast recipe; the published loop is plain torch in float32 with SIREN's own settings (Adam 1e-4, its batches, its
first frequency) and the loss read every step, on a SIREN of as many parameters (within 4 %). It would take hours, so its
step is timed, and as many of its steps are then taken as fit into `--factor` times our seconds, by the fused kernel, which
gives the same up to rounding. Our schedule needs an end: the shortest one that reaches the goal counts, looks left out.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from report import machine, show
from siren import Published, ours, time_to

import inr_scenes as inr
from inr_scenes.device import resolve_device
from inr_scenes.plugins import find_field
from inr_scenes.signal import Signal

DATA = Path(__file__).parents[2] / "shared" / "data"


@dataclass(frozen=True)
class Goal:
    """A signal, the field that is fitted to it, and the quality it is to reach."""

    path: str
    field: str
    metric: str
    value: float
    load: dict

    def seen(self, signal: Signal, field) -> float:
        """Measure the field: by a look, or over all that is held out."""
        look = signal.probe(field)
        return look[self.metric] if self.metric in look else signal.metrics(field)[self.metric]


GOALS = {
    "bach": Goal("audio/bach.wav", "lg-siren", "psnr", 40.0, {"mono": True}),
    "flower": Goal("video/flower.mp4", "siren", "psnr", 30.0, {"size": (135, 240)}),
    "armadillo": Goal("mesh/armadillo.ply", "siren", "iou", 0.99, {"resolution": 128}),
    "junkshop": Goal("lightfield/junkshop_480", "siren", "psnr_test", 34.0, {"size": (160, 240)}),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--signals", nargs="+", choices=GOALS, default=list(GOALS))
    parser.add_argument("--factor", type=float, default=10.0, help="times our seconds that the published loop gets")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds after which ours is given up")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = resolve_device(options.device)
    print(f"{machine(options.device)}\n")
    show(table(options, device))


def table(options: argparse.Namespace, device: torch.device) -> Iterator[dict]:
    """Yield a row for each signal that is there."""
    for name in options.signals:
        goal = GOALS[name]
        if not (DATA / goal.path).exists():
            continue
        signal = inr.load(DATA / goal.path, **goal.load).to(device)
        loop = ours(find_field(goal.field), goal.seen)
        mine = time_to(goal.value, loop, signal, device, None, options.limit)
        a_step = Published(signal, device).seconds()
        loop = Published(signal, device, "auto")
        count = math.floor(options.factor * mine.seconds / a_step)
        for _ in range(count):
            loop.step()
        there = goal.seen(signal, loop.field)
        faster = f"{options.factor:g}" if mine.there and there < goal.value else "no"
        yield {"signal": name, "goal": f"{goal.metric} {goal.value:g}", "ours": goal.field,
               "seconds": f"{'' if mine.there else 'more than '}{mine.seconds:.1f}", "rows": mine.rows,
               "a published step": f"{a_step:.2f} s", "its rows": loop.rows, "steps in the time": count,
               "the published loop there": f"{there:.4g}", "at least so much faster": faster}


if __name__ == "__main__":
    main()
