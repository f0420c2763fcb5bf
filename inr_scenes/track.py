"""Watch a fit: a progress bar, a line per look in metrics.jsonl, TensorBoard. Each wraps the steps it passes on."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from .errors import need
from .fit import Step


def bar(steps: Iterable[Step], total: int | None = None, label: str = "fit") -> Iterator[Step]:
    """Show steps, rate, quality and time left on stderr; plain lines where stderr is no terminal."""
    if sys.stderr.isatty():
        yield from _rich_bar(steps, label)
    else:
        yield from _lines(steps, total, label)


def log(steps: Iterable[Step], path: Path, every: float = 0.5) -> Iterator[Step]:
    """Append a JSON line to `path` at every look at the field and at most every `every` seconds in between."""
    due = 0.0
    with path.open("a") as file:
        for step in steps:
            if step.metrics or step.seconds >= due:
                due = step.seconds + every
                loss = step.loss.item()
                line = {"step": step.step, "seconds": round(step.seconds, 3), "lr": step.lr,
                        "loss": loss if math.isfinite(loss) else None, **step.metrics}
                file.write(json.dumps(line) + "\n")
                file.flush()
            yield step


def tensorboard(steps: Iterable[Step], folder: Path,
                pictures: Callable[[], list] = list) -> Iterator[Step]:
    """Write loss, learning rate, metrics, and at every look pairs of truth and reconstruction under `folder`."""
    writers = need("torch.utils.tensorboard", extra="tensorboard", why="for --track tensorboard")
    writer = writers.SummaryWriter(str(folder))
    try:
        for step in steps:
            if step.metrics or step.step % 100 == 0:
                writer.add_scalar("loss", step.loss.item(), step.step)
                writer.add_scalar("lr", step.lr, step.step)
                for name, value in step.metrics.items():
                    writer.add_scalar(name, value, step.step)
            for i, pair in enumerate(pictures() if step.metrics else ()):
                both = [part.repeat(3, -1) if part.shape[-1] == 1 else part[..., :3] for part in pair]
                writer.add_image(f"truth and reconstruction/{i}", np.concatenate(both, 1), step.step, dataformats="HWC")
            yield step
    finally:
        writer.close()


def _text(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                     for name, value in metrics.items())


def _rich_bar(steps: Iterable[Step], label: str) -> Iterator[Step]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(label), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeRemainingColumn(),
               TextColumn("{task.fields[rate]:.1f} steps/s"), TextColumn("{task.fields[quality]}"))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=1.0, rate=0.0, quality="")
        start, first, drawn = time.monotonic(), None, 0.0
        for step in steps:
            first = step.step if first is None else first
            now = time.monotonic()
            if step.metrics or now - drawn > 0.2:
                drawn = now
                rate = (step.step - first) / max(now - start, 1e-9)
                progress.update(task, completed=step.progress, rate=rate,
                                **({"quality": _text(step.metrics)} if step.metrics else {}))
            yield step


def _lines(steps: Iterable[Step], total: int | None, label: str) -> Iterator[Step]:
    for step in steps:
        if step.metrics:
            of = f"/{total}" if total else ""
            sys.stderr.write(f"{label} {step.step}{of}  {step.seconds:.1f} s  {_text(step.metrics)}\n")
            sys.stderr.flush()
        yield step
