"""What every field's own recipe reaches on every kind of signal, at equal time; and what changes to it would reach.

    python benchmarks/recipes.py                                     # 30 s a fit
    python benchmarks/recipes.py --fields lg-siren --kinds image --try lr=1e-3 --try lr=1e-3,optimizer=muon
    python benchmarks/recipes.py --try "" --try lr=x0.5 --try lr=x2      # the recipe, half its rate and twice

Signals are those of a data folder beside the project where it has them, else the samples of datasets/. Prints a table
in Markdown: PSNR in dB (sound: of a full scale of 1 to -1), IoU of shapes, PSNR of held-out views of light fields.
"""

import argparse
import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from report import machine, show

import inr_scenes as inr
from inr_scenes.errors import InrError
from inr_scenes.field import Field, build
from inr_scenes.fit import FitConfig, fit
from inr_scenes.plugins import find_field
from inr_scenes.signal import Signal

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
FIELDS = ("siren", "fourier-mlp", "lg-siren", "incode", "lg-incode")
SIGNALS = {
    "image": [("image/kodim23.png", {}), ("image/kodim05.png", {})],
    "audio": [("audio/bach.wav", {"mono": True}), ("audio/counting.wav", {"mono": True})],
    "video": [("video/flower.mp4", {"frames": 50, "size": (136, 240)})],
    "shape": [("mesh/armadillo.ply", {"resolution": 128})],
    "lightfield": [("lightfield/junkshop_480", {"size": (160, 240)})],
}
SAMPLES = {"image": "lightfield/images/test_00.png", "audio": "audio/chord.wav", "video": "video/moving.mp4",
           "shape": "shape/knot.npz", "lightfield": "lightfield"}
METRICS = {"shape": "iou", "lightfield": "psnr_test"}


def signals(kind: str) -> Iterator[Signal]:
    """Load the signals of a kind."""
    found = [(DATA / path, options) for path, options in SIGNALS[kind] if (DATA / path).exists()]
    for path, options in found or [(ROOT / "datasets" / SAMPLES[kind], {})]:
        yield inr.load(path, **options)


def reach(cls: type[Field], signal: Signal, changes: dict, end: dict, device: str) -> tuple[float, int]:
    """Fit with the field's recipe and changes to it to an end of steps or seconds; return the metric and the steps."""
    recipe = cls.suggest(signal, "fast")
    known = {f.name for f in dataclasses.fields(FitConfig)}
    changes = {k: float(v[1:]) * recipe.fit[k] if isinstance(v, str) and v[0] == "x" else v for k, v in changes.items()}
    settings = recipe.fit | {k: v for k, v in changes.items() if k in known}
    config = recipe.config | {k: v for k, v in changes.items() if k not in known}
    if recipe.grid:
        signal.regrid(recipe.grid)
    field = build(cls, signal.spec, config, seed=0)
    result = fit(field, signal, FitConfig(**{**settings, **end, "device": device}))
    return result.metrics[METRICS.get(signal.kind, "psnr")], result.steps


def parse(text: str) -> dict:
    """Read changes written as name=value,name=value."""
    def value(word: str):
        try:
            return ast.literal_eval(word)
        except (ValueError, SyntaxError):
            return word
    return {name: value(word) for name, _, word in (part.partition("=") for part in text.split(",") if part)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fields", nargs="+", default=FIELDS)
    parser.add_argument("--kinds", nargs="+", choices=SIGNALS, default=list(SIGNALS))
    parser.add_argument("--try", dest="tries", action="append", type=parse, help="changes to the recipe; repeatable")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--steps", type=int, help="so many steps a fit, however long: for a busy machine")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    end = {"steps": options.steps, "seconds": None if options.steps else options.seconds}
    length = f"{options.steps} steps" if options.steps else f"{options.seconds:g} s"
    print(f"{machine(options.device)} · {length} a fit\n")
    show(table(options, end))


def table(options: argparse.Namespace, end: dict) -> Iterator[dict]:
    """Yield a row for each signal, field and change."""
    for kind in options.kinds:
        for signal in signals(kind):
            for name in options.fields:
                cls = find_field(name)
                if cls.kinds is not None and kind not in cls.kinds:
                    continue
                for changes in options.tries or [{}]:
                    try:
                        value, steps = reach(cls, signal, changes, end, options.device)
                        reached = f"{value:.4f}" if kind == "shape" else f"{value:.2f}"
                    except InrError as error:
                        steps, reached = "", str(error).splitlines()[0]
                    text = ", ".join(f"{k} {v}" for k, v in changes.items())
                    yield {"signal": signal.name, "field": name, "changes": text, "steps": steps, "reached": reached}


if __name__ == "__main__":
    main()
