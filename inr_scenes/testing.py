"""The conformance kit for plugin authors: one call checks a field, a signal type or an exporter.

    from inr_scenes.testing import check_field
    def test_my_field():
        check_field(MyField)
"""

import copy
import dataclasses
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .camera import Cameras, look_at
from .errors import InrError
from .export import export_facts
from .field import Field, build
from .fit import FitConfig, fit
from .hookspecs import Exporter
from .settings import help_of
from .signal import Signal

KINDS = ("image", "video", "audio", "shape", "lightfield")


def check_field(cls: type[Field], config: dict[str, Any] | None = None, *, steps: int = 150) -> dict[str, bool]:
    """Assert what every field owes its users, on a small signal of each kind it supports.

    Shapes; order independence; derivatives by coords, which finite differences in float64 confirm; seeded determinism;
    an exact archive round trip; a constructor that builds on the meta device; help for every setting; that `steps`
    steps take a tenth off the loss.
    Returns capabilities: {"second_derivatives": …}.
    """
    from .plugins import host

    assert isinstance(cls.name, str) and cls.name, "a field needs a name"
    assert dataclasses.is_dataclass(cls.Config), "Config must be a dataclass"
    missing = [f.name for f in dataclasses.fields(cls.Config) if f.name not in help_of(cls.Config)]
    assert not missing, f"{cls.name}.Config has settings without a docstring under them: {missing}"
    supported = [kind for kind in KINDS if cls.kinds is None or kind in cls.kinds]
    assert supported, f"{cls.name} supports no known kind"
    for kind in set(KINDS) - set(supported):
        signal = small_signal(kind)
        _raises_inr_error(lambda s=signal: build(cls, s.spec, config))
    capabilities = {"second_derivatives": True}
    for kind in supported:
        signal = small_signal(kind)
        recipe = cls.suggest(signal, "fast")
        settings = {**recipe.config, **(config or {})}
        _check_presets(cls, signal)
        field = build(cls, signal.spec, settings, seed=0)
        _check_pointwise(field, signal)
        _check_gradients(field, signal)
        capabilities["second_derivatives"] &= _second_derivatives(field, signal)
        with torch.device("meta"):
            on_meta = cls(field.config, signal.spec)
        assert _shapes(on_meta) == _shapes(field), "the constructor must build the same on the meta device"
        _check_fit(cls, signal, settings, recipe.fit, steps)
        if any(item is cls for item in host().fields()):
            _check_archive(cls, signal, settings)
    return capabilities


def check_signal(cls: type[Signal], path, **options) -> Signal:
    """Assert what every signal owes: it loads `path`, indexes, measures a field, and refuses damaged files clearly."""
    path = Path(path)
    signal = cls.load(path, **options)
    assert signal.kind == cls.kind == signal.spec.kind
    assert len(signal) > 0
    index = torch.randint(len(signal), (17,), generator=torch.Generator().manual_seed(1))
    query, values = signal.sample(index)
    assert values.dtype == torch.float32 and torch.isfinite(values).all()
    again, same = signal.sample(index)
    assert torch.equal(values, same), "sampling the same index twice must give the same values"
    if isinstance(query, torch.Tensor):
        assert query.shape == (17, signal.spec.in_features)
        assert torch.equal(query, again)
    assert signal.spec == type(signal.spec).from_json(signal.spec.to_json(), signal.spec.cameras)
    from .siren import Siren
    field = build(Siren, signal.spec, {"hidden_features": 16, "hidden_layers": 1}, seed=0).eval()
    for metrics in (signal.probe(field), signal.metrics(field)):
        assert metrics and all(isinstance(v, (int, float)) for v in metrics.values())
    with tempfile.TemporaryDirectory() as folder:
        _raises_inr_error(lambda: cls.load(Path(folder) / f"missing{path.suffix}"))
        if path.is_file():
            empty = Path(folder) / f"empty{path.suffix}"
            empty.touch()
            _raises_inr_error(lambda: cls.load(empty))
            foreign = Path(folder) / f"foreign{path.suffix}"
            foreign.write_text("this is no such file\n" * 4)
            _raises_inr_error(lambda: cls.load(foreign))
    return signal


def check_exporter(exporter: Exporter, field: Field, **options) -> dict[str, Any]:
    """Assert that an exporter writes a file for each of its suffixes, and reports JSON-able facts."""
    import json

    facts: dict[str, Any] = {}
    assert field.spec.kind in exporter.kinds
    missing = [f.name for f in dataclasses.fields(exporter.options) if f.name not in help_of(exporter.options)]
    assert not missing, f"the options of {exporter.name} lack docstrings: {missing}"
    with tempfile.TemporaryDirectory() as folder:
        for suffix in exporter.suffixes:
            path = Path(folder) / f"out{suffix}"
            facts[suffix] = export_facts(field, path, options)
            assert path.stat().st_size > 0
            json.dumps(facts[suffix])
            assert sorted(p.name for p in Path(folder).iterdir()) == [path.name], "no stray files beside the output"
            path.unlink()
    return facts


def small_signal(kind: str) -> Signal:
    """Return a small smooth signal of a built-in kind, made without any file."""
    y, x = np.meshgrid(np.linspace(0, 1, 24), np.linspace(0, 1, 20), indexing="ij")
    picture = np.stack([0.5 + 0.4 * np.sin(5 * x + 3 * y), y, 0.5 + 0.4 * np.cos(4 * y * x)], -1)
    if kind == "image":
        from .signals.image import ImageSignal
        return ImageSignal.from_array((picture * 255).astype(np.uint8), name="small")
    if kind == "video":
        from .signals.video import VideoSignal
        frames = np.stack([np.roll(picture[::2, ::2], shift, 1) for shift in range(4)])
        return VideoSignal.from_array((frames * 255).astype(np.uint8), 8.0, name="small")
    if kind == "audio":
        from .signals.audio import AudioSignal
        t = np.arange(600) / 8000
        return AudioSignal.from_array(0.5 * np.sin(2 * np.pi * 30 * t) + 0.2 * np.sin(2 * np.pi * 70 * t), 8000,
                                      name="small")
    if kind == "shape":
        from .signals.shape import ShapeSignal
        grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 16)] * 3, indexing="ij"), -1)
        return ShapeSignal.from_array((np.linalg.norm(grid, axis=-1) < 0.7), name="small")
    if kind == "lightfield":
        from .signals.lightfield import LightFieldSignal
        angles = torch.linspace(0, 2 * math.pi, 7)[:-1]
        origins = torch.stack([3 * torch.cos(angles), 3 * torch.sin(angles), torch.full_like(angles, 1.0)], -1)
        poses = look_at(origins, torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
        n = len(poses)
        cameras = Cameras(poses, torch.full((n, 2), 24.0), torch.tensor([[10.0, 12.0]]).expand(n, 2),
                          torch.tensor([[24, 20]]).expand(n, 2))
        images = [(np.clip(picture * (0.8 + 0.2 * math.cos(a)), 0, 1) * 255).astype(np.uint8) for a in angles.tolist()]
        return LightFieldSignal.from_views(cameras, images, name="small")
    raise InrError(f"There is no small signal of kind {kind!r}; known: {', '.join(KINDS)}.")


def _shapes(field: Field) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in field.state_dict().items()}


def _query(signal: Signal, n: int) -> torch.Tensor:
    return signal.sample(torch.randint(len(signal), (n,), generator=torch.Generator().manual_seed(3)))[0]


@torch.no_grad()
def _check_pointwise(field: Field, signal: Signal) -> None:
    field.eval()
    coords = _query(signal, 60)
    out = field(coords)
    assert out.shape == (60, signal.spec.out_features), f"forward gave {tuple(out.shape)}"
    assert torch.isfinite(out).all()
    shaped = field(coords.reshape(5, 12, -1))
    assert shaped.shape == (5, 12, signal.spec.out_features)
    assert torch.allclose(shaped.reshape(60, -1), out, atol=1e-4), "leading dimensions must not matter"
    order = torch.randperm(60, generator=torch.Generator().manual_seed(4))
    assert torch.allclose(field(coords[order]), out[order], atol=1e-4), "a field is pointwise: order must not matter"
    assert torch.allclose(field(coords[:1]), out[:1], atol=1e-4), "a point alone must give what it gives among others"
    assert field(coords[:0]).shape == (0, signal.spec.out_features), "no points have no values"


def _check_gradients(field: Field, signal: Signal) -> None:
    coords = _query(signal, 8).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(field(coords).sum(), coords)
    assert gradient.shape == coords.shape and torch.isfinite(gradient).all(), "gradients must reach the coordinates"
    if signal.spec.axes:                # rays meet surfaces, which have edges
        exact, (x, way) = copy.deepcopy(field).double().eval(), _line(signal)
        assert exact(x).dtype is torch.float64, "a field that was moved to float64 must compute in it"
        _agree(_slope(exact, x, way), lambda p: exact(p).detach(), x, way, "gradients")


def _second_derivatives(field: Field, signal: Signal) -> bool:
    coords = _query(signal, 4).clone().requires_grad_()
    try:
        (first,) = torch.autograd.grad(field(coords).square().sum(), coords, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), coords)
    except RuntimeError:
        return False
    if signal.spec.axes:
        exact, (x, way) = copy.deepcopy(field).double().eval(), _line(signal)
        _agree(_slope(lambda p: _slope(exact, p, way), x, way), lambda p: _slope(exact, p, way).detach(), x, way,
               "second derivatives")
    return bool(torch.isfinite(second).all())


def _line(signal: Signal) -> tuple[torch.Tensor, torch.Tensor]:
    """Return coordinates of a signal and a direction, in float64."""
    coords = _query(signal, 12).double()
    return coords, torch.nn.functional.normalize(torch.arange(1.0, coords.shape[1] + 1, dtype=torch.float64), dim=0)


def _slope(function: Callable[[torch.Tensor], torch.Tensor], coords: torch.Tensor, way: torch.Tensor) -> torch.Tensor:
    """Return the derivative (n, out) of a function of coords (n, in) along a direction (in,)."""
    coords = coords if coords.requires_grad else coords.clone().requires_grad_()
    channels = function(coords).unbind(-1)
    return torch.stack([torch.autograd.grad(c.sum(), coords, create_graph=True, materialize_grads=True)[0] @ way
                        if c.requires_grad else torch.zeros_like(c) for c in channels], -1)


def _agree(found: torch.Tensor, function: Callable[[torch.Tensor], torch.Tensor], coords: torch.Tensor,
           way: torch.Tensor, what: str, step: float = 1e-6) -> None:
    """Assert that a derivative along a direction is what finite differences of the function say."""
    expected = (function(coords + step * way) - function(coords - step * way)) / (2 * step)
    error = (found.detach() - expected).abs().max() / expected.abs().max().clamp_min(1e-12)
    assert error < 1e-4, f"{what} differ from finite differences by {error:.1e} of the largest"


def _check_presets(cls: type[Field], signal: Signal) -> None:
    for preset in cls.presets():
        recipe = cls.suggest(signal, preset)
        cls.Config(**recipe.config)
        FitConfig(**recipe.fit)


def _check_fit(cls, signal, settings, suggested, steps) -> None:
    config = FitConfig(**{**suggested, "steps": 10, "seconds": None, "batch": 512, "device": "cpu", "precision": "32",
                          "schedule": "constant", "warmup": 5})
    first, second = (fit(build(cls, signal.spec, settings, seed=1), signal, config).field.state_dict()
                     for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.values(), second.values())), \
        f"{cls.name} on {signal.kind}: the same seed must give the same weights"
    field = build(cls, signal.spec, settings, seed=1)
    field.condition(signal)
    before = _whole_loss(field, signal)
    after = _whole_loss(fit(field, signal, dataclasses.replace(config, steps=steps)).field, signal)
    assert after < 0.9 * before, f"{cls.name} learns too little on {signal.kind} in {steps} steps: " \
                                 f"its loss went from {before:.3g} to {after:.3g}"


@torch.no_grad()
def _whole_loss(field: Field, signal: Signal) -> float:
    query, values = signal.sample(torch.arange(len(signal)))
    return float(signal.loss(signal.predict(field.eval(), query), values))


def _check_archive(cls, signal, settings) -> None:
    from .archive import open, save

    field = build(cls, signal.spec, settings, seed=2)
    field.condition(signal)
    field = field.baked().eval()
    coords = _query(signal, 50)
    with tempfile.TemporaryDirectory() as folder:
        again = open(save(field, Path(folder) / "field.safetensors"))
    assert again.spec == field.spec and again.config == field.config
    with torch.no_grad():
        assert torch.equal(again(coords), field(coords)), "an opened archive must give exactly what was saved"


def _raises_inr_error(call) -> None:
    try:
        call()
    except InrError as error:
        assert str(error).strip() and len(str(error).splitlines()) <= 2, f"the message is not one clear line: {error}"
        return
    raise AssertionError("an InrError with a clear line was expected")


def check_builds(module: str, function: str, types: str, constants: dict[str, Any], capability: int = 90,
                 **launch: int) -> None:
    """Build a Triton kernel for a GPU that need not be there: the interpreter lets pass what the compiler refuses.

    types: of the arguments that are no constants, in their order, as "*fp32 *fp16 i32" · constants: a type of Triton's
    is named, as "tl.float16" · launch: num_warps and num_stages. It must fit an H100's shared memory.
    """
    code = f"""
import importlib, sys, triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
kernel = getattr(importlib.import_module({module!r}), {function!r})
constants, types = {constants!r}, iter({types!r}.split())
constants = {{k: getattr(tl, v[3:]) if str(v).startswith('tl.') else v for k, v in constants.items()}}
signature = {{name: 'constexpr' if name in constants else next(types) for name in kernel.arg_names}}
assert next(types, None) is None, 'more types than arguments'
places = {{(kernel.arg_names.index(name),): value for name, value in constants.items()}}
source, target = ASTSource(kernel, signature, places), GPUTarget('cuda', {capability}, 32)
built = triton.compile(source, target=target, options={launch!r})
assert built.metadata.shared <= 227 * 1024, built.metadata.shared
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
