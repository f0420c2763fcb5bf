"""Muon: how orthogonal its steps are, how large, and that matrices taken at once are those taken alone."""

import copy

import pytest
import torch

from inr_scenes.muon import Muon, orthogonal


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
