"""A run folder: one fit with its archive, config, metrics and the state to resume from."""

import contextlib
import functools
import io
import itertools
import json
import os
import shutil
import signal as signals
import tomllib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..archive import ARCHIVE_NAME
from ..errors import InrError, need
from ..files import atomic
from .common import note

STATE, CONFIG, METRICS = "state.pt", "config.toml", "metrics.jsonl"


@dataclass(frozen=True)
class RunOptions:
    """Where a run goes and how it is watched."""

    output: str | None = None
    """Run folder; default: runs/SIGNAL-FIELD."""
    preset: str = "fast"
    """published: the paper's own settings; fast: ours; or a preset the field names."""
    config: str | None = None
    """TOML file of settings, as a run folder's config.toml; flags go before it."""
    resume: bool = False
    """Continue an interrupted run to the same result."""
    overwrite: bool = False
    """Replace a run that is there."""
    dtype: str = "float32"
    """Weights of the archive: float32, float16 or bfloat16; metrics are those of the rounded weights."""
    track: str | None = None
    """tensorboard: also write its event files into the run folder."""
    save_every: float = 30.0
    """Seconds between saves of the state that --resume needs."""
    sheet: bool = False
    """Also write sheet.png: ground truth, reconstruction, error."""


class Run:
    """The folder of one run. Nothing is created before `begin`, so a refused run leaves no trace."""

    def __init__(self, options: RunOptions, default: str):
        self.folder = Path(options.output or Path("runs") / default).expanduser()
        self.options, self.warned = options, False
        if self.folder.suffix == ".safetensors":
            raise InrError(f"-o names a folder, as {self.folder.with_suffix('')}; the archive is written into it.")
        if self.folder.exists() and not self.folder.is_dir():
            raise InrError(f"{self.folder} is a file; -o names a folder.")
        if options.track not in (None, "tensorboard"):
            raise InrError(f"--track {options.track!r} is not known: tensorboard.")
        if options.dtype not in ("float32", "float16", "bfloat16"):
            raise InrError(f"--dtype {options.dtype!r} is not known: float32, float16 or bfloat16.")
        if options.resume and not (self.folder / STATE).is_file():
            raise InrError(f"{self.folder} has no {STATE} to resume from. Leave --resume away to start anew.")
        if self.folder.is_dir() and any(self.folder.iterdir()) and not (options.resume or options.overwrite):
            raise InrError(f"{self.folder} is there already. Continue it with --resume, replace it with --overwrite, "
                           f"or choose another folder with -o.")

    def own_config(self) -> dict[str, Any]:
        """Return the settings a run that is to be resumed was begun with; empty if it is not."""
        return read_config(self.folder) if self.options.resume and (self.folder / CONFIG).is_file() else {}

    @property
    def archive(self) -> Path:
        """The archive's path."""
        return self.folder / ARCHIVE_NAME

    def check_samples(self, spec) -> None:
        """Raise InrError if a run that is to be resumed has an archive of other samples than `spec` has."""
        from ..archive import header

        if not self.archive.is_file():
            return
        then, now = header(self.archive)["spec"], json.loads(json.dumps(spec.to_json()))
        if any(then[part] != now[part] for part in ("axes", "frame")):
            raise InrError(f"{self.archive} was fitted to samples that lie elsewhere: the signal has changed, or "
                           f"another version read it. Start anew, with --overwrite or another folder.")

    def begin(self, config: dict[str, Any]) -> None:
        """Create the folder and write config.toml."""
        import tomli_w

        new = not self.folder.exists()
        if self.folder.exists() and not self.options.resume:
            for name in (ARCHIVE_NAME, STATE, METRICS, "sheet.png"):
                (self.folder / name).unlink(missing_ok=True)
            shutil.rmtree(self.folder / "tensorboard", ignore_errors=True)
        try:
            with atomic(self.folder / CONFIG) as temporary:
                temporary.write_text(tomli_w.dumps(config))
        except BaseException:
            if new:
                shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def state(self) -> dict[str, Any] | None:
        """Return the state to resume from, if resuming was asked for."""
        if not self.options.resume:
            return None
        import torch

        try:
            return torch.load(self.folder / STATE, map_location="cpu", weights_only=True)
        except Exception as error:
            raise InrError(f"{self.folder / STATE} is damaged ({type(error).__name__}). "
                           f"Start anew with --overwrite.") from error

    def save_state(self, state: dict[str, Any]) -> None:
        """Write the state to resume from."""
        import torch

        packed = io.BytesIO()               # torch's own writer does not say that a disk is full
        torch.save(state, packed)
        with atomic(self.folder / STATE) as temporary:
            temporary.write_bytes(packed.getbuffer())

    def try_to_save(self, state: dict[str, Any]) -> None:
        """Write the state, unless it is of a fit that diverges: the last good one, if there is one, is to stay.

        A full disk is told once, and the fit goes on: it may outlast it.
        """
        if not all(value.isfinite().all() for value in state["field"].values() if value.is_floating_point()):
            return
        try:
            self.save_state(state)
        except InrError as error:
            if not self.warned:
                note(f"{error} The fit goes on.")
            self.warned = True


def read_config(path) -> dict[str, Any]:
    """Read a TOML file of settings."""
    from ..files import readable

    path = readable(Path(path) / CONFIG if Path(path).is_dir() else path)
    try:
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InrError(f"{path} is not TOML: {error}.") from None


def execute(run: Run, field, signal, config, facts: dict[str, str], settings: dict[str, Any],
            loop: Callable[..., Iterator] | None = None, command: str = "fit") -> dict[str, Any]:
    """Fit into a run folder; returns the result the command prints.

    A run that is interrupted (Ctrl-C, SIGTERM) or diverges saves its archive and its state first. loop: the steps of
    another command than fit, called with `resume`; `signal` then is what the field is measured against.
    """
    from .. import track
    from ..archive import save
    from ..fit import check, steps
    from ..guard import Diverged
    from ..metrics import reaches

    if loop is None:
        check(config)
        loop = functools.partial(steps, field, signal, config)
    if run.options.track == "tensorboard":
        need("tensorboard", extra="tensorboard", why="for --track tensorboard")
    state = run.state()
    if state:
        run.check_samples(field.spec)
    looped = loop(resume=state)
    first = list(itertools.islice(looped, 1))       # whatever refuses to start does so before anything is written
    run.begin(settings)
    looped = track.log(itertools.chain(first, looped), run.folder / METRICS)
    if run.options.track == "tensorboard":
        looped = track.tensorboard(looped, run.folder / "tensorboard", lambda: signal.pictures(field))
    last, diverged, best = None, None, {}

    def look(metrics: dict[str, float], step: int) -> None:
        name = signal.main_metric
        if name in metrics and (not best or reaches(name, metrics[name], best[name])):
            best.update({name: metrics[name], "step": step})

    done = {"step": state["step"], "seconds": state["seconds"]} if state else {"step": 0, "seconds": 0.0}
    with interrupts() as stopped:
        saved = done["seconds"]
        try:
            for last in track.bar(looped, config.steps, facts["field"]):
                done = {"step": last.step, "seconds": last.seconds}
                look(last.metrics, last.step)
                if last.seconds - saved >= run.options.save_every or stopped:
                    saved = last.seconds
                    run.try_to_save(last.state())
                if stopped:
                    break
        except Diverged as error:
            diverged = error
        if last is not None and not stopped and not diverged:
            run.try_to_save(last.state())
    for line in field.notes():
        note(line)
    with last.averaged() if stopped else contextlib.nullcontext():
        round_weights(field, run.options.dtype)
        field.eval()
        metrics = {} if stopped else signal.metrics(field)
        look(metrics, done["step"])             # probes see a sample, so the end may be better than any of them
        save(field, run.archive, metrics=metrics, fit={**done, **facts, "load": settings["load"]},
             dtype=run.options.dtype)
    if stopped:
        further = f" Go on with: inr {command} --resume -o {run.folder}" if (run.folder / STATE).is_file() else ""
        raise Interrupted(f"stopped at step {done['step']} and saved.{further}", stopped[0])
    if diverged:
        raise InrError(f"{diverged} It is in {run.archive}.")
    if run.options.sheet:
        from ..evaluate import sheet
        try:
            note(f"sheet {sheet(field, signal, run.folder / 'sheet.png')}")
        except InrError as error:       # the run is done and saved all the same
            note(str(error))
    result = {"archive": str(run.archive), "field": facts["field"], "signal": facts["signal"],
              "parameters": field.baked().parameter_count, "bytes": run.archive.stat().st_size,
              "steps": done["step"], "seconds": round(done["seconds"], 3), "metrics": metrics}
    # a problem's truth is not known in use, so the best over the run is reported apart from the result
    return result | ({"problem": facts["problem"], "best_over_run": best} if "problem" in facts else {})


class Interrupted(SystemExit):
    """A fit was stopped by a signal after saving; exits as a program stopped by that signal does."""

    def __init__(self, message: str, number: int):
        note(message)
        super().__init__(128 + number)


def round_weights(field, dtype: str) -> None:
    """Round a field's weights to what an archive of `dtype` will hold, so that metrics are those of the file."""
    import torch

    if dtype in ("float16", "bfloat16"):
        with torch.no_grad():
            for p in field.parameters():
                p.copy_(p.to(getattr(torch, dtype)))


def plain(settings) -> dict[str, Any]:
    """Return a dataclass as TOML can hold it: no None, tuples as lists."""
    from ..settings import to_dict
    return {name: value for name, value in to_dict(settings).items() if value is not None}


def budget(fit: dict[str, Any], given: Collection[str], stored: Collection[str] = ()) -> dict[str, Any]:
    """Let seconds alone end a fit when they were asked for and steps were not: by flags, else by a file's settings."""
    for names in (given, stored):
        if "steps" in names:
            return fit
        if "seconds" in names:
            return {**fit, "steps": None}
    return fit


@contextlib.contextmanager
def interrupts() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second one acts at once."""
    received: list[int] = []

    def remember(number, frame):
        if received:
            signals.signal(number, signals.SIG_DFL)
            os.kill(os.getpid(), number)
        received.append(number)

    old = {}
    with contextlib.suppress(ValueError):       # not in the main thread: leave signals alone
        old = {number: signals.signal(number, remember) for number in (signals.SIGINT, signals.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in old.items():
            signals.signal(number, handler)
