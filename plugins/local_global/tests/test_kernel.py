"""The fused Local-Global kernel against float64 plain torch and against the field it stands for."""


import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is not installed")

from inr_local_global import kernel  # noqa: E402  after what it needs was found
from inr_local_global.kernel import Omegas, local_global, reference  # noqa: E402

from inr_scenes.testing import check_builds  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: (5e-6, 2e-5), torch.float16: (3e-3, 5e-3)}
# blocks, rows, inputs, outputs, local width, global width, levels, merges
SIZES = [(2, 129, 2, 3, 14, 84, 3, 1), (2, 1, 1, 1, 42, 72, 3, 3), (2, 127, 3, 3, 17, 20, 2, 1),
         (3, 65, 2, 1, 15, 0, 4, 0), (2, 20, 2, 3, 16, 16, 1, 1)]


def problem(blocks, rows, inputs, outputs, local, shared, levels, merges, dtype=torch.float32):
    generator = torch.Generator().manual_seed(rows)

    def uniform(bound, *shape):
        return ((torch.rand(*shape, generator=generator) * 2 - 1) * bound).to(DEVICE).requires_grad_()

    tensors = []
    for i in range(levels + 1):
        first, out = inputs if i == 0 else local, outputs if i == levels else local
        bound = 1 / first if i == 0 else (6 / first) ** 0.5 / 30
        tensors += [uniform(bound, blocks, first, out), uniform(first**-0.5, blocks, out)]
    for i in range(levels if shared else 0):
        first = inputs if i == 0 else shared
        tensors += [uniform(1 / first if i == 0 else (6 / first) ** 0.5 / 30, shared, first),
                    uniform(first**-0.5, shared)]
    for _ in range(merges):
        tensors += [uniform((6 / (local + shared)) ** 0.5 / 30, local, local + shared), uniform(0.2, local)]
    coords = (torch.rand(blocks, rows, inputs, generator=generator) * 2 - 1).to(DEVICE)
    return coords, tensors, torch.randn(blocks * rows, outputs, generator=generator).to(DEVICE)


def error(mine, true) -> float:
    assert mine.shape == true.shape and torch.isfinite(mine).all()
    return float((mine.detach().double() - true.detach()).norm() / true.detach().norm().clamp_min(1e-12))


pytestmark = pytest.mark.usefixtures("poisoned")


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_kernel_equals_float64(dtype, size):
    coords, tensors, dy = problem(*size)
    omegas = Omegas(20.0, 30.0, size[6])
    y = local_global(omegas, dtype, coords, tensors)
    exact = [t.detach().double().requires_grad_() for t in tensors]
    wanted = reference(omegas, coords.double(), exact)
    values, gradients = TOLERANCE[dtype]
    assert error(y, wanted) < values
    found = torch.autograd.grad(y, tensors, dy)
    for i, (mine, true) in enumerate(zip(found, torch.autograd.grad(wanted, exact, dy.double()))):
        assert error(mine, true) < gradients, f"gradient {i}"


def test_second_derivatives_are_plain_torchs():
    coords, tensors, _ = problem(2, 9, 2, 1, 12, 20, 2, 1)
    omegas = Omegas(20.0, 30.0, 2)

    def curvature(function):
        slopes = torch.autograd.grad(function().square().sum(), tensors, create_graph=True)
        return torch.autograd.grad(sum(s.square().sum() for s in slopes), tensors)

    mine = curvature(lambda: local_global(omegas, torch.float32, coords, tensors))
    for a, b in zip(mine, curvature(lambda: reference(omegas, coords, tensors))):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))


def test_values_alone_keep_nothing_for_backward(monkeypatch):
    coords, tensors, _ = problem(*SIZES[0])
    omegas, kept, memory = Omegas(20.0, 30.0, SIZES[0][6]), [], kernel._Packed.memory
    monkeypatch.setattr(kernel._Packed, "memory", lambda self, like, rows, *rest: (
        kept.append(rows), memory(self, like, rows, *rest))[1])
    with torch.no_grad():
        alone = local_global(omegas, torch.float16, coords, tensors)
    assert torch.equal(alone, local_global(omegas, torch.float16, coords, tensors))
    assert kept[0] == 0 and kept[1] == alone.shape[0]


def test_widths_beyond_the_kernel_are_named():
    assert kernel.obstacle(14, 84, 4) is None and "local widths" in kernel.obstacle(200, 84, 4)


@pytest.mark.parametrize("shared", [0, pytest.param(32, marks=pytest.mark.slow)])
def test_kernels_build_for_a_gpu(shared):
    sizes = {"IN": 2, "LEVELS": 3, "LOCAL": 16, "GLOBAL": shared, "CHUNK": 16, "OUT": 16, "ROWS": 64, "MERGES": 1,
             "PRECISION": "ieee"}
    check_builds("inr_local_global.kernel_triton", "forward", "*fp32 *fp32 *fp16 *fp32 *fp16 *fp32 *fp32 *fp16 *fp32 "
                 "*fp16 *fp16 *fp32 *fp32 *i16 *i16 *i16 i32 i32", {**sizes, "KEEP": True})
    check_builds("inr_local_global.kernel_triton", "backward", "*fp32 *fp16 *fp16 *fp16 *fp16 *fp16 *fp32 *fp32 *i16 "
                 "*i16 *i16 *fp16 *fp16 *fp16 *fp32 *fp32 *fp32 i32 i32", sizes)
