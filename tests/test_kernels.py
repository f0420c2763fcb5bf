"""Fused networks against float64 plain torch: values and gradients, odd sizes, poisoned memory, second derivatives."""

import math

import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is not installed")
tl = pytest.importorskip("triton.language")

from inr_scenes.kernels import mlp as fused  # noqa: E402  after what it needs was found
from inr_scenes.kernels import sines_triton as sines  # noqa: E402
from inr_scenes.kernels.mlp import mlp  # noqa: E402
from inr_scenes.kernels.network import Net, reference  # noqa: E402
from inr_scenes.testing import check_builds  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SINE, RELU = Net(30.0, 30.0), Net(None, None)
# relative errors of values and gradients, root mean square. Those of half precision come from rounding activations and
# derivatives; where rounding moves a value across zero, a ReLU's gradient changes by all of its share.
TOLERANCE = {torch.float32: (5e-6, 2e-5), torch.float16: (2e-3, 4e-3), torch.bfloat16: (2e-2, 5e-2)}
pytestmark = pytest.mark.usefixtures("poisoned", "interpreted_bfloat16")
# rows, width, hidden layers, inputs, outputs
SIZES = [(1, 16, 1, 2, 1), (127, 84, 3, 2, 3), (129, 32, 8, 3, 1), (129, 64, 2, 6, 4)]
LARGE = [(1, 256, 8, 2, 3), (127, 192, 4, 1, 1), (129, 256, 3, 2, 3), (1000, 128, 3, 3, 33), (300, 17, 1, 32, 64)]


def weights(net: Net, inputs: int, width: int, layers: int, outputs: int, dtype=torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(width + layers)

    def uniform(bound, *shape):
        return ((torch.rand(*shape, generator=generator) * 2 - 1) * bound).to(DEVICE, dtype).requires_grad_()

    tensors = [uniform(1 / inputs, width, inputs), uniform(inputs**-0.5, width)]
    for out in [width] * layers + [outputs]:
        tensors += [uniform((6 / width) ** 0.5 / (net.omega or 1.0), out, width), uniform(width**-0.5, out)]
    return tensors


def problem(net, rows, width, layers, inputs, outputs):
    generator = torch.Generator().manual_seed(rows)
    x = (torch.rand(rows, inputs, generator=generator) * 2 - 1).to(DEVICE).requires_grad_()
    return x, weights(net, inputs, width, layers, outputs), torch.randn(rows, outputs, generator=generator).to(DEVICE)


def error(mine, true) -> float:
    assert mine.shape == true.shape and torch.isfinite(mine).all()
    return float((mine.detach().double() - true.detach()).norm() / true.detach().norm().clamp_min(1e-12))


def compare(net, dtype, size, slack=1.0):
    x, tensors, dy = problem(net, *size)
    y = mlp(net, dtype, x, tensors)
    found = torch.autograd.grad(y, [x, *tensors], dy)
    exact = [t.detach().double().requires_grad_() for t in (x, *tensors)]
    wanted = reference(net, exact[0], exact[1:])
    values, gradients = TOLERANCE[dtype]
    assert error(y, wanted) < values * slack
    for i, (mine, true) in enumerate(zip(found, torch.autograd.grad(wanted, exact, dy.double()))):
        assert error(mine, true) < gradients * slack, f"gradient {i}"


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sine_network_equals_float64(dtype, size):
    compare(SINE, dtype, size)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_relu_network_equals_float64(dtype):
    compare(RELU, dtype, (129, 84, 3, 2, 3), slack=1.0 if dtype is torch.float32 else 20.0)


@pytest.mark.slow
@pytest.mark.parametrize("net", [SINE, RELU], ids=["sine", "relu"])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", LARGE, ids=str)
def test_large_networks_equal_float64(net, dtype, size):
    compare(net, dtype, size, slack=20.0 if net is RELU and dtype is not torch.float32 else 2.0)


def test_no_rows_give_no_values_and_gradients_of_zero():
    x, tensors, _ = problem(SINE, 0, 32, 2, 2, 3)
    y = mlp(SINE, torch.float16, x, tensors)
    assert y.shape == (0, 3)
    assert all(not g.any() for g in torch.autograd.grad(y.sum(), tensors))


def test_omega_3000_is_as_exact_as_float32_allows():
    net = Net(3000.0, 30.0)
    x, tensors, _ = problem(net, 129, 64, 2, 1, 1)
    exact = reference(net, x.double(), [t.double() for t in tensors])
    plain, mine = reference(net, x, tensors), mlp(net, torch.float32, x, tensors)
    assert error(mine, exact) < 2 * error(plain, exact) < 1e-3


@triton.jit
def both(t, out, N: tl.constexpr):
    """Write the sine, the cosine and the storage error of turns t (N,)."""
    i = tl.arange(0, N)
    r = sines.reduced(tl.load(t + i))
    tl.store(out + i, sines.sine(r))
    tl.store(out + N + i, sines.cosine(r))
    tl.store(out + 2 * N + i, sines.unpacked(sines.packed(r, tl.int16)) - r)


def test_sine_and_cosine_of_any_turn_are_exact_to_4e7():
    t = torch.cat([torch.linspace(-1, 1, 1024), torch.linspace(-1000, 1000, 1024)]).to(DEVICE)
    out = torch.empty(3, 2048, device=DEVICE)
    both[(1,)](t, out, N=2048)
    angle = 2 * math.pi * t.double()
    assert (out[0] - torch.sin(angle)).abs().max() < 4e-7 and (out[1] - torch.cos(angle)).abs().max() < 4e-7
    away = out[2] - out[2].round()              # half a turn is also minus half a turn
    assert away.abs().max() <= 2.0**-17


@pytest.mark.parametrize("factor", [1e-12, 1e9])
def test_tiny_and_huge_derivatives_survive_float16(factor):
    x, tensors, dy = problem(SINE, 65, 32, 2, 2, 3)
    y = mlp(SINE, torch.float16, x, tensors)
    for small, plain in zip(torch.autograd.grad(y, tensors, dy * factor, retain_graph=True),
                            torch.autograd.grad(y, tensors, dy)):
        assert error(small / factor, plain.double()) < 1e-3


@pytest.mark.parametrize("net", [SINE, RELU], ids=["sine", "relu"])
def test_second_derivatives_are_plain_torchs(net):
    x, tensors, _ = problem(net, 17, 32, 2, 2, 1)

    def laplacian(function):
        slope, = torch.autograd.grad(function(x, tensors).sum(), x, create_graph=True)
        curved = sum(torch.autograd.grad(slope[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(2)) \
            if net.sine else slope.square().sum(1)
        return slope, curved, torch.autograd.grad(curved.square().sum(), tensors[:-1])

    mine = laplacian(lambda x, tensors: mlp(net, torch.float16, x, tensors))
    plain = laplacian(lambda x, tensors: reference(net, x, tensors))
    for a, b in zip((*mine[:2], *mine[2]), (*plain[:2], *plain[2])):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(b.detach().abs().max()))


def test_gradients_can_be_had_twice_and_only_those_asked_for():
    x, tensors, dy = problem(SINE, 70, 32, 1, 2, 3)
    y = mlp(SINE, torch.float32, x.detach(), tensors)
    once = torch.autograd.grad(y, tensors, dy, retain_graph=True)
    again = torch.autograd.grad(y, tensors, dy)
    assert all(torch.equal(a, b) for a, b in zip(once, again))
    with torch.no_grad():
        assert torch.equal(mlp(SINE, torch.float32, x, tensors), y.detach())


def test_sizes_beyond_the_kernel_are_named():
    assert fused.obstacle(2, 256, 3, 3) is None and fused.obstacle(2, 16, 8, 1) is None
    assert "width" in fused.obstacle(2, 512, 3, 3) and "hidden layers" in fused.obstacle(2, 64, 0, 3)


def test_values_alone_keep_nothing_for_backward(monkeypatch):
    x, tensors, _ = problem(SINE, 129, 32, 2, 2, 3)
    shapes, make = [], torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, *shape, **kwargs: (
        shapes.append(shape), make(self, *shape, **kwargs))[1])
    with torch.no_grad():
        alone = mlp(SINE, torch.float16, x, tensors)
    assert (129, 3) in shapes and (3, 0, 32) in shapes
    assert torch.equal(alone, mlp(SINE, torch.float16, x, tensors)) and (3, 129, 32) in shapes


def test_chunks_pad_little():
    assert [fused.chunk_of(w) for w in (16, 17, 48, 64, 84, 96, 192, 256)] == [16, 32, 16, 64, 32, 32, 64, 64]


@pytest.mark.parametrize("half, layers", [("fp16", "i32"), pytest.param("bf16", 1, marks=pytest.mark.slow)])
def test_kernels_build_for_a_gpu(half, layers):
    sizes = {"IN": 2, "WIDTH": 32, "CHUNK": 16, "OUT": 16, "ROWS": 64, "SINE": True, "PRECISION": "ieee"}
    if layers == 1:                             # what a network of one hidden layer and one output is built as
        sizes |= {"layers": 1, "out_features": 1}
    ints = "i32" if layers == 1 else "i32 i32 i32"
    check_builds("inr_scenes.kernels.mlp_triton", "forward",
                 f"*fp32 *fp32 *fp32 *{half} *{half} *fp32 *fp32 *i16 {ints}", {**sizes, "KEEP": True})
    check_builds("inr_scenes.kernels.mlp_triton", "backward",
                 f"*fp32 *fp32 *{half} *{half} *fp32 *fp32 *i16 *{half} *fp32 *fp32 {ints}", {**sizes, "INPUT": True})
    check_builds("inr_scenes.kernels.sines_triton", "products", f"*{half} *i16 *fp32 i32 i32 i64 i64",
                 {"OUT_WIDTH": 32, "IN_WIDTH": 32, "OUT_TILE": 32, "IN_TILE": 32, "ROWS": 64, "SINE": True,
                  "PRECISION": "ieee"})


@pytest.mark.slow
@pytest.mark.parametrize("width, rows, warps", [(64, 64, 4), (128, 128, 8), (256, 128, 8)])
def test_kernels_build_as_they_are_launched(width, rows, warps):
    sizes = {"IN": 2, "WIDTH": width, "CHUNK": 64, "OUT": 16, "ROWS": rows, "SINE": True, "PRECISION": "ieee"}
    launch = {"num_warps": warps, "num_stages": 1}
    check_builds("inr_scenes.kernels.mlp_triton", "forward", "*fp32 *fp32 *fp32 *fp16 *fp16 *fp32 *fp32 *i16 i32 i32 "
                 "i32", {**sizes, "KEEP": True}, **launch)
    check_builds("inr_scenes.kernels.mlp_triton", "backward", "*fp32 *fp32 *fp16 *fp16 *fp32 *fp32 *i16 *fp16 *fp32 "
                 "*fp32 i32 i32 i32", {**sizes, "INPUT": False}, **launch)
    check_builds("inr_scenes.kernels.sines_triton", "products", "*fp16 *i16 *fp32 i32 i32 i64 i64",
                 {"OUT_WIDTH": width, "IN_WIDTH": width, "OUT_TILE": width, "IN_TILE": 64, "ROWS": 64, "SINE": True,
                  "PRECISION": "ieee"}, num_warps=8 if width > 64 else 4, num_stages=2)


@pytest.mark.slow
def test_relu_and_float32_kernels_build_for_a_gpu():
    for sine, kind, precision in ((False, "fp16", "ieee"), (True, "fp32", "tf32x3")):
        sizes = {"IN": 3, "WIDTH": 64, "CHUNK": 64, "OUT": 16, "ROWS": 64, "SINE": sine, "PRECISION": precision}
        check_builds("inr_scenes.kernels.mlp_triton", "forward",
                     f"*fp32 *fp32 *fp32 *{kind} *{kind} *fp32 *fp32 *{kind} i32 i32 i32", {**sizes, "KEEP": True})
        check_builds("inr_scenes.kernels.mlp_triton", "backward",
                     f"*fp32 *fp32 *{kind} *{kind} *fp32 *fp32 *{kind} *{kind} *fp32 *fp32 i32 i32 i32",
                     {**sizes, "INPUT": True})
