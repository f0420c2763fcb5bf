"""SIREN as published: sizes, initialisation, omega, the statistics it promises, derivatives, precision, settings."""

import math

import pytest
import torch

from inr_scenes.field import build
from inr_scenes.siren import SineLayer, Siren, sine_output, waves
from inr_scenes.spec import Axis, Spec
from inr_scenes.testing import small_signal


def siren(inputs: int = 2, outputs: int = 3, **config) -> Siren:
    spec = Spec("image", tuple(Axis.regular(16) for _ in range(inputs)), inputs, outputs)
    return build(Siren, spec, config, seed=0)


@pytest.mark.parametrize("inputs, outputs, width, count", [
    (2, 1, 256, 198_401), (2, 3, 256, 198_915), (1, 1, 256, 198_145), (3, 1, 256, 198_657),
    (3, 3, 1024, 3_155_971), (3, 3, 1030, 3_193_003)])
def test_parameter_counts_are_the_published_ones(inputs, outputs, width, count):
    assert siren(inputs, outputs, hidden_features=width).parameter_count == count


@torch.no_grad()
@pytest.mark.parametrize("inputs", [1, 2, 3, 6])
def test_weights_and_biases_start_within_the_published_bounds(inputs):
    field = siren(inputs)
    first, *hidden = [layer.linear for layer in field.layers]
    later = [(linear, math.sqrt(6 / 256) / 30) for linear in (*hidden, field.output)]
    for linear, bound in [(first, 1 / inputs), *later]:
        assert linear.weight.abs().max() <= bound
        assert float(linear.weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.12)  # uniform within the bound
    for linear in (first, *hidden, field.output):
        default = 1 / math.sqrt(linear.in_features)                 # torch's own: SIREN leaves biases alone
        assert linear.bias.abs().max() <= default
        if linear.out_features > 3:
            assert float(linear.bias.std()) == pytest.approx(default / math.sqrt(3), rel=0.12)


@torch.no_grad()
def test_omega_scales_the_hidden_weights_down_and_the_bias_is_inside_it():
    slow, fast = SineLayer(64, 64, omega_0=1.0), SineLayer(64, 64, omega_0=100.0)
    assert float(slow.linear.weight.std() / fast.linear.weight.std()) == pytest.approx(100, rel=0.1)
    assert sine_output(64, 3, 100.0).weight.abs().max() <= math.sqrt(6 / 64) / 100
    x = torch.rand(5, 64)
    torch.testing.assert_close(fast(x), torch.sin(100 * (x @ fast.linear.weight.T + fast.linear.bias)))
    torch.testing.assert_close(fast(torch.zeros(1, 64))[0], torch.sin(100 * fast.linear.bias))


def test_field_is_the_published_composition():
    field, x = siren(hidden_features=32, hidden_layers=2, omega_0=20.0, first_omega_0=10.0), torch.rand(7, 2) * 2 - 1
    state = x
    for layer, omega in zip(field.layers, (10.0, 20.0, 20.0), strict=True):
        state = torch.sin(omega * (state @ layer.linear.weight.T + layer.linear.bias))
    torch.testing.assert_close(field(x), state @ field.output.weight.T + field.output.bias)


@pytest.mark.parametrize("depth", range(3, 11))
def test_activations_keep_their_spread_at_every_depth(depth):
    """Weights bring a variance of 1 before each sine, default biases 30²/(3·256) more; sines then spread by 1/√2."""
    field = siren(hidden_layers=depth)
    state = torch.rand(4096, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
    before = math.sqrt(1 + 30**2 / (3 * 256))
    with torch.no_grad():
        state = field.layers[0](state)
        for layer in field.layers[1:]:
            assert float((layer.omega_0 * layer.linear(state)).std()) == pytest.approx(before, rel=0.12)
            state = layer(state)
            assert float(state.std()) == pytest.approx(math.sqrt(0.5), rel=0.05)
            assert abs(float(state.mean())) < 0.12


def test_gradients_neither_vanish_nor_explode_with_depth():
    norms = []
    for depth in (3, 6, 10):
        x = (torch.rand(2048, 2, generator=torch.Generator().manual_seed(2)) * 2 - 1).requires_grad_()
        (slope,) = torch.autograd.grad(siren(hidden_layers=depth)(x).sum(), x)
        norms.append(float(slope.norm(dim=-1).mean()))
    assert max(norms) < 8 * min(norms)


def test_derivatives_match_finite_differences():
    field = siren(outputs=1).double()
    x = (torch.rand(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 2 - 1).requires_grad_()
    (slope,) = torch.autograd.grad(field(x).sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope[:, 0].sum(), x)
    step = torch.tensor([1e-5, 0.0], dtype=torch.float64)
    with torch.no_grad():
        low, high = field(x - step), field(x + step)
        torch.testing.assert_close(slope[:, :1], (high - low) / 2e-5, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(bend[:, :1], (high - 2 * field(x) + low) / 1e-10, rtol=1e-3, atol=1e-2)


def test_the_derivative_of_a_sine_layer_is_a_shifted_sine_layer():
    layer = SineLayer(1, 16, 30.0, first=True).double()
    x = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    slope = torch.func.vmap(torch.func.jacrev(layer))(x)[..., 0]
    shifted = torch.sin(30 * layer.linear(x) + math.pi / 2) * 30 * layer.linear.weight[:, 0]
    torch.testing.assert_close(slope, shifted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_coordinate_layer_stays_in_float32_under_autocast(dtype):
    layer, x = SineLayer(1, 64, 3000.0, first=True), torch.rand(100, 1) * 2 - 1
    exact = layer(x)
    with torch.autocast("cpu", dtype=dtype):
        assert layer(x).dtype == torch.float32
        assert torch.equal(layer(x), exact)
        assert SineLayer(64, 64)(exact).dtype == dtype              # the hidden ones do run in half precision
        assert layer(x.to(dtype)).dtype == torch.float32


def test_published_settings():
    fit = {"optimizer": "adam", "lr": 1e-4, "schedule": "constant"}
    image, audio, video = (Siren.suggest(small_signal(kind), "published") for kind in ("image", "audio", "video"))
    assert fit.items() <= image.fit.items() and image.fit["batch"] == 0 and image.fit["steps"] == 10_000
    assert image.config == {} and image.grid == "ends"
    assert audio.config == {"first_omega_0": 3000.0} and audio.fit["steps"] == 9001
    assert video.config == {"hidden_features": 1024} and video.fit["steps"] == 100_000
    assert video.fit["batch"] == round(38e-4 * len(small_signal("video"))) and video.fit["sampling"] == "uniform"


def test_sound_on_the_unit_range_with_omega_3000_is_the_paper_s_range_of_100_with_omega_30():
    ours, theirs = (SineLayer(1, 32, omega, first=True).double() for omega in (3000.0, 30.0))
    with torch.no_grad():
        theirs.linear.weight.copy_(ours.linear.weight)
        theirs.linear.bias.copy_(100 * ours.linear.bias)            # the same up to the scale of the first bias
    x = torch.linspace(-1, 1, 50, dtype=torch.float64)[:, None]
    torch.testing.assert_close(ours(x), theirs(100 * x))


@pytest.mark.parametrize("kind, shape, wanted", [
    ("shape", (128,) * 3, 30.0), ("shape", (64, 256, 128), 51.0), ("shape", (512,) * 3, 60.0),
    ("image", (512, 768), 115.0), ("image", (100, 100), 30.0), ("image", (2000, 10), 120.0),
    ("audio", (132_300,), 1323.0), ("audio", (999_999,), 3000.0)])
def test_first_frequencies_follow_the_grid(kind, shape, wanted):
    spec = Spec(kind, tuple(Axis.regular(n) for n in shape), len(shape), 1)
    assert waves(spec) == {"first_omega_0": wanted}


def test_kinds_without_a_grid_keep_their_first_frequency():
    assert waves(Spec("lightfield", (), 6, 3)) == waves(small_signal("video").spec) == {}
