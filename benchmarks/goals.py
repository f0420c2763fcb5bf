"""Sound, video, a shape and a light field: seconds to a quality, and where the loop as published is after ten times that.

    python benchmarks/goals.py                           # all four
    python benchmarks/goals.py --signals bach --factor 20

Ours is a fast recipe; the published loop is plain torch in float32 with SIREN's own settings (Adam 1e-4, its batches, its
first frequency) and the loss read every step, on a SIREN of as many parameters (within 4 %). It would take hours, so its
step is timed, and as many of its steps are then taken as fit into `--factor` times our seconds, by the fused kernel, which
gives the same up to rounding. Our schedule needs an end: the shortest one that reaches the goal counts, looks left out.
"""

import argparse
import datetime
import math
from dataclasses import dataclass
from pathlib import Path

from image_study import machine
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
    "junkshop": Goal("lightfield/junkshop_480", "siren", "psnr_test", 30.0, {"size": (160, 240)}),
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
    print(f"{machine(options.device)} · {datetime.date.today()}\n")
    print("| signal | goal | ours | seconds | rows | a published step | its rows | steps in the time | the published loop "
          "there | at least so much faster |\n" + "|---" * 10 + "|", flush=True)
    for name in options.signals:
        goal = GOALS[name]
        if not (DATA / goal.path).exists():
            continue
        signal = inr.load(DATA / goal.path, **goal.load).to(device)
        loop = ours(find_field(goal.field), goal.seen)
        seconds, _, rows, _ = time_to(goal.value, loop, signal, device, None, options.limit)
        a_step = Published(signal, device).seconds()
        loop = Published(signal, device, "auto")
        count = math.floor(options.factor * (seconds or options.limit) / a_step)
        for _ in range(count):
            loop.step()
        there = goal.seen(signal, loop.field)
        faster = f"{options.factor:g}" if seconds and there < goal.value else "no"
        print(f"| {name} | {goal.metric} {goal.value:g} | {goal.field} | {f'{seconds:.1f}' if seconds else 'not reached'} | "
              f"{rows:,} | {a_step:.2f} s | {loop.rows:,} | {count} | {there:.4g} | {faster} |", flush=True)


if __name__ == "__main__":
    main()
