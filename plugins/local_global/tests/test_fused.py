import numpy as np
import pytest
import torch
from inr_local_global import fused
from inr_local_global.incode import Incode, LgIncode
from inr_local_global.layers import Blocks
from inr_local_global.siren import LgSiren, SirenPerPartition

from inr_scenes.errors import SetAside
from inr_scenes.field import build, decode_all
from inr_scenes.fit import FitConfig, fit
from inr_scenes.kernels import choice, native
from inr_scenes.kernels.choice import choose
from inr_scenes.signals.image import ImageSignal
from inr_scenes.spec import Axis, Spec
from inr_scenes.testing import small_signal

needs_compiler = pytest.mark.skipif(native.library(fused.BLOCKS, torch.float32) is None, reason="no C compiler")
NETS = [*((LgSiren, {"merge": merge}) for merge in ("shared", "levels", "add")), (SirenPerPartition, {})]


def make(cls, shape=(64, 48), out=3, **config):
    kind = {1: "audio", 2: "image", 3: "video"}[len(shape)]
    spec = Spec(kind, tuple(Axis.regular(n) for n in shape), len(shape), out)
    extra = {} if cls is SirenPerPartition else {"global_features": 37}
    return build(cls, spec, {"partitions": (3,) * len(shape), "local_features": 14, "first_omega_0": 20.0, **extra,
                             **config}, seed=0)


@pytest.fixture(params=["blocks.c", "BLAS"])
def products(request, monkeypatch):
    """Whose products local layers are."""
    wide = 0 if request.param == "BLAS" else 1 << 20
    monkeypatch.setattr(fused, "WIDE", {torch.bfloat16: wide, torch.float32: wide})


def derivatives(field, points, weight, plain):
    values = field.evaluate(points.coords, points.slots).flatten(0, 1) if plain else field.values(points)
    (values.float() * weight).sum().backward()
    found = [p.grad.clone() for p in field.parameters()]
    field.zero_grad()
    return values.detach(), found


@needs_compiler
@pytest.mark.parametrize("cls, config", NETS)
@pytest.mark.parametrize("more", [{}, {"shape": (50,), "out": 1}, {"shape": (9, 8, 7)}, {"local_features": 16},
                                  {"local_features": 41}, {"local_features": 70}, {"hidden_layers": 0},
                                  {"hidden_layers": 1, "omega_0": 10.0}])
def test_fused_step_equals_autograd(cls, config, more, products):
    field = make(cls, **config, **more)
    generator = torch.Generator().manual_seed(1)
    points = Blocks(torch.rand(4, 53, field.spec.in_features, generator=generator) * 2 - 1, torch.tensor([2, 0, 1, 2]))
    weight = torch.randn(4 * 53, field.spec.out_features, generator=generator)
    values, found = derivatives(field, points, weight, plain=False)
    expected, wanted = derivatives(field, points, weight, plain=True)
    assert torch.allclose(values, expected, atol=2e-5)
    for (name, _), mine, theirs in zip(field.named_parameters(), found, wanted):
        assert (mine - theirs).norm() <= 1e-4 * theirs.norm() + 1e-6, name


@needs_compiler
@pytest.mark.parametrize("cls, config", NETS)
def test_fused_step_in_bfloat16_is_near(cls, config, products):
    field = make(cls, **config)
    generator = torch.Generator().manual_seed(1)
    points = Blocks(torch.rand(4, 200, 2, generator=generator) * 2 - 1, torch.arange(4))
    weight = torch.randn(800, 3, generator=generator)
    expected, wanted = derivatives(field, points, weight, plain=True)
    with torch.autocast("cpu", torch.bfloat16):
        values, found = derivatives(field, points, weight, plain=False)
    assert values.dtype is torch.float32
    assert (values - expected).square().mean().sqrt() < 0.01 * expected.std()
    for (name, _), mine, theirs in zip(field.named_parameters(), found, wanted):
        assert (mine - theirs).norm() <= 0.05 * theirs.norm(), name


@needs_compiler
def test_two_forwards_before_a_backward_do_not_share_memory(products):
    field = make(LgSiren)
    points = [Blocks(torch.rand(2, 40, 2, generator=torch.Generator().manual_seed(i)), torch.arange(2)) for i in (1, 2)]
    separate = [torch.autograd.grad(field.values(p).square().sum(), field.local[1].weight)[0] for p in points]
    both = [field.values(p).square().sum() for p in points]
    together = torch.autograd.grad(sum(both), field.local[1].weight)[0]
    assert torch.allclose(together, sum(separate), atol=1e-5)


@needs_compiler
def test_fused_and_plain_fits_agree(monkeypatch):
    y, x = np.mgrid[:40, :50] / 20
    signal = ImageSignal.from_array(np.stack([0.5 + 0.4 * np.sin(2 * x + y + 2 * c) for c in range(3)], -1))
    config = {"partitions": (4, 5), "local_features": 10, "global_features": 20}
    settings = FitConfig(steps=100, lr=4e-3, batch=0)
    results = []
    for native_path in (True, False):
        if not native_path:
            monkeypatch.setattr(fused, "library", lambda source, dtype: None)
        results.append(fit(build(LgSiren, signal.spec, config, seed=0), signal, settings))
    a, b = (result.metrics["psnr"] for result in results)
    assert a == pytest.approx(b, abs=0.3) and a > 25
    monkeypatch.undo()
    with torch.no_grad():
        fast = decode_all(results[0].field)
    monkeypatch.setattr(fused, "library", lambda source, dtype: None)
    assert (fast - decode_all(results[0].field)).abs().max() < 1e-5


@needs_compiler
def test_products_go_to_who_is_quicker(monkeypatch):
    seen = []
    monkeypatch.setattr(choice, "proved", lambda *_: True)
    monkeypatch.setattr(fused.WideLevels, "apply", lambda *_: seen.append("BLAS") or torch.zeros(40, 3))
    monkeypatch.setattr(fused.FusedLevels, "apply", lambda *_: seen.append("blocks.c") or torch.zeros(40, 3))
    for width in (14, 60, 120):
        field, points = make(LgSiren, local_features=width), Blocks(torch.rand(2, 20, 2), torch.arange(2))
        for half in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                field.values(points)
    assert seen == ["blocks.c", "blocks.c", "blocks.c", "BLAS", "BLAS", "BLAS"]


def test_native_code_can_be_switched_off(monkeypatch):
    monkeypatch.setenv("INR_NATIVE", "0")
    native.library.cache_clear()
    try:
        assert native.library(fused.BLOCKS, torch.float32) is None
        assert make(LgSiren).values(Blocks(torch.rand(1, 5, 2), torch.tensor([0]))).shape == (5, 3)
    finally:
        native.library.cache_clear()


def test_a_compiler_that_fails_is_done_without(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", "false")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.library.cache_clear()
    try:
        assert native.library(fused.BLOCKS, torch.float32) is None
        assert not list(tmp_path.rglob("*.so"))
    finally:
        native.library.cache_clear()


@needs_compiler
@pytest.mark.parametrize("cls, config", [(Incode, {"hidden_features": 40}), (LgIncode, {"partitions": (3, 3)}),
                                         (LgIncode, {"partitions": (3, 3), "merge": "levels"})])
def test_shaped_sines_are_computed_as_sines(cls, config, monkeypatch):
    signal = small_signal("image")
    widths = {} if cls is Incode else {"local_features": 9, "global_features": 37}
    field = build(cls, signal.spec, config | widths, seed=0)
    field.condition(signal)
    for p in field.harmonizer.parameters():             # else all scalars are near 0.3
        torch.nn.init.normal_(p, std=0.05, generator=torch.Generator().manual_seed(len(p)))
    points = torch.rand(200, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with choose("torch"):
        expected = field(points)
        wanted = torch.autograd.grad(expected.square().sum(), list(field.parameters()))
    monkeypatch.setattr(f"{cls.__module__}.shaped_sine", lambda *_, **__: pytest.fail("plain"))
    values = field(points)
    found = torch.autograd.grad(values.square().sum(), list(field.parameters()))
    assert torch.allclose(values, expected, atol=1e-4) and expected.std() > 0.05
    for (name, _), mine, theirs in zip(field.named_parameters(), found, wanted):
        assert (mine - theirs).norm() <= 1e-3 * theirs.norm() + 1e-6, name


@needs_compiler
@pytest.mark.parametrize("cls, config", NETS)
def test_a_kernel_that_computes_something_else_is_set_aside(cls, config, monkeypatch):
    real = fused._in_c
    monkeypatch.setattr(choice, "_proved", {})
    monkeypatch.setattr(fused, "_in_c", lambda *arguments: 1.01 * real(*arguments))
    field = make(cls, local_features=11, **config)
    points = Blocks(torch.rand(4, 8, 2) * 2 - 1, torch.arange(4))
    with pytest.warns(SetAside, match="its values differ"):
        values = field.values(points)
    assert torch.equal(values, field.evaluate(points.coords, points.slots).flatten(0, 1))
    assert fused.fast_path(torch.device("cpu")) == "fused (C)", "half precision bears more"


def test_more_blocks_than_a_launch_has_room_for_are_not_the_kernels(monkeypatch):
    monkeypatch.setattr(fused.kernel, "MOST_BLOCKS", 3)
    field = make(LgSiren)
    with choose("fused"):
        assert fused._on_chip(field, torch.rand(4, 5, 2), torch.arange(4), [*field.shared, *field.merging]) is None
