"""Speed on one GPU: what it can do at most, then every claim against that and against the published loops, same run.

    python benchmarks/gpu.py                            # at most ten minutes
    python benchmarks/gpu.py --only ceilings steps      # some parts
    python benchmarks/gpu.py --minutes 4

From a checkout where nothing is installed: PYTHONPATH=.:plugins/fourier_mlp:plugins/local_global:plugins/locality_aware
and INR_PLUGINS=inr_fourier_mlp,inr_local_global,inr_locality_aware (the tests need both too).

Ceilings are measured first: half-precision products of 8192³, sines on registers, a copy. A part that would begin after
the time is up is left out and says so; so is one that fails. Times are of CUDA events over many steps after a warm-up,
compilation left out unless a line says cold. Roofline: the least time of a step's products, sines and bytes at those
ceilings, over the time it took; padding and recomputation are no work.
"""

import argparse
import contextlib
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from unittest import mock

import torch
import torch.nn.functional as F
from image_study import photos
from inr_fourier_mlp.field import FourierMLP
from inr_local_global.siren import LgSiren
from inr_locality_aware.fields import PUBLISHED_ENCODER, LocalityAware
from plain import PlainLocalGlobal
from report import machine
from siren import Published, photo

from inr_scenes.device import resolve_device
from inr_scenes.errors import InrError
from inr_scenes.field import build
from inr_scenes.fit import FitConfig, fit, steps
from inr_scenes.generalizable import build_model
from inr_scenes.kernels.choice import choose, set_aside
from inr_scenes.kernels.mlp import mlp
from inr_scenes.kernels.network import Net
from inr_scenes.kernels.recorded import Graph
from inr_scenes.muon import Muon
from inr_scenes.optim import Optimizers
from inr_scenes.siren import Siren
from inr_scenes.spec import Axis, Spec

HALF = torch.float16
Row = tuple[object, ...]


def timed(work: Callable[[], object], count: int = 100, warm: int = 10) -> float:
    """Return the seconds of one call."""
    for _ in range(warm):
        work()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(count):
        work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000 / count


class Ceilings:
    """FLOP, sines and bytes a second that this GPU reached in this run."""

    def __init__(self, device: torch.device):
        a = torch.randn(8192, 8192, device=device, dtype=HALF)
        self.products = 2 * 8192**3 / timed(lambda: a @ a, 30)
        source = torch.empty(1 << 30, device=device, dtype=torch.uint8)
        target = torch.empty_like(source)
        self.bytes = 2 * source.numel() / timed(lambda: target.copy_(source), 30)
        x = torch.rand(1 << 22, device=device)
        self.sines = max(len(x) / timed(lambda: torch.sin(x), 50), 64 * len(x) / timed(lambda: many_sines(x, 64), 20))

    def rows(self) -> Iterator[Row]:
        """Yield what to print."""
        yield "products, 8192³ float16", f"{self.products / 1e12:,.0f} TFLOP/s"
        yield "sines, float32", f"{self.sines / 1e12:,.2f} T/s"
        yield "copy, 1 GiB", f"{self.bytes / 1e12:,.2f} TB/s"

    def least(self, rows: int, products: int, sines: int, traffic: int) -> float:
        """Return the least seconds of a training step: multiplications, sines and bytes of a row, forward and back."""
        return rows * max(6 * products / self.products, 2 * sines / self.sines, traffic / self.bytes)


def many_sines(x: torch.Tensor, count: int) -> torch.Tensor:
    """Take so many sines of each number, in registers."""
    from gpu_sines import many
    return many(x, count)


def multiplications(inputs: int, width: int, hidden: int, outputs: int) -> int:
    """Return a network's multiplications for one row."""
    return inputs * width + hidden * width**2 + width * outputs


def ceilings(bench: "Bench") -> Iterator[Row]:
    """The GPU alone."""
    yield "ceiling", "measured"
    yield from bench.top.rows()


def training(bench: "Bench") -> Iterator[Row]:
    """One SIREN of three hidden layers, 2¹⁸ rows, forward and backward with nothing else: paths and widths."""
    yield "width", "plain float32, ms", "plain float16, ms", "fused float16, ms", "roofline of fused"
    for width in (64, 128, 256):
        rows = 1 << 18
        x = torch.rand(rows, 2, device=bench.device) * 2 - 1
        target = torch.rand(rows, 3, device=bench.device)
        spec = Spec("image", (Axis.regular(512), Axis.regular(512)), 2, 3)
        field = build(Siren, spec, {"hidden_features": width}, seed=0).to(bench.device)
        tensors = [t for layer in [*(part.linear for part in field.layers), field.output] for t in (layer.weight, layer.bias)]

        def plain(half: bool, field=field, x=x, target=target):
            with choose("torch"), torch.autocast(x.device.type, HALF, enabled=half):
                F.mse_loss(field(x).float(), target).backward()

        def fused(tensors=tensors, x=x, target=target):
            F.mse_loss(mlp(Net(), HALF, x, tensors), target).backward()

        least = bench.top.least(rows, multiplications(2, width, 3, 3), 4 * width, 20)
        seconds = timed(fused, 30)
        yield width, *(f"{timed(lambda half=half: plain(half), 10, 3) * 1e3:.2f}" for half in (False, True)), \
            f"{seconds * 1e3:.2f}", f"{least / seconds:.0%}"


def loops(bench: "Bench") -> Iterator[Row]:
    """Whole steps of SIREN 3×256 on 512×512 pixels, full batch: sampling, loss, optimiser and all."""
    signal = photo("kodim23").to(bench.device)
    loop = Published(signal, bench.device)
    published = timed(loop.step, 20, 3)
    yield "loop", "ms a step", "against the published loop", "roofline"
    least = bench.top.least(len(signal), multiplications(2, 256, 3, 3), 4 * 256, 20)
    yield "as published", f"{published * 1e3:.2f}", "1.0", f"{least / published:.1%}"
    torch.set_float32_matmul_precision("high")
    try:
        tf32 = timed(loop.step, 20, 3)
    finally:
        torch.set_float32_matmul_precision("highest")
    yield "as published, TF32", f"{tf32 * 1e3:.2f}", f"{published / tf32:.1f}", f"{least / tf32:.1%}"
    for kernel in ("torch", "compile", "fused"):
        for optimizer in ("adam", "muon") if kernel == "fused" else ("adam",):
            field = build(Siren, signal.spec, {}, seed=0)
            run = steps(field, signal, FitConfig(steps=100_000, batch=0, optimizer=optimizer, lr=1e-4, precision="fp16",
                                                 kernel=kernel, device=str(bench.device)))
            seconds = timed(lambda run=run: next(run), 50, 20)
            yield f"ours, {kernel}, {optimizer}", f"{seconds * 1e3:.2f}", f"{published / seconds:.1f}", f"{least / seconds:.1%}"
    for batch in (0, 16_384):                   # what it is worth that a step is one launch
        for recorded in (True, False):
            with mock.patch.object(sys.modules[steps.__module__], "recordable", lambda device, yes=recorded: yes):
                field = build(Siren, signal.spec, {}, seed=0)
                config = FitConfig(steps=100_000, batch=batch, optimizer="muon", lr=1e-4, precision="fp16",
                                   device=str(bench.device))
                run = steps(field, signal, config)
                seconds = timed(lambda run=run: next(run), 50, 20)
            share = bench.top.least(batch or len(signal), multiplications(2, 256, 3, 3), 4 * 256, 20) / seconds
            yield f"ours, auto, muon, {batch or len(signal):,} rows, {'' if recorded else 'not '}recorded", \
                f"{seconds * 1e3:.2f}", "", f"{share:.1%}"


def optimizer(bench: "Bench") -> Iterator[Row]:
    """A step of Muon alone, recorded and replayed: plain torch's many launches, and one a tensor by Triton."""
    yield "matrices", "plain, µs", "fused, µs"
    layouts = {"3 of 64×64": [(64, 64)] * 3, "3 of 128×128": [(128, 128)] * 3,
               "Local-Global, 256 blocks": [(256, 14, 14)] * 3 + [(84, 84)] * 3}
    for what, shapes in layouts.items():
        found = []
        for fused in (False, True):
            net = torch.nn.Module()
            for i, shape in enumerate(shapes):
                net.register_parameter(f"p{i}weight", torch.nn.Parameter(torch.randn(shape, device=bench.device)))
            for p in net.parameters():
                p.grad = torch.randn_like(p)
            muon = Optimizers(net, "muon", 1e-4, 0.0, 0, recorded=True).made[-1]
            with contextlib.nullcontext() if fused else \
                    mock.patch.object(sys.modules[Muon.__module__], "_fused_serves", lambda *_: False):
                graph = Graph(bench.device)
                for _ in range(3):
                    graph.warm(muon.step)
                graph.record(muon.step)
            found.append(timed(graph.replay, 200))
        yield what, *(f"{seconds * 1e6:.0f}" for seconds in found)


def quality(bench: "Bench") -> Iterator[Row]:
    """Seconds to 37.1 dB on 512×512 pixels by the fast recipe, and what the shortest fits reach."""
    signal = photo("kodim23").to(bench.device)
    yield "fit", "seconds", "PSNR"
    recipe = Siren.suggest(signal, "fast")
    for seconds in (1.0, 2.0, 3.0, 6.0):
        config = FitConfig(**{**recipe.fit, "steps": None, "seconds": seconds, "device": str(bench.device)})
        result = fit(build(Siren, signal.spec, recipe.config, seed=0), signal, config)
        yield f"{result.steps:,} steps", f"{result.seconds:.2f}", f"{result.metrics['psnr']:.2f}"
        if result.metrics["psnr"] >= 37.1:
            return


def study(bench: "Bench") -> Iterator[Row]:
    """Five photographs of 768×768 in 60 seconds together: the mean PSNR, and that of the study's own recipe."""
    yield "recipe", "seconds, all five", "mean PSNR", "steps a photograph"
    signals = photos(768)
    for preset in ("fast", "published"):
        found = []
        for signal in signals:
            recipe = FourierMLP.suggest(signal, preset)
            config = FitConfig(**{**recipe.fit, "steps": None, "seconds": 12.0, "device": str(bench.device)})
            found.append(fit(build(FourierMLP, signal.spec, recipe.config, seed=0), signal.to(bench.device), config))
        yield preset, f"{sum(r.seconds for r in found):.1f}", f"{sum(r.metrics['psnr'] for r in found) / 5:.2f}", \
            f"{sum(r.steps for r in found) // 5:,}"


def local_global(bench: "Bench") -> Iterator[Row]:
    """Local-Global SIREN, 16×16 blocks of a photograph (768×768 pixels), widths 14 and 84, full batch: a whole step."""
    signal = photos(768)[0].to(bench.device)
    config = {"partitions": (16, 16), "local_features": 14, "global_features": 84}
    yield "step", "ms", "against the published loop"
    net = PlainLocalGlobal(256, 2, 3, 14, 84).to(bench.device)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)
    side = signal.spec.shape[0] // 16
    order = torch.arange(len(signal), device=bench.device).reshape(16, side, 16, side).transpose(1, 2).reshape(256, -1)
    coords, values = (part.unflatten(0, order.shape) for part in signal.sample(order.flatten()))

    def published() -> None:
        optimizer.zero_grad()
        loss = F.mse_loss(net(coords), values)
        loss.backward()
        optimizer.step()
        loss.item()

    found = {"as published": timed(published, 20, 5)}
    yield "as published", f"{found['as published'] * 1e3:.2f}", "1.0"
    for name, kernel, precision in (("ours, torch, float32", "torch", "32"), ("ours, torch, float16", "torch", "fp16"),
                                    ("ours, fused, float16", "fused", "fp16")):
        field = build(LgSiren, signal.spec, config, seed=0)
        run = steps(field, signal, FitConfig(steps=100_000, batch=0, lr=1e-4, precision=precision, kernel=kernel,
                                             device=str(bench.device)))
        found[name] = timed(lambda run=run: next(run), 30, 10)
        yield name, f"{found[name] * 1e3:.2f}", f"{found['as published'] / found[name]:.1f}"


def views(bench: "Bench") -> Iterator[Row]:
    """Views of 128×128 rays decoded from a locality-aware field's tokens, already encoded, in half precision."""
    spec = Spec("lightfield", (), 6, 3, meta={"view_shape": [128, 128]})
    bands = {"bandwidths": (8.0, 4.0), "query_bandwidth": 2.0}
    rays = torch.rand(1, 128 * 128, 6, device=bench.device) * 2 - 1
    yield "path", "widths and tokens", "views a second"
    for size, changes in (("128, 64", {}), ("256, 256, as published", {**PUBLISHED_ENCODER, "tokens": 256,
                                                                       "token_features": 256})):
        model = build_model(LocalityAware, spec, {**bands, **changes}).to(bench.device).eval()
        tokens = {"tokens": torch.randn(1, model.config.tokens, model.config.token_features, device=bench.device)}
        for kernel in ("torch", "fused"):
            with torch.inference_mode(), choose(kernel), torch.autocast(bench.device.type, HALF):
                context = model.decoder.prepare(tokens)
                seconds = timed(lambda model=model, context=context: model.decoder(rays, context), 200)
            yield kernel, size, f"{1 / seconds:,.0f}"


PARTS = {"ceilings": ceilings, "training": training, "steps": loops, "optimizer": optimizer, "quality": quality, "local-global": local_global,
         "views": views, "study": study}


class Bench:
    """What all parts share."""

    def __init__(self, device: torch.device):
        self.device, self.top = device, Ceilings(device)


def clocks() -> str:
    """Say what nvidia-smi says of the GPU's clocks and driver."""
    words = "clocks.sm,clocks.max.sm,clocks.mem,power.limit,driver_version"
    try:
        done = subprocess.run(["nvidia-smi", f"--query-gpu={words}", "--format=csv,noheader"], capture_output=True,
                              text=True, timeout=20, check=True)
        return f"{words}: {done.stdout.splitlines()[0]}"
    except (OSError, subprocess.SubprocessError, IndexError):
        return "nvidia-smi is not here"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    begun = time.monotonic()
    try:
        device = resolve_device(options.device)
    except InrError as error:
        sys.exit(f"{error} Nothing was measured.")
    if device.type != "cuda":
        sys.exit(f"These figures are of a CUDA device, and this is {device}: nothing was measured.")
    import triton

    warnings.simplefilter("always")
    bench = Bench(device)
    print(f"{machine('cuda')} · triton {triton.__version__}\n{clocks()}\n")
    for name in options.only:
        text = PARTS[name].__doc__
        # the last part needs two minutes
        if time.monotonic() - begun > 60 * (options.minutes - (2.5 if name == "study" else 1.0)):
            print(f"**{name}**: left out, the time is up\n", flush=True)
            continue
        print(f"**{name}**: {text}\n", flush=True)
        try:
            for i, row in enumerate(PARTS[name](bench)):
                print(f"| {' | '.join(map(str, row))} |" + ("\n" + "|---" * len(row) + "|" if i == 0 else ""), flush=True)
        except Exception as error:          # one part's failure is a line of the table, not the end of the others
            print(f"| failed: {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''} |")
        print(flush=True)
    print(f"Set aside: {'; '.join(set_aside()) or 'no kernel'}. {time.monotonic() - begun:.0f} s in all.")


if __name__ == "__main__":
    main()
