"""Derivatives against finite differences in float64 and against closed forms."""

import pytest
import torch
from torch import nn

from inr_scenes.derivatives import divergence, gradient, hessian, jacobian, laplacian, value_and_jacobian
from inr_scenes.field import build
from inr_scenes.siren import Siren
from inr_scenes.spec import Axis, Spec

STEP = 1e-4


def siren(inputs: int, outputs: int):
    spec = Spec("image", tuple(Axis.regular(16) for _ in range(inputs)), inputs, outputs)
    return build(Siren, spec, {"hidden_features": 24, "hidden_layers": 2, "first_omega_0": 5.0}, seed=3).double()


def points(inputs: int, count: int = 40) -> torch.Tensor:
    return torch.rand(count, inputs, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1


def differences(function, coords: torch.Tensor) -> torch.Tensor:
    """Central differences of `function`, one more axis at the end."""
    columns = []
    for i in range(coords.shape[-1]):
        shift = torch.zeros(coords.shape[-1], dtype=coords.dtype)
        shift[i] = STEP
        columns.append((function(coords + shift) - function(coords - shift)) / (2 * STEP))
    return torch.stack(columns, -1)


@pytest.mark.parametrize("inputs, outputs", [(1, 1), (2, 1), (2, 3), (3, 4), (6, 3)])
def test_all_derivatives_of_every_channel_match_finite_differences(inputs, outputs):
    field, x = siren(inputs, outputs), points(inputs)
    with torch.no_grad():
        first = differences(field, x)
        second = differences(lambda y: jacobian(field, y), x)
    assert jacobian(field, x).shape == (len(x), outputs, inputs)
    torch.testing.assert_close(jacobian(field, x), first, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(hessian(field, x), second, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(laplacian(field, x), second.diagonal(dim1=-2, dim2=-1).sum(-1), rtol=1e-5, atol=1e-5)
    for channel in range(outputs):
        torch.testing.assert_close(gradient(field, x, channel), first[:, channel], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", [2, 3])
def test_divergence_of_a_vector_field_matches_finite_differences(size):
    field, x = siren(size, size), points(size)
    with torch.no_grad():
        expected = differences(field, x).diagonal(dim1=-2, dim2=-1).sum(-1)
    torch.testing.assert_close(divergence(field, x), expected, rtol=1e-6, atol=1e-6)


def test_closed_forms_keep_the_channels_apart():
    x = points(3)

    def field(p):
        return torch.stack([p.square().sum(-1), p.prod(-1), torch.sin(3 * p[..., 0])], -1)

    expected = torch.stack([2 * x, x.prod(-1, keepdim=True) / x,
                            3 * torch.cos(3 * x[:, :1]) * torch.tensor([1.0, 0, 0], dtype=x.dtype)], 1)
    torch.testing.assert_close(jacobian(field, x), expected)
    torch.testing.assert_close(
        laplacian(field, x), torch.stack([torch.full((len(x),), 6.0, dtype=x.dtype), torch.zeros(len(x)).double(),
                                          -9 * torch.sin(3 * x[:, 0])], -1))
    # the Laplacian is the divergence of the gradient
    torch.testing.assert_close(divergence(lambda p: gradient(field, p, 2), x), laplacian(field, x)[:, 2])


def test_any_leading_shape_and_the_values_from_the_same_pass():
    field, x = siren(2, 3), points(2, 24)
    values, rows = value_and_jacobian(field, x.reshape(2, 3, 4, 2))
    torch.testing.assert_close(values.reshape(-1, 3), field(x))
    torch.testing.assert_close(rows.reshape(-1, 3, 2), jacobian(field, x))


def test_no_grad_and_inference_mode_give_the_same_numbers_and_keep_no_graph():
    field, x = siren(2, 2), points(2)
    expected = laplacian(field, x)
    assert expected.requires_grad
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            inside = laplacian(field, x.clone())
            assert not inside.requires_grad
            torch.testing.assert_close(inside, expected)


def test_derivatives_train_the_parameters():
    field, x = siren(2, 1), points(2)
    gradient(field, x).square().sum().backward()
    direction = field.layers[0].linear.weight.grad.clone()
    weight = field.layers[0].linear.weight

    def energy(shift: float) -> float:
        with torch.no_grad():
            weight[0, 0] += shift
            result = gradient(field, x).square().sum().item()
            weight[0, 0] -= shift
        return result

    assert (energy(1e-6) - energy(-1e-6)) / 2e-6 == pytest.approx(direction[0, 0].item(), rel=1e-4)


def test_piecewise_linear_and_constant_fields_have_zero_second_derivatives():
    x = points(2)
    relu = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    assert hessian(relu, x).abs().max() == 0
    assert jacobian(lambda p: torch.ones(*p.shape[:-1], 2, dtype=p.dtype), x).abs().max() == 0


def test_a_wrong_number_of_channels_is_refused():
    field, x = siren(2, 3), points(2)
    with pytest.raises(ValueError, match="3 channels"):
        gradient(field, x)
    with pytest.raises(ValueError, match="as many outputs"):
        divergence(field, x)


def test_autocast_does_not_touch_derivatives():
    field, x = siren(2, 1).float(), points(2).float()
    expected = laplacian(field, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(laplacian(field, x), expected)
