"""The main job in figures: shapes, a photo, light fields, rendering and meshing, each through the command line.

    python benchmarks/main_job.py [--only shapes image lightfields render mesh] [--data FOLDER] [--out FOLDER]

Prints a markdown table with the machine, the versions and the date. `--data` is a folder with mesh/, image/,
lightfield/ and posed/; what is absent is left out.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from command import measured
from report import machine, show

ROOT = Path(__file__).parents[1]


def fit(out: Path, field: str, signal: Path, seconds: int, *flags) -> dict:
    """Fit anew; render and mesh take the run that is there."""
    run = out / f"{signal.stem}-{field}"
    return measured("fit", field, signal, "-o", run, "--seconds", seconds, "--overwrite", *flags)[0]


def text(metrics: dict) -> str:
    """Return metrics for a table cell."""
    return ", ".join(f"{k} {v:.4g}" for k, v in metrics.items() if isinstance(v, float))


def shapes(data: Path, out: Path):
    """Fit three scans at 128³ for 60 s and export watertight meshes."""
    for name in ("bunny", "spot", "nefertiti"):
        mesh = data / "mesh" / f"{name}.ply"
        if not mesh.exists():
            continue
        result = fit(out, "siren", mesh, 60, "--resolution", 128)
        yield f"`inr fit siren {name}.ply --resolution 128`", result["seconds"], text(result["metrics"])
        glb = measured("export", result["archive"], out / f"{name}.glb", "--resolution", 256)[0]
        truth = measured("eval", result["archive"], mesh, "--resolution", 128)[0]["metrics"]
        yield f"`inr export {name} .glb --resolution 256`", "", \
            f"{glb['faces']:,} faces, {glb['specks_removed']} specks removed, watertight {glb['watertight']}, chamfer {truth['chamfer']:.3%}, normals {truth['normal_consistency']:.4f}"


def image(data: Path, out: Path):
    """Fit a photo for 60 s with two fields."""
    photo = data / "image" / "kodim23.png"
    for field in ("fourier-mlp", "siren") if photo.exists() else ():
        result = fit(out, field, photo, 60)
        yield f"`inr fit {field} kodim23.png`", result["seconds"], text(result["metrics"])


SCENES = {"lightfield/junkshop_480": (160, 240), "lightfield/chess": (144, 256), "posed/chair_400": (100, 100)}


def lightfields(data: Path, out: Path):
    """Fit three light fields for 150 s; held-out views are looked at once, at the end."""
    for name, size in SCENES.items():
        if (data / name).exists():
            result = fit(out, "siren", data / name, 150, "--size", *size)
            yield f"`inr fit siren {Path(name).name} --size {size[0]} {size[1]}`", result["seconds"], \
                text(result["metrics"])


def render(data: Path, out: Path):
    """Render 100 views at 128×128 from each light field that was fitted."""
    for name in SCENES:
        run = out / f"{Path(name).stem}-siren"
        if run.is_dir():
            times = []
            for frames in (20, 120):            # the difference leaves out start-up
                times.append(measured("render", run, out / "orbit.mp4", "--frames", frames, "--size", 128, 128)[1])
            yield f"`inr render {Path(name).stem} --size 128 128`", "", f"{100 / (times[1] - times[0]):.1f} frames/s"


def mesh(data: Path, out: Path):
    """Export a 512³ mesh: how much of the grid is evaluated, time and peak memory."""
    run = out / "bunny-siren"
    if run.is_dir():
        facts, seconds, peak = measured("export", run, out / "bunny512.glb", "--resolution", 512)
        yield "`inr export bunny .glb --resolution 512`", round(seconds, 1), \
            f"{facts['evaluated']:,} of {facts['dense']:,} points, peak {peak:.2f} GiB, {facts['faces']:,} faces, " \
            f"watertight {facts['watertight']}"


SECTIONS = {f.__name__: f for f in (shapes, image, lightfields, render, mesh)}


def main() -> None:
    """Run the chosen sections."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "main-job")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    print(f"{machine()}\n")
    show(table(options))


def table(options: argparse.Namespace) -> Iterator[dict]:
    """Yield the rows of the chosen sections."""
    for name in options.only:
        for command, seconds, result in SECTIONS[name](options.data, options.out):
            yield {"command": command, "seconds": seconds, "result": result}


if __name__ == "__main__":
    main()
