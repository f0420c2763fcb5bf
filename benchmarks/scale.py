"""What fitting, decoding and meshing cost as the signal grows; every command is a process of its own.

    python benchmarks/scale.py                                      # images of 256² to 4096², and so on: half an hour
    python benchmarks/scale.py --kinds image --sizes 256 1024 --fields lg-siren
    python benchmarks/scale.py --kinds image --sizes 18432 --fields lg-siren    # 1 GB, from a TIFF into a TIFF

Sizes are pixels along a side (a photograph resized), voxels along a side (a mesh), or frames of 136×240 (a film, there
and back). A fit takes few steps, of 8,192 rows: the figure is what a row costs, not how good the field gets. "the rest"
of a fit is what start-up, loading, looking at the quality of the whole and saving take; "export" writes the picture,
the film or the mesh, start-up included. Peak memory is the process's, mapped files of a huge picture included, which
the system may put out at any time. Prints a table in Markdown.
"""

import argparse
import itertools
import math
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from command import measured
from PIL import Image
from report import machine, show

from inr_scenes.media import write_video
from inr_scenes.signals.video import read_video

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
SIZES = {"image": (256, 512, 1024, 2048, 4096), "shape": (64, 128, 256, 512, 1024), "video": (1, 10, 100, 600)}
ROWS, TILE = 8192, 4096             # of a batch; pixels along a side beyond which the photograph is repeated
SOURCES = {"image": "image/coffeevan.png", "shape": "mesh/armadillo.ply", "video": "video/flower.mp4"}


def source(kind: str, size: int, folder: Path) -> tuple[Path, tuple, str, tuple]:
    """Return a signal of a size as (file, flags that load it, suffix to export to, flags of the export)."""
    if kind == "image":
        path = folder / f"{size}{'.png' if size <= TILE else '.tif'}"
        with Image.open(DATA / SOURCES[kind]) as photo:
            photo = photo.convert("RGB").resize((min(size, TILE), min(size, TILE)), Image.Resampling.LANCZOS)
        if size <= TILE:
            photo.save(path, compress_level=1)
        else:
            large = tifffile.memmap(path, shape=(size, size, 3), dtype=np.uint8, photometric="rgb")
            for y, x in itertools.product(range(0, size, TILE), repeat=2):
                large[y:y + TILE, x:x + TILE] = np.asarray(photo)[:size - y, :size - x]
            large.flush()
        return path, (), path.suffix, ()
    if kind == "shape":
        return DATA / SOURCES[kind], ("--resolution", size), ".ply", ("--resolution", size)
    path = folder / f"{size}.mp4"
    frames, rate = read_video(DATA / SOURCES[kind], 0, None, 1, (136, 240))
    there_and_back = np.concatenate([frames, frames[-2:0:-1]])
    write_video(path, (there_and_back[i % len(there_and_back)] for i in range(size)), rate)
    return path, (), ".mp4", ()


def cost(kind: str, size: int, field: str, steps: int, folder: Path) -> dict[str, str]:
    """Fit, then export, a signal of a size; return the row."""
    path, load, suffix, export = source(kind, size, folder)
    run = folder / f"{field}-{size}"
    result, seconds, peak = measured("fit", field, path, *load, "-o", run, "--steps", steps, "--batch", ROWS)
    values = math.prod(measured("info", run)[0]["shape"][:-1])
    rest = seconds - result["seconds"]
    row = {"signal": f"{kind} {size}", "field": field, "values": f"{values:,}",
           "fit, µs a row": f"{result['seconds'] / steps / ROWS * 1e6:.2f}", "the rest, s": f"{rest:.1f}",
           "µs a value": f"{rest / values * 1e6:.2f}", "peak, GiB": f"{peak:.2f}"}
    facts, seconds, peak = measured("export", run, folder / f"{field}-{size}{suffix}", *export)
    seen = facts.get("evaluated", values)
    return row | {"export, s": f"{seconds:.1f}", "points seen": f"{seen:,}", "µs a value ": f"{seconds / values * 1e6:.2f}",
                  "peak, GiB ": f"{peak:.2f}"}


def table(options: argparse.Namespace) -> Iterator[dict[str, str]]:
    """Yield the rows."""
    with tempfile.TemporaryDirectory() as folder:
        for kind in options.kinds:
            for field in options.fields:
                for size in options.sizes or SIZES[kind]:
                    yield cost(kind, size, field, options.steps, Path(folder))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--sizes", nargs="+", type=int, help="of one kind; default: each kind's own")
    parser.add_argument("--fields", nargs="+", default=["siren", "lg-siren"])
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    missing = [SOURCES[kind] for kind in options.kinds if not (DATA / SOURCES[kind]).is_file()]
    if missing:
        sys.exit(f"{DATA} lacks {', '.join(missing)}.")
    print(f"{machine()}\n")
    show(table(options))


if __name__ == "__main__":
    main()
