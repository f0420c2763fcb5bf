"""The main job on the samples of this folder: `make demo`, or `python datasets/demo.py OUT`.

Fits the voxel shape with a plugin's field and the light field, exports shape.glb, renders orbit.mp4, writes sheet.png,
and prints a table of sizes, times and metrics. Every step is a command of `inr` that can be run by hand.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
SHAPE, SCENE = HERE / "shape" / "knot.ply", HERE / "lightfield"


def inr(*arguments) -> dict:
    """Run one command and return its JSON result; its progress goes to stderr as ever."""
    words = [str(a) for a in arguments]
    print("$ inr", *words, flush=True)
    done = subprocess.run([sys.executable, "-m", "inr_scenes", *words, "--json"], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout)


def main(out: Path) -> None:
    """Run the demo into `out`."""
    import shutil

    from PIL import Image

    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    start = time.monotonic()
    shape = inr("fit", "fourier-mlp", SHAPE, "--resolution", 96, "--seconds", 45, "-o", out / "shape", "--sheet")
    scene = inr("fit", "siren", SCENE, "--seconds", 60, "-o", out / "scene", "--sheet")
    mesh = inr("export", out / "shape", out / "shape.glb", "--resolution", 192)
    film = inr("render", out / "scene", out / "orbit.mp4", "--frames", 96)
    sheets = [Image.open(out / name / "sheet.png") for name in ("shape", "scene")]
    width = max(image.width for image in sheets)
    sheets = [image.resize((width, round(image.height * width / image.width))) for image in sheets]
    page = Image.new("RGB", (width, sum(image.height for image in sheets)), "white")
    top = 0
    for image in sheets:
        page.paste(image, (0, top))
        top += image.height
    page.save(out / "sheet.png")
    row = "{:<12} {:<12} {:>10} {:>9} {:>6}  {}"
    print("\n" + row.format("", "field", "parameters", "bytes", "fit s", "metrics"))
    for name, run in (("shape", shape), ("light field", scene)):
        metrics = "  ".join(f"{k} {v:.4g}" for k, v in run["metrics"].items() if v is not None)
        print(row.format(name, run["field"], run["parameters"], run["bytes"], f"{run['seconds']:.1f}", metrics))
    closed = "watertight" if mesh["watertight"] else "not watertight"
    print(f"\n{out / 'shape.glb'}: {closed}, {mesh['faces']:,} faces, volume {mesh['volume']:.4g}")
    print(f"{out / 'orbit.mp4'}: {film['frames']} novel views of {film['size'][0]}×{film['size'][1]}")
    print(f"{out / 'sheet.png'}: ground truth, reconstruction, error")
    print(f"\n{time.monotonic() - start:.0f} s in all")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
