"""The image study's ladder on five photographs: what each step of it gains at equal time.

    python benchmarks/image_study.py                         # small: 256×256 crops, widths divided by 4, 40 s a fit
    python benchmarks/image_study.py --seconds 60 --size 384
    python benchmarks/image_study.py --full                  # 768×768, the study's widths, 180 s a fit: a GPU

Each rung keeps the one before and changes one thing. Crops keep the whole photograph's frequencies per pixel, those of
the study's default scale too, and its share of pixels in a batch.
The study's own figures, on photographs of its own and a GPU of its own: 26 dB with width, 35 dB with the encoding,
47.15 dB at the end. Prints a table in Markdown; --json FILE also writes the figures.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from inr_fourier_mlp.features import default_scale
from inr_fourier_mlp.field import FourierMLP
from inr_fourier_mlp.recipes import LADDER, STUDY_SIDE
from report import machine, show

from inr_scenes.field import build
from inr_scenes.fit import FitConfig, fit
from inr_scenes.signals.image import ImageSignal, read_image

PHOTOS = Path(__file__).parents[2] / "shared" / "data" / "image"
NAMES = ("highland", "statue", "palms", "coffeevan", "tulips")
BUNDLED = ("astronaut", "coffee", "rocket", "chelsea", "retina")        # of scikit-image, where the folder is absent


def photos(size: int) -> list[ImageSignal]:
    """Return the centre of each photograph, at most `size` pixels high and wide."""
    if all((PHOTOS / f"{name}.png").is_file() for name in NAMES):
        arrays = {name: read_image(PHOTOS / f"{name}.png", "rgb")[0] for name in NAMES}
    else:
        from skimage import data
        arrays = {name: getattr(data, name)() for name in BUNDLED}
    return [ImageSignal.from_array(centre(array, size), name=name) for name, array in arrays.items()]


def centre(array: np.ndarray, size: int) -> np.ndarray:
    """Return the middle of an array (h, w, c), at most size × size."""
    top, left = (max(0, (n - size) // 2) for n in array.shape[:2])
    return array[top:top + size, left:left + size]


def climb(signal: ImageSignal, rung: str, seconds: float, shrink: int, device: str) -> dict[str, float]:
    """Fit one rung to one photograph from a fixed seed."""
    recipe = FourierMLP.suggest(signal, rung)
    config = {**recipe.config, "hidden_features": recipe.config["hidden_features"] // shrink}
    if config["frequency_scale"] is None:               # the study's default is per photograph: a crop holds less of it
        share = max(signal.spec.shape) / STUDY_SIDE
        config["frequency_scale"] = default_scale(config["encoding_features"] // 2) * share
    field = build(FourierMLP, signal.spec, config, seed=0)
    changes = {"seconds": seconds, "batch": recipe.fit["batch"] * len(signal) // STUDY_SIDE**2, "device": device}
    result = fit(field, signal, FitConfig(**{**recipe.fit, **changes}))
    return {"psnr": result.metrics["psnr"], "steps": result.steps, "parameters": field.parameter_count}


def main() -> None:
    """Climb the ladder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the study's sizes: --seconds 180 --size 768 --shrink 1")
    parser.add_argument("--seconds", type=float, help="time of one fit (40)")
    parser.add_argument("--size", type=int, help="pixels of a crop's side (256)")
    parser.add_argument("--shrink", type=int, help="divides the hidden widths (4)")
    parser.add_argument("--photos", type=int, default=5, help="how many of the photographs")
    parser.add_argument("--rungs", nargs="+", choices=LADDER, default=list(LADDER), help="which rungs")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    chosen = parser.parse_args()
    seconds, size, shrink = (given if given is not None else default for given, default in zip(
        (chosen.seconds, chosen.size, chosen.shrink), (180.0, 768, 1) if chosen.full else (40.0, 256, 4)))
    signals = photos(size)[:chosen.photos]
    print(machine(chosen.device))
    print(f"{seconds:g} s a fit · crops of {size} pixels · hidden widths divided by {shrink}\n")
    results = {}

    def rows() -> Iterator[dict]:
        before = None
        for rung in chosen.rungs:
            found = [climb(signal, rung, seconds, shrink, chosen.device) for signal in signals]
            results[rung] = {signal.name: facts for signal, facts in zip(signals, found)}
            mean = statistics.mean(facts["psnr"] for facts in found)
            yield {"rung": rung.removeprefix("study-"), "parameters": found[0]["parameters"],
                   "steps": sum(facts["steps"] for facts in found) // len(found),
                   **{signal.name: facts["psnr"] for signal, facts in zip(signals, found)}, "mean PSNR": mean,
                   "gain": None if before is None else f"{mean - before:+.2f}"}
            before = mean

    show(rows())
    if chosen.json:
        chosen.json.write_text(json.dumps({"machine": machine(chosen.device), "seconds": seconds, "size": size,
                                           "shrink": shrink, "results": results}, indent=1))


if __name__ == "__main__":
    main()
