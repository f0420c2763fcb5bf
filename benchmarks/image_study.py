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
import datetime
import json
import platform
from pathlib import Path

import numpy as np
import torch
from inr_fourier_mlp.features import default_scale
from inr_fourier_mlp.field import FourierMLP
from inr_fourier_mlp.recipes import LADDER, STUDY_SIDE

from inr_scenes import __version__
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


def machine(device: str) -> str:
    """Say what computed: the processor or GPU, threads and versions."""
    if torch.accelerator.is_available() and device != "cpu":
        kind = torch.accelerator.current_accelerator()
        name = torch.cuda.get_device_name() if kind.type == "cuda" else str(kind)
    else:
        name = f"{cpu()}, {torch.get_num_threads()} threads"
    return f"{name} · Python {platform.python_version()} · torch {torch.__version__} · inr-scenes {__version__}"


def cpu() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


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
    print(f"{machine(chosen.device)} · {datetime.date.today()}")
    print(f"{seconds:g} s a fit · crops of {size} pixels · hidden widths divided by {shrink}\n")
    print(f"| rung | parameters | steps | {' | '.join(s.name for s in signals)} | mean PSNR | gain |")
    print(f"|---|---|---|{'---|' * (len(signals) + 2)}", flush=True)
    results, before = {}, None
    for rung in chosen.rungs:
        found = [climb(signal, rung, seconds, shrink, chosen.device) for signal in signals]
        mean = sum(f["psnr"] for f in found) / len(found)
        gain = "" if before is None else f"{mean - before:+.2f}"
        steps = sum(f["steps"] for f in found) // len(found)
        row = [rung.removeprefix("study-"), f"{found[0]['parameters']:,}", str(steps),
               *(f"{f['psnr']:.2f}" for f in found), f"{mean:.2f}", gain]
        print(f"| {' | '.join(row)} |", flush=True)
        results[rung], before = dict(zip((s.name for s in signals), found)), mean
    if chosen.json:
        chosen.json.write_text(json.dumps({"machine": machine(chosen.device), "seconds": seconds, "size": size,
                                           "shrink": shrink, "results": results}, indent=1))


if __name__ == "__main__":
    main()
