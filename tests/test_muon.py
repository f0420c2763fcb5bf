"""Muon: how orthogonal its steps are, how large, and that matrices taken at once are those taken alone."""

import copy

import pytest
import torch

from inr_scenes import muon
from inr_scenes.kernels import choice
from inr_scenes.muon import Muon, orthogonal
from inr_scenes.optim import Optimizers
from inr_scenes.testing import check_builds

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_triton = pytest.mark.skipif(not choice.has_triton() or (DEVICE == "cpu" and not choice.interpreted()),
                                  reason="Triton's kernels do not run here")
BOUNDS = {torch.float32: 2e-5, torch.bfloat16: 5e-2}
# square, wide, tall, stacks of small ones, and the largest
SHAPES = [(48, 48), (24, 60), (60, 20), (5, 14, 14), (3, 9, 33), (2, 8, 8), (128, 128)]


@pytest.mark.parametrize("shape", [(48, 48), (96, 40), (40, 96)])
def test_steps_are_nearly_orthogonal(shape):
    generator = torch.Generator().manual_seed(0)
    u, _, vh = torch.linalg.svd(torch.randn(*shape, generator=generator), full_matrices=False)
    spread = torch.logspace(0, -0.8, min(shape))            # singular values from 1 to 1/6
    found = orthogonal((u * spread @ vh)[None])[0].float()
    assert found.shape == shape
    assert found.norm().item() == pytest.approx(min(shape) ** 0.5, rel=0.02)
    inner = u.T @ found @ vh.T                              # the singular vectors stay, the values come near 1
    assert (inner - torch.diag(inner.diagonal())).norm() < 0.1 * inner.norm()
    assert inner.diagonal().min() > 0.85 and inner.diagonal().max() < 1.15


def test_a_step_is_as_large_as_one_of_adam():
    weight, generator = torch.nn.Parameter(torch.zeros(64, 32)), torch.Generator().manual_seed(0)
    weight.grad = torch.randn(64, 4, generator=generator) @ torch.randn(4, 32, generator=generator) * 1e-6
    Muon([weight], lr=0.01).step()
    assert weight.detach().square().mean().sqrt().item() == pytest.approx(0.01 * 0.2, rel=0.02)


def test_matrices_taken_at_once_are_those_taken_alone():
    generator = torch.Generator().manual_seed(0)
    together = [torch.nn.Parameter(torch.randn(24, 24, generator=generator)) for _ in range(3)]
    alone = copy.deepcopy(together)
    optimizers = [Muon(together, lr=0.1), *(Muon([p], lr=0.1) for p in alone)]
    for _ in range(3):
        for a, b in zip(together, alone):
            a.grad = torch.randn(24, 24, generator=generator)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(together, alone):
        torch.testing.assert_close(a, b, atol=5e-3, rtol=0)         # half precision rounds batches otherwise


def test_weights_decay_and_no_gradient_is_no_step():
    kept, decayed = torch.nn.Parameter(torch.ones(16, 16)), torch.nn.Parameter(torch.ones(16, 16))
    decayed.grad = torch.zeros(16, 16)
    Muon([kept, decayed], lr=0.5, weight_decay=0.1).step()
    assert torch.equal(kept.detach(), torch.ones(16, 16))
    assert torch.allclose(decayed.detach(), torch.full((16, 16), 0.95))


def twins(shape, count=2):
    generator = torch.Generator().manual_seed(sum(shape))
    start = [torch.randn(*shape, generator=generator).to(DEVICE) for _ in range(count)]
    gradients = [[torch.randn(*shape, generator=generator).to(DEVICE) * 1e-3 for _ in range(count)] for _ in range(3)]
    return start, gradients


@needs_triton
@pytest.mark.usefixtures("poisoned", "interpreted_bfloat16")
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fused_steps_are_those_of_plain_torch(dtype, shape, monkeypatch):
    monkeypatch.setattr(muon, "_product_type", lambda device: dtype)
    if not muon.fused.serves(*shape[-2:], dtype):
        pytest.skip("too large for this precision")
    start, gradients = twins(shape)
    rate, ends = torch.full((), 0.1, device=DEVICE), []
    for take in (muon._plain_step, muon._fused_step):
        parameters, averages = [p.clone() for p in start], [torch.zeros_like(p) for p in start]
        for given in gradients:
            take(parameters, given, averages, rate, 0.9, 0.2)
        ends.append([p - s for p, s in zip(parameters, start)] + averages)
    for plain, found in zip(*ends):
        assert (found - plain).norm() < BOUNDS[dtype] * plain.norm()


@needs_triton
@pytest.mark.usefixtures("poisoned", "interpreted_bfloat16")
def test_recorded_steps_are_fused_and_others_are_not(monkeypatch):
    taken = []

    def listen(name):
        take = getattr(muon, name)
        monkeypatch.setattr(muon, name, lambda *given: (taken.append(name), take(*given)))

    listen("_plain_step"), listen("_fused_step")
    for recorded in (False, True):
        layer = torch.nn.Linear(20, 20, bias=False, device=DEVICE)
        optimizers = Optimizers(layer, "muon", 0.1, 0.0, 0, recorded)
        for _ in range(2):
            layer(torch.ones(1, 20, device=DEVICE)).square().sum().backward()
            optimizers.step()
    assert taken[:2] == ["_plain_step"] * 2 and taken[-2:] == ["_fused_step"] * 2


@needs_triton
def test_a_step_that_is_wrong_is_set_aside_with_one_line(monkeypatch):
    monkeypatch.setattr(choice, "_proved", {})
    monkeypatch.setattr(muon.fused, "step", lambda parameters, *_: parameters[0].add_(1.0))
    layer = torch.nn.Linear(20, 20, bias=False, device=DEVICE)
    before = layer.weight.detach().clone()
    optimizers = Optimizers(layer, "muon", 0.01, 0.0, 0, recorded=True)
    layer(torch.ones(1, 20, device=DEVICE)).sum().backward()
    with pytest.warns(UserWarning, match="set aside.*Muon's steps differ"):
        optimizers.step()
    assert (layer.weight - before).square().mean().sqrt().item() == pytest.approx(0.002, rel=0.02)


def test_large_matrices_are_left_to_plain_torch():
    assert muon.fused.serves(14, 128, torch.bfloat16) and not muon.fused.serves(14, 129, torch.bfloat16)
    assert not muon.fused.serves(256, 256, torch.bfloat16) and not muon.fused.serves(65, 20, torch.float32)


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("short, wide, kind, warps", [(128, 128, "bfloat16", 8), (16, 16, "bfloat16", 1),
                                                      (16, 64, "float32", 4)])
def test_the_compiler_takes_it(short, wide, kind, warps):
    constants = {"SHORT": short, "LONG": wide, "PRECISION": "tf32x3" if kind == "float32" else "ieee",
                 "TYPE": f"tl.{kind}"}
    types = "*fp32 *fp32 *fp32 *fp32" + " fp32" * 14 + " i32" * 4
    check_builds("inr_scenes.kernels.muon_triton", "step", types, constants, num_warps=warps)
