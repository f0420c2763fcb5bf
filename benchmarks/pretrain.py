"""Train the models that are shipped with the locality-aware plugin, and put them where it finds them.

    python benchmarks/pretrain.py image                     # 128×128 flowers: a model of 32×32 windows
    python benchmarks/pretrain.py views                     # views of many meshes, which are rendered first
    python benchmarks/pretrain.py image --seconds 14400 --resume
    python benchmarks/pretrain.py image --install           # only put the run's archive into the plugin

A training that is interrupted goes on with --resume. The recipes are what `inr train` is called with: printed first.
"""

import argparse
import shlex
import sys
from pathlib import Path

from inr_scenes.archive import ARCHIVE_NAME, header, open, save
from inr_scenes.cli import main as inr

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
RUNS = ROOT / "runs"
WEIGHTS = ROOT / "plugins" / "locality_aware" / "inr_locality_aware" / "trained"
DECODER = ["--tokens", "16", "--token-features", "64", "--hidden-features", "256", "--frequency-features", "128"]
ENCODER = ["--patch", "8", "--width", "256", "--blocks", "4", "--heads", "4"]
SETS = {"image": "flowers128", "views": "views of quaternius and random_blobs"}
RECIPES = {
    "image": ["--mode", "rgb", "--crop", "32", "32", "--zoom", "2", "--augment", *ENCODER, *DECODER, "--bandwidths", "32",
              "8", "--query-bandwidth", "4", "--batch", "16", "--points", "512", "--validation", "32", "--validate-every",
              "2000", "--lr", "1e-2"],
    "views": ["--patch", "16", "--width", "192", "--blocks", "4", "--heads", "3", "--tokens", "64",
              "--token-features", "64", "--hidden-features", "192", "--frequency-features", "96", "--bandwidths", "8", "4",
              "--query-bandwidth", "2", "--batch", "16", "--points", "512", "--validation", "64", "--validate-every",
              "2000", "--lr", "2.5e-3"],
}


def main() -> None:
    """Train one model, or install it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=RECIPES)
    parser.add_argument("--data", type=Path, help="folder of the set; default: the one the shipped model was trained on")
    parser.add_argument("--seconds", type=float, default=5400, help="time for the training itself")
    parser.add_argument("--resume", action="store_true", help="go on where an interrupted training stopped")
    parser.add_argument("--install", action="store_true", help="do not train; store the run's archive in the plugin")
    options = parser.parse_args()
    run = RUNS / f"pretrain-{options.model}"
    if not options.install:
        data = options.data or sets(options.model)
        command = ["train", "lainr", str(data), *RECIPES[options.model], "--optimizer", "muon",
                   "--precision", "auto", "--seconds", str(options.seconds), "--save-every", "120", "-o", str(run)]
        command += ["--resume"] if options.resume else []
        print("inr", shlex.join(command), flush=True)
        if status := inr(command):
            sys.exit(status)
    install(run, options.model)


def sets(model: str) -> Path:
    """Return the folder a model is trained on; views of 2,050 meshes are rendered when they are not there yet."""
    if model == "image":
        return DATA / "many_images" / "flowers128"
    folder = RUNS / "views-64"
    for pack, up in (("quaternius", "y"), ("random_blobs", "z")):
        command = ["data", "views", str(DATA / "many_meshes" / f"{pack}.npz"), str(folder), "--views", "12", "--size",
                   "64", "--test", "0", "--up", up]
        if status := inr(command):
            sys.exit(status)
    return folder


def install(run: Path, model: str) -> None:
    """Store a run's archive in half precision inside the plugin."""
    head = header(run)
    fit = {**head["fit"], "signal": SETS[model]}         # what it was trained on, not where that lay
    path = save(open(run), WEIGHTS / f"pretrained-{model}.safetensors", metrics=head["metrics"], fit=fit,
                dtype="float16")
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB, {run / ARCHIVE_NAME} in half precision")


if __name__ == "__main__":
    main()
