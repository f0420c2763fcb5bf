"""What the models shipped with the locality-aware plugin reach on signals that they were not trained on.

    python benchmarks/pretrained.py image                   # held-out flowers, photographs of other kinds, JPEG beside
    python benchmarks/pretrained.py views                   # held-out objects from 1 to 5 views

Held out are the signals that `benchmarks/pretrain.py` held out: by seed 0. Prints the tables of the model cards and
writes benchmarks/results/pretrained-*.json, and a sheet of reconstructions beside it.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from generalizable import by_views, nearest
from pretrain import DATA, RECIPES, sets
from report import machine, show

from inr_scenes.archive import open, save
from inr_scenes.cli.encode import jpeg_bytes, refine
from inr_scenes.dataset import open_set
from inr_scenes.field import decode_all
from inr_scenes.media import write_image
from inr_scenes.metrics import psnr
from inr_scenes.signals.image import ImageSignal
from inr_scenes.validation import Validation, predict
from inr_scenes.windows import WindowedField, encode

RESULTS = Path(__file__).parent / "results"
PHOTOS = ("kodim05", "kodim23", "chelsea", "astronaut", "coffeevan", "palms")


def held_out(found, model: str):
    """Return the part of a set that the shipped model was not trained on."""
    count = RECIPES[model][RECIPES[model].index("--validation") + 1]
    return found.split(int(count), 0)[1]


def image(options) -> dict:
    """Measure the image model; returns the figures."""
    model = open("pretrained-image")
    found = held_out(open_set(DATA / "many_images" / "flowers128", options={"mode": "rgb"}), "image")
    signals = [ImageSignal(s.spec, s.data, s.gain, s.name) for s in found]
    once, fine, seconds = [], [], []
    for i, signal in enumerate(signals):
        tick = time.perf_counter()
        field = encode(model, signal)
        seconds.append(time.perf_counter() - tick)
        once.append(signal.metrics(field)["psnr"])
        if i < options.refined:
            refine(field, signal, 50, "latents", 3e-3)
            fine.append(signal.metrics(field)["psnr"] - once[-1])
    facts = {"flowers": {"images": len(signals), "psnr, one pass": statistics.mean(once), "least": min(once),
                         "more after 50 latent steps (dB)": statistics.mean(fine),
                         "encoding (s, median)": statistics.median(seconds)}}
    show([facts["flowers"]])
    facts["photos"] = show(_photo(model, name, options) for name in options.photos)
    pictures = [np.concatenate([s.array().numpy(), decode_all(encode(model, s)).clamp(0, 1).numpy()])
                for s in signals[:8]]
    write_image(RESULTS / "pretrained-image.png", np.concatenate(pictures, 1))
    return facts


def _photo(model, name: str, options) -> dict:
    """Measure one photograph in windows, in one piece, at its seams, and in bytes beside JPEG."""
    signal = ImageSignal.load(DATA / "image" / f"{name}.png", mode="rgb")
    tick = time.perf_counter()
    field = encode(model, signal)
    row = {"photo": name, "size": "×".join(map(str, signal.spec.shape)), "windows": len(field.windows),
           "encoding (s)": round(time.perf_counter() - tick, 2)}
    tick = time.perf_counter()
    image = decode_all(field).clamp(0, 1)
    error = (image - signal.array()).double().square().mean(-1)
    row |= {"decoding (s)": round(time.perf_counter() - tick, 2), "psnr": psnr(float(error.mean()))}
    seams = border(field)
    row |= {"psnr at seams": psnr(float(error[seams].mean())), "elsewhere": psnr(float(error[~seams].mean()))}
    apart = encode(model, signal, overlap=0)
    row["psnr without overlap"] = signal.metrics(apart)["psnr"]
    if max(signal.spec.shape) <= 512:
        row["psnr in one piece"] = signal.metrics(encode(model, signal, windows=False))["psnr"]
    shared = open(save(apart, options.scratch / f"{name}.safetensors", share=options.bits), model=model)
    quality = signal.metrics(shared)["psnr"]
    row |= {f"bytes, {options.bits} bits, no overlap": (options.scratch / f"{name}.safetensors").stat().st_size,
            "its psnr": quality, "JPEG's bytes at that": jpeg_bytes(signal.array().numpy(), quality)}
    return row


def border(field: WindowedField) -> torch.Tensor:
    """Say which samples lie within two of a window's border that is inside the signal, (*shape,) bool."""
    found = torch.zeros(field.spec.shape, dtype=torch.bool)
    for corner in field.windows.corners:
        for dim, (low, n, count) in enumerate(zip(corner, field.windows.size, field.spec.shape)):
            for edge in (low, low + n):
                if 0 < edge < count:
                    found.index_fill_(dim, torch.arange(max(0, edge - 2), min(count, edge + 2)), True)
    return found


def views(options) -> dict:
    """Measure the few-shot model; returns the figures."""
    model = open("pretrained-views")
    found = held_out(open_set(options.data or sets("views"), kind="lightfield"), "views")
    signals = [found[i] for i in range(len(found))]
    count = len(signals[0].spec.cameras)
    rows = {"nearest support view": by_views(count, lambda seen, asked: nearest(signals, seen, asked)),
            "pretrained-views": by_views(count, lambda seen, asked: Validation(signals, seen, asked=asked).metrics(
                model)["psnr"])}
    show([{"held-out PSNR": name, **{f"{k} views": score for k, score in enumerate(row, 1)}} for name, row in rows.items()])
    _view_sheet(model, signals[:6])
    return {"objects": len(signals), "psnr": rows}


def _view_sheet(model, signals) -> None:
    """Draw truth and what one, three and five support views predict, of three views an object."""
    from inr_scenes.generalizable import SupportViews
    from inr_scenes.validation import spread

    rows = []
    for signal in signals:
        cameras = signal.spec.cameras
        asked = SupportViews(signal, [1, 5, 9])
        size = cameras.size[0].tolist()
        parts = [predict(model, SupportViews(signal, spread(len(cameras), count)), asked) for count in (1, 3, 5)]
        lines = [parts[0][1], *(guess for guess, _ in parts)]
        rows.append(torch.cat([signal.spec.values.to_stored(line).clamp(0, 1).reshape(3, *size, 3).transpose(0, 1).reshape(
            size[0], -1, 3) for line in lines], 1))
    write_image(RESULTS / "pretrained-views.png", torch.cat(rows).numpy())


def main() -> None:
    """Measure one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=("image", "views"))
    parser.add_argument("--data", type=Path, help="views: the rendered set; default: as pretrain.py renders it")
    parser.add_argument("--photos", nargs="*", default=PHOTOS)
    parser.add_argument("--refined", type=int, default=16, help="flowers that are also refined")
    parser.add_argument("--bits", type=int, default=6)
    parser.add_argument("--scratch", type=Path, default=Path("runs"), help="folder for shared latents")
    options = parser.parse_args()
    print(f"{machine()}\n")
    facts = {"machine": machine(), **{"image": image, "views": views}[options.model](options)}
    RESULTS.joinpath(f"pretrained-{options.model}.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
