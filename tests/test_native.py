"""The sine network in C: values and gradients against plain torch in float64, and what it leaves to plain torch."""

import subprocess
import sys

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from inr_scenes.derivatives import gradient, hessian, jacobian
from inr_scenes.field import build
from inr_scenes.kernels import mlp_native, native
from inr_scenes.kernels.choice import TOLERANCE, choose
from inr_scenes.kernels.network import Net, reference
from inr_scenes.siren import Siren
from inr_scenes.spec import Axis, Spec

pytestmark = pytest.mark.skipif(native.library(native.SINES, torch.float32) is None, reason="no C compiler")


def network(inputs: int, width: int, layers: int, outputs: int) -> list[torch.Tensor]:
    spec = Spec("image", tuple(Axis.regular(8) for _ in range(inputs)), inputs, outputs)
    field = build(Siren, spec, {"hidden_features": width, "hidden_layers": layers}, seed=0)
    linears = [*(layer.linear for layer in field.layers), field.output]
    return [tensor for linear in linears for tensor in (linear.weight, linear.bias)]


def derivatives(compute, x, tensors, weight):
    x, tensors = x.clone().requires_grad_(), [t.detach().clone().requires_grad_() for t in tensors]
    y = compute(x, tensors)
    return [y.detach(), *torch.autograd.grad(y, [x, *tensors], weight.to(y))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 63, 129])
@pytest.mark.parametrize("size", [(2, 256, 3, 3), (1, 16, 0, 2), (3, 33, 1, 1), (6, 129, 5, 7)])
def test_values_and_gradients_are_those_of_float64(dtype, rows, size):
    net, tensors = Net(20.0, 30.0), network(*size)
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.rand(rows, size[0], generator=generator) * 2 - 1, torch.randn(rows, size[3], generator=generator)
    mine = derivatives(lambda x, ts: mlp_native.sines(net, dtype, x, ts), x, tensors, weight)
    true = derivatives(lambda x, ts: reference(net, x, ts), x.double(), [t.double() for t in tensors], weight)
    values, gradients = TOLERANCE[dtype]
    for i, (a, b) in enumerate(zip(mine, true)):
        assert a.dtype is torch.float32 and a.shape == b.shape
        assert (a - b).norm() <= (values if i == 0 else gradients) * b.norm(), i


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_more_rows_than_go_together_where_nothing_is_kept(dtype):
    net, tensors = Net(20.0, 30.0), network(2, 64, 2, 3)
    x = torch.rand(2 * mlp_native.PART + 5, 2) * 2 - 1
    with torch.no_grad():
        found = mlp_native.sines(net, dtype, x, tensors)
    true = reference(net, x.double(), [t.detach().double() for t in tensors])
    worst = (found - true).norm(dim=-1).max() / true.norm(dim=-1).mean()       # of a row: none is left out
    assert worst < 10 * TOLERANCE[dtype][0]


def test_a_graph_may_be_walked_twice():
    net, tensors, x = Net(), network(2, 32, 2, 3), torch.rand(50, 2)
    loss = mlp_native.sines(net, torch.float32, x, tensors).square().sum()
    first = torch.autograd.grad(loss, tensors, retain_graph=True)
    other = mlp_native.sines(net, torch.float32, x + 1, tensors).square().sum()     # takes memory given back
    torch.autograd.grad(other, tensors)
    for a, b in zip(first, torch.autograd.grad(loss, tensors)):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_checkpoints_compute_anew_and_agree():
    net, tensors = Net(), network(2, 32, 2, 3)
    parts = torch.rand(3, 50, 2)

    def loss(part):
        return mlp_native.sines(net, torch.float32, part, tensors).square().sum()

    plain = torch.autograd.grad(sum(loss(part) for part in parts), tensors)
    again = torch.autograd.grad(sum(checkpoint(loss, part, use_reentrant=False) for part in parts), tensors)
    for a, b in zip(plain, again):
        torch.testing.assert_close(a, b)


def test_derivatives_of_derivatives_are_plain_torchs():
    net, tensors, x = Net(), network(2, 32, 2, 1), torch.rand(50, 2, requires_grad=True)

    def eikonal(compute):
        slope, = torch.autograd.grad(compute().sum(), x, create_graph=True)
        return torch.autograd.grad((slope.norm(dim=1) - 1).square().mean(), tensors[:-1])

    mine = eikonal(lambda: mlp_native.sines(net, torch.float32, x, tensors))
    for a, b in zip(mine, eikonal(lambda: reference(net, x, tensors))):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_fields_derivatives_by_coordinates(channels, monkeypatch):
    spec = Spec("shape", tuple(Axis.regular(8) for _ in range(3)), 3, channels)
    field = build(Siren, spec, {"hidden_features": 48}, seed=0)
    points, calls = torch.rand(70, 3) * 2 - 1, []
    field(points)                               # the self-check is behind us
    plain = mlp_native.sines
    monkeypatch.setattr(mlp_native, "sines", lambda *args: calls.append(1) or plain(*args))
    gradients, wanted = mlp_native._gradients, []
    monkeypatch.setattr(mlp_native, "_gradients", lambda *args: wanted.append(args[-1]) or gradients(*args))
    with torch.no_grad():
        once, twice = jacobian(field, points), hessian(field, points[:5])
    assert bool(calls) == (channels == 1)       # C gives those of one channel, and none of weights for nothing
    assert not any(any(needs[1:]) for needs in wanted)
    with choose("torch"):
        torch.testing.assert_close(once, jacobian(field, points).detach(), atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(twice, hessian(field, points[:5]).detach(), atol=1e-3, rtol=1e-3)
    slope = gradient(field, points, 0)          # recorded: plain torch's, with a graph of its own
    assert slope.requires_grad and torch.autograd.grad(slope.sum(), field.layers[0].linear.weight)[0].abs().sum() > 0


def test_numbers_near_zero_stay_numbers():
    code = ("import torch; from inr_scenes.kernels.native import SINES, library; library(SINES, torch.float32); "
            "assert torch.tensor(1e-310, dtype=torch.float64) * 1.0 > 0 and 5e-324 * 1.0 > 0")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_not_a_number_stays_one():
    net, tensors = Net(), network(2, 32, 1, 3)
    x = torch.rand(5, 2)
    x[2] = float("nan")
    assert mlp_native.sines(net, torch.float32, x, tensors).isnan().any(1).tolist() == [i == 2 for i in range(5)]


def test_what_knows_no_hand_made_backward_is_plain_torch():
    spec = Spec("image", tuple(Axis.regular(8) for _ in range(2)), 2, 3)
    field, points = build(Siren, spec, {"hidden_features": 32}, seed=0), torch.rand(6, 2)
    expected = jacobian(field, points).detach()
    slopes = torch.func.vmap(torch.func.jacrev(field))(points)
    _, forward = torch.func.jvp(field, (points,), (torch.eye(2)[:1].expand(6, 2),))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(points, torch.ones(6, 2))
        tangent = torch.autograd.forward_ad.unpack_dual(field(dual)).tangent
    torch.testing.assert_close(slopes, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(forward, expected[..., 0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(tangent, expected.sum(-1), atol=1e-4, rtol=1e-4)


def test_other_types_and_no_points_at_all():
    spec = Spec("image", tuple(Axis.regular(8) for _ in range(2)), 2, 3)
    field = build(Siren, spec, {"hidden_features": 32}, seed=0)
    field(torch.empty(0, 2)).sum().backward()
    assert field.layers[1].linear.weight.grad.abs().sum() == 0 and field(torch.empty(0, 2)).shape == (0, 3)
    points = torch.rand(6, 2)
    expected = field(points).detach()
    assert torch.allclose(field.double()(points.double()).float(), expected, atol=1e-5)
    with pytest.raises(RuntimeError, match="dtype"):        # as plain torch says, and nothing read amiss
        field(points)


def test_memory_that_another_thread_took_in_between_is_made_anew():
    class Taken(list):
        def __bool__(self):
            return True                 # as it was when one looked

    pool = native.Pool(lambda size: [size])
    pool.free[3,] = Taken()
    assert pool.take(3) == [3]
    memory = pool.take(4)
    pool.give(memory, 4)
    assert pool.take(4) is memory and pool.take(4) is not memory
