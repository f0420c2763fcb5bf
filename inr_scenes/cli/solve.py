"""inr solve PROBLEM FIELD SIGNAL: recover a signal from measurements."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InrError
from ..plugins import host
from .common import Output, words
from .fit import Source, configuration, fit_to, names, usage, values, wants_help
from .run import RunOptions


@dataclass(frozen=True)
class What:
    """What to solve."""

    problem: str
    """Name of the problem; see inr list."""
    field: str
    """Name of the field."""
    signal: str
    """Clean signal to simulate measurements from, or a file of measurements with --measured."""


@dataclass(frozen=True)
class Measured:
    """Where the measurements come from."""

    measured: bool = False
    """SIGNAL holds real measurements, not a clean signal to simulate them from."""


def run(arguments: list[str]) -> dict[str, Any] | None:
    """Recover a signal from measurements: simulated from a clean one for study, or real ones with --measured."""
    from ..api import signal_class
    from ..fit import FitConfig
    from ..plugins import find_problem

    config = configuration(arguments)
    problems = {cls.name: cls for cls in (item for item, _ in host().collect("inr_problems"))}
    more = (Measured, *(cls.Options for cls in problems.values()))
    places = words(arguments, (RunOptions, FitConfig, Output, *(cls.Config for cls in host().fields()),
                               *(cls.Options for cls in host().signals()), *more))
    at = next((i for i in places if arguments[i] in problems), None)
    name = config.get("problem") if at is None else arguments[at]
    if name is None:
        word = next((arguments[i] for i in places), None)
        if word is not None and not wants_help(arguments):
            find_problem(word)                  # says that there is none, and what there is
        return usage("solve", arguments, (What,), ("problem", "field", "signal"), run.__doc__)
    problem = problems[name]
    field, path, rest = names([a for i, a in enumerate(arguments) if i != at], config, more=more)
    if field is None:
        return usage("solve", arguments, (What,), ("problem", "field", "signal"), run.__doc__)
    if not problem.kinds:
        if path is not None:
            raise InrError(f"{name} is an equation and takes no signal: leave {path!r} away.")
    elif path is None and not wants_help(arguments):
        raise InrError(f"name a signal: inr solve {name} {field} SIGNAL.")
    measured = ("--measured" in rest or config.get("load", {}).get("measured", False)
                or _only_measurements(problem, path))
    simulated = problem.kinds and path is not None and not measured and (Path(path).exists() or not wants_help(rest))
    signal = signal_class(path) if simulated else None

    def load(chosen):
        options = values(chosen[problem.Options])
        if measured:
            return problem.load(path, **options)
        try:
            clean = signal.load(Path(path).expanduser(), **values(chosen[signal.Options])) if signal else None
        except InrError as error:
            if Path(path).suffix.lower() not in problem.suffixes:
                raise
            raise InrError(f"{error} If it holds measurements, say so with --measured.") from None
        return problem.wrap(clean, **options)

    options = (Measured, problem.Options, *((signal.Options,) if signal else ()))
    return fit_to(Source(f"solve {name}", path, options, load, {"problem": name}), field, rest, config)


def _only_measurements(problem: type, path: str | None) -> bool:
    """Say whether a file can be nothing but measurements: no signal that could be measured bears its suffix."""
    suffix = Path(path or "").suffix.lower()
    return suffix in problem.suffixes and not any(suffix in cls.suffixes for cls in host().signals()
                                                  if cls.kind in problem.kinds)
