"""Inverse problems: what fields recover from measurements, beside the classical answer to each.

    python benchmarks/inverse_problems.py                          # in small: a few minutes on a CPU
    python benchmarks/inverse_problems.py --full                   # 256 px, the published widths and steps: a GPU
    python benchmarks/inverse_problems.py --parts ct sdf           # some of the tables
    python benchmarks/inverse_problems.py --fields siren incode    # other fields; default: those installed of FIELDS

All fields have about equally many parameters and see the same measurements at the same steps and rate. PSNR is plain,
over the whole clean signal, at the end; "best" is the highest a look at the truth saw up to the end, which nobody has
who does not know the truth. Results go to benchmarks/results/.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from report import show

from inr_scenes.errors import InrError
from inr_scenes.field import Field, build
from inr_scenes.fit import FitConfig, steps
from inr_scenes.metrics import psnr, reaches, ssim
from inr_scenes.plugins import find_field, find_problem, host
from inr_scenes.problems import Problem
from inr_scenes.signals.image import ImageSignal

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
MESHES = (ROOT.parent / "shared" / "data" / "mesh" / "bunny.ply", ROOT / "datasets" / "shape" / "knot.ply")
FIELDS = ("siren", "incode", "lg-incode")


def photo(size: int, mode: str = "rgb") -> ImageSignal:
    """Return scikit-image's astronaut, area-averaged to size × size."""
    from skimage.data import astronaut
    from skimage.transform import resize

    image = resize(astronaut().astype(np.float32) / 255, (size, size), anti_aliasing=True)
    return ImageSignal.from_array((image if mode == "rgb" else image.mean(-1)).astype(np.float32), bits=8)


def phantom(size: int) -> ImageSignal:
    """Return the Shepp-Logan phantom."""
    from skimage.data import shepp_logan_phantom
    from skimage.transform import resize

    return ImageSignal.from_array(resize(shepp_logan_phantom(), (size, size), anti_aliasing=True).astype(np.float32))


def solve(problem: Problem, name: str, width: int, config: dict[str, Any] | None = None, *,
          partitions: tuple[int, ...] = (2, 2), **changes) -> dict[str, Any]:
    """Fit the field called `name` to a problem; return its row of a table.

    width: of a SIREN; other fields get as many parameters. changes: of the fit's settings.
    """
    cls = find_field(name)
    recipe = problem.adapt(cls.suggest(problem, "fast"), cls, "fast")
    field = build(cls, problem.spec, {**recipe.config, **sizes(cls, problem, width, partitions), **(config or {})},
                  seed=0)
    settings = dataclasses.replace(FitConfig(), **{**recipe.fit, **changes})
    best, last = {}, None
    looks = max(1, (settings.steps or 1000) // 20)
    for last in steps(field, problem, settings):
        if last.step % looks == 0 or last.metrics:
            for metric, value in problem.probe(field).items():
                if metric not in best or reaches(metric, value, best[metric]):
                    best[metric] = value
            field.train()
    field.eval()
    final, main = problem.metrics(field), problem.main_metric
    if reaches(main, final[main], best[main]):          # looks see a sample, so the end may be better than any of them
        best[main] = final[main]
    return {"field": name, "parameters": field.baked().parameter_count, "steps": last.step,
            "seconds": round(last.seconds, 1), **final, f"best {main}": best[main]}


def sizes(cls: type[Field], problem: Problem, width: int, partitions: tuple[int, ...]) -> dict[str, Any]:
    """Return the settings that give a field as many parameters as a SIREN of `width`."""
    known = {f.name for f in dataclasses.fields(cls.Config)}
    if "hidden_features" in known:
        return {"hidden_features": width}
    siren = build(find_field("siren"), problem.spec, {"hidden_features": width})
    return {"budget": siren.parameter_count, "partitions": partitions}


def superres(options) -> list[dict]:
    """Super-resolution ×2, ×4, ×6 against bicubic interpolation."""
    from skimage.transform import resize

    rows = []
    for factor in (2, 4, 6):
        signal = photo(options.size - options.size % factor)
        problem = find_problem("superres").wrap(signal, factor=factor, prior="none")
        truth, small = problem.truth.array().numpy(), problem.array().numpy()
        up = resize(small, truth.shape, order=3, mode="edge").clip(0, 1)
        rows.append({"factor": factor, "field": "bicubic", **compare(truth, up)})
        for name in options.fields:
            rows.append({"factor": factor} | solve(problem, name, options.width, partitions=(3, 4),
                                                   steps=options.steps, lr=4e-4))
        problem = find_problem("superres").wrap(signal, factor=factor)
        rows.append({"factor": factor} | solve(problem, "siren", options.width, steps=options.steps, lr=4e-4)
                    | {"field": "siren, TV"})
    return rows


def denoise(options) -> list[dict]:
    """Denoising of 40 photons with readout noise 2, against total-variation denoising."""
    from skimage.restoration import denoise_tv_chambolle

    problem = find_problem("denoise").wrap(photo(options.size), prior="none")
    truth, noisy = problem.truth.array().numpy(), problem.array().numpy()
    smooth = max((denoise_tv_chambolle(noisy, weight=w, channel_axis=-1).clip(0, 1) for w in (0.1, 0.15, 0.2, 0.3)),
                 key=lambda image: compare(truth, image)["psnr"])
    rows = [{"field": "noisy", **compare(truth, noisy)}, {"field": "TV (best of four weights)", **compare(truth, smooth)}]
    rows += [solve(problem, name, options.width, partitions=(2, 2)) for name in options.fields]
    problem = find_problem("denoise").wrap(photo(options.size))
    return rows + [solve(problem, "siren", options.width) | {"field": "siren, TV"}]


def inpaint(options) -> list[dict]:
    """Inpainting from a tenth of the pixels, against linear interpolation."""
    from scipy.interpolate import griddata

    rows = []
    for prior in ("none", "tv", "hessian"):
        problem = find_problem("inpaint").wrap(photo(options.size), keep=0.1, prior=prior)
        if not rows:
            truth = problem.truth.array().numpy()
            at = np.stack(np.divmod(problem.known.numpy(), options.size), -1)
            grid = np.mgrid[0:options.size, 0:options.size]
            values = truth[at[:, 0], at[:, 1]]
            linear, near = (griddata(at, values, tuple(grid), method=m) for m in ("linear", "nearest"))
            rows.append({"prior": "-", "field": "linear", **compare(truth, np.where(np.isnan(linear), near, linear))})
        rows.append({"prior": prior} | solve(problem, "siren", options.width, steps=options.steps))
    return rows


def ct(options) -> list[dict]:
    """Tomography of the Shepp-Logan phantom from 150 views (in small: 60), against filtered back-projection."""
    from inr_scenes.problems.ct import back_project

    signal = phantom(options.size)
    problem = find_problem("ct").wrap(signal, angles=150 if options.full else 60)
    truth = signal.array().numpy()
    filtered = back_project(problem.values * problem.size, problem.angles).clamp(0, 1).numpy()
    rows = [{"field": "filtered back-projection", **compare(truth, filtered)}]
    for name in options.fields:
        rows.append(solve(problem, name, options.width, partitions=(1, 2), **options.ct))
    return rows


def poisson(options) -> list[dict]:
    """Poisson reconstruction from gradients and from the Laplacian (published, another image: 32.9 and 15.0 dB)."""
    rows = []
    for label, settings in (("gradients, corners", {}), ("gradients, Sobel", {"stencil": "sobel"}),
                            ("Laplacian", {"derivative": "laplacian"}),
                            ("Laplacian and border", {"derivative": "laplacian", "border": True})):
        problem = find_problem("poisson").wrap(photo(options.size // 2, "grey"), **settings)
        rows.append({"from": label} | solve(problem, "siren", options.width, steps=options.steps, lr=1e-3))
    return rows


def sdf(options) -> list[dict]:
    """Signed distance from oriented points: chamfer as a share of the diagonal, and the mesh."""
    import inr_scenes as inr
    from inr_scenes.geometry import read_mesh

    path = next(path for path in MESHES if path.is_file())
    problem = find_problem("sdf").from_mesh(read_mesh(path))
    cls = find_field("siren")
    recipe = problem.adapt(cls.suggest(problem, "fast"), cls, "fast")
    field = build(cls, problem.spec, {**recipe.config, "hidden_features": options.width}, seed=0)
    settings = dataclasses.replace(FitConfig(), **{**recipe.fit, **options.sdf})
    last = None
    for last in steps(field, problem, settings):
        pass
    surface = inr.mesh(field, resolution=128)
    return [{"shape": path.stem, "field": "siren", "steps": last.step, "seconds": round(last.seconds, 1),
             **problem.metrics(field), "watertight": surface.is_watertight,
             "volume": surface.volume / problem.mesh.volume}]


def helmholtz(options) -> list[dict]:
    """The Helmholtz and the wave equation against their closed forms: error as a share of the solution's norm."""
    rows = []
    for name, settings, label in (("helmholtz", options.helmholtz, "k = {wavenumber:g}"),
                                  ("wave", options.wave, "σ = {source_width:g}")):
        problem = find_problem(name).wrap(**settings)
        rows.append({"equation": name, "setting": label.format(**settings)}
                    | solve(problem, "siren", options.equation_width, **options.equation))
    return rows


def compare(truth: np.ndarray, image: np.ndarray) -> dict[str, float]:
    """PSNR and SSIM of an array (h, w, c)."""
    return {"psnr": psnr(float(np.square(truth - image, dtype=np.float64).mean())),
            "ssim": ssim(truth, np.asarray(image, dtype=truth.dtype))}


PARTS = {"superres": superres, "denoise": denoise, "inpaint": inpaint, "ct": ct, "poisson": poisson, "sdf": sdf,
         "equations": helmholtz}
SMALL = {"size": 96, "width": 96, "steps": 400, "ct": {"steps": 400, "lr": 5e-4, "batch": 0},
         "sdf": {"steps": 500, "batch": 1024}, "helmholtz": {"wavenumber": 6.0, "source_width": 0.06},
         "wave": {"source_width": 0.15}, "equation_width": 64, "equation": {"steps": 800, "batch": 256}}
FULL = {"size": 256, "width": 256, "steps": 2001, "ct": {"steps": 2001, "lr": 2e-4, "batch": 0},
        "sdf": {"steps": 10_000, "batch": 16_384, "lr": 2e-4}, "helmholtz": {"wavenumber": 20.0, "source_width": 0.01},
        "wave": {"source_width": 0.05}, "equation_width": 256, "equation": {"steps": 20_000, "batch": 16_384}}


def main() -> None:
    """Print the tables asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--fields", nargs="+")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--size", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--steps", type=int)
    options = parser.parse_args()
    for name, value in (FULL if options.full else SMALL).items():
        if getattr(options, name, None) is None:
            setattr(options, name, value)
    installed = {cls.name for cls in host().fields()}
    options.fields = options.fields or [name for name in FIELDS if name in installed]
    for part in options.parts:
        try:
            rows = PARTS[part](options)
        except InrError as error:
            raise SystemExit(str(error)) from None
        show(rows, PARTS[part].__doc__.splitlines()[0].rstrip("."))
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"inverse-problems-{part}{'-full' if options.full else ''}.json"
        path.write_text(json.dumps({"size": options.size, "width": options.width, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
