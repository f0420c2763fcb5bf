"""Draw new flowers from a latent diffusion prior, and measure how near they come to real ones.

    python benchmarks/generate.py                               # all of it: encode, train for 20 minutes, draw, measure
    python benchmarks/generate.py --minutes 120 --resume        # a longer training, or one that goes on
    python benchmarks/generate.py --parts measure               # only the figures and sheets of what was trained

Flowers are encoded at 64×64 by the shipped `pretrained-image` into 64 tokens (four windows that do not overlap), stored in
8 bits. Distances are Fréchet's between features of that model's own encoder: the mean and the spread of each number of a
latent token over all tokens of an image. They depend on how many images are compared, so all rows compare 200 with
200: samples, other real flowers, which set the mark, and noise of the real latents' mean and deviation. Writes benchmarks/results/generate.json and a sheet a class.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from report import machine, show

from inr_scenes.archive import open
from inr_scenes.cli import main as inr
from inr_scenes.latents import LatentSet, open_latents
from inr_scenes.metrics import frechet
from inr_scenes.validation import spread

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data" / "many_images" / "flowers128"
RESULTS = Path(__file__).parent / "results"
RUNS = ROOT / "runs"
MODEL, SIZE = "pretrained-image", 64


def encode(latents: Path) -> None:
    """Encode all flowers, once."""
    if latents.is_dir() and len(list(latents.iterdir())) == len(list(DATA.iterdir())):
        return
    shutil.rmtree(latents, ignore_errors=True)
    _run("encode", MODEL, *map(str, sorted(DATA.iterdir())), "--mode", "rgb", "--size", str(SIZE), str(SIZE), "--overlap",
         "0", "--share", "-o", str(latents))


def train(latents: Path, prior: Path, options) -> None:
    """Train the prior."""
    _run("train", "latent-diffusion", str(latents), "--model", MODEL, "--seconds", str(options.minutes * 60),
         "--width", "192", "--blocks", "4", "--heads", "3", "--precision", "auto", "--validation", "200",
         "--validate-every", "500", "-o", str(prior), "--save-every", "120",
         *(["--resume"] if options.resume else []))


def measure(latents: Path, prior: Path, options) -> None:
    """Print and write the distances, and draw a sheet of samples a class."""
    found = open_latents(latents, model=MODEL)
    training, held_out = found.split(200, 0)
    model = open(prior)
    count = len(held_out)                   # of every row: the distance falls with the number of samples
    share = np.bincount(held_out.labels.numpy(), minlength=len(model.classes))
    drawn = [field for i, name in enumerate(model.classes)
             for field in model.sample(int(share[i]), name, seed=1 + i, guidance=options.guidance)]
    free = model.sample(count)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(len(held_out), *model.mean_tokens.shape, generator=generator)
    real = {"held out": features(held_out.latents["tokens"]), "training": features(training.latents["tokens"])}
    order = torch.randperm(len(real["training"]), generator=generator).numpy()
    halves = np.array_split(real["training"][order], 2)
    rows = {
        f"two parts of the training data, {count} each": frechet(halves[0][:count], halves[1][:count]),
        f"{count} of the training data": frechet(real["held out"], halves[0][:count]),
        f"samples of classes, guidance {options.guidance:g}": frechet(real["held out"], _features_of(drawn)),
        "samples of any class": frechet(real["held out"], _features_of(free)),
        "noise of the latents' mean and deviation": frechet(real["held out"], features(
            model.restored({"tokens": noise})["tokens"])),
    }
    facts = {"signals of each row": count, "machine": machine(), "prior": open_fit(prior), "distance": rows, "reconstruction": reconstruction(found)}
    RESULTS.joinpath("generate.json").write_text(json.dumps(facts, indent=1) + "\n")
    show([{"compared with held-out flowers": name, "Fréchet distance": value} for name, value in rows.items()],
         note=" · ".join(f"{name}: {value:.4g}" for name, value in facts["reconstruction"].items()))
    for name in model.classes:
        _run("sample", str(prior), "-n", "16", "--class", name, "--guidance", str(options.guidance), "--overwrite", "-o",
             str(RESULTS / f"generate-{name}.png"))


def reconstruction(found: LatentSet) -> dict[str, float]:
    """Mean PSNR of what the latents themselves decode to, over 50 flowers spread over the set."""
    from inr_scenes.signals.image import ImageSignal

    scores = []
    for i in spread(len(found), 50):
        signal = ImageSignal.load(next(DATA.glob(f"{found.names[i]}.*")), size=(SIZE, SIZE), mode="rgb")
        field = found.like.replaced({name: value[i] for name, value in found.latents.items()})
        scores.append(signal.metrics(field)["psnr"])
    return {"psnr": float(np.mean(scores)), "least": min(scores), "images": len(scores)}


def features(tokens: torch.Tensor) -> np.ndarray:
    """Return mean and deviation of each number over an image's tokens, (n, 2 · features) of (n, …, features)."""
    flat = tokens.flatten(1, -2)
    return torch.cat([flat.mean(1), flat.std(1)], -1).double().numpy()


def _features_of(fields) -> np.ndarray:
    return features(torch.stack([field.latents["tokens"] for field in fields]))


def open_fit(prior: Path) -> dict:
    """Return what the prior's archive says of its training."""
    from inr_scenes.archive import header
    head = header(prior)
    return {"config": head["config"], "parameters": head["parameters"], "metrics": head["metrics"],
            "steps": head["fit"]["step"], "seconds": head["fit"]["seconds"]}


def _run(*command: str) -> None:
    if status := inr([*command]):
        raise SystemExit(status)


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("encode", "train", "measure"),
                        default=("encode", "train", "measure"))
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--resume", action="store_true", help="go on with a training that was interrupted")
    parser.add_argument("--guidance", type=float, default=1.5)
    options = parser.parse_args()
    latents, prior = RUNS / f"flowers{SIZE}-latents", RUNS / f"flowers{SIZE}-prior"
    if "encode" in options.parts:
        encode(latents)
    if "train" in options.parts:
        train(latents, prior, options)
    if "measure" in options.parts:
        measure(latents, prior, options)


if __name__ == "__main__":
    main()
