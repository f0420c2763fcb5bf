"""fourier-mlp: published sizes, its equations against plain restatements, precision, presets, learning."""

import dataclasses
import itertools
import math

import pytest
import torch
from inr_fourier_mlp.features import FourierFeatures, GaborFeatures, default_envelope, default_scale, draw_frequencies
from inr_fourier_mlp.field import ACTIVATIONS, FourierMLP
from inr_fourier_mlp.recipes import LADDER

from inr_scenes.errors import InrError
from inr_scenes.field import build
from inr_scenes.fit import FitConfig, fit
from inr_scenes.plugins import find_field
from inr_scenes.spec import Axis, Spec
from inr_scenes.testing import check_field, small_signal

PLAIN = {"octaves": 0.0, "layer_norm": False, "hidden_features": 32, "encoding_features": 24, "frequency_scale": 2.0}


def spec(inputs: int = 2, outputs: int = 3, samples: int = 768) -> Spec:
    return Spec("image", tuple(Axis.regular(samples) for _ in range(inputs)), inputs, outputs)


def made(inputs: int = 2, **config) -> FourierMLP:
    return build(FourierMLP, spec(inputs), {**PLAIN, **config}, seed=0).double()


def points(inputs: int = 2, count: int = 40) -> torch.Tensor:
    return torch.rand(count, inputs, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_the_plugin_is_found():
    assert find_field("fourier-mlp") is FourierMLP


@pytest.mark.parametrize("preset, count", [
    ("study-baseline", 148_995), ("study-width", 4_268_035), ("study-encoding", 4_464_643),
    ("study-schedule-free", 4_464_643), ("study-layernorm", 4_464_643),
    ("study-experts", 2 * 3_415_043 + 6), ("study-gabor", 2 * 3_415_043 + 6), ("published", 2 * 3_415_043 + 6)])
def test_parameter_counts_are_the_study_s(preset, count):
    signal = small_signal("image")
    assert build(FourierMLP, signal.spec, FourierMLP.suggest(signal, preset).config).parameter_count == count


def test_presets_are_the_steps_of_the_study():
    signal = small_signal("image")
    signal.spec = spec()
    assert FourierMLP.presets() == ("fast", "published", *LADDER)
    recipes = [FourierMLP.suggest(signal, step) for step in LADDER]
    scales = [recipe.config["frequency_scale"] for recipe in recipes]
    assert scales == [None, None, 40.0, 40.0, 40.0, 40.0, 40.0]             # 80 on [0, 1]
    assert [(r.fit["optimizer"], r.fit["lr"]) for r in recipes] == 3 * [("adamw", 1e-4)] + 4 * [("schedule-free", 4e-4)]
    changes = [{k for k in a.config if a.config[k] != b.config[k]} | {k for k in a.fit if a.fit[k] != b.fit[k]}
               for a, b in itertools.pairwise(recipes)]
    assert changes == [{"hidden_features", "layers"}, {"encoding_features", "frequency_scale"}, {"optimizer", "lr"},
                       {"layer_norm"}, {"experts", "layers"}, {"features"}]
    assert recipes[-1] == FourierMLP.suggest(signal, "published")


def test_study_scales_follow_the_samples_of_each_axis():
    video = small_signal("video")
    scales = FourierMLP.suggest(video, "published").config["frequency_scale"]
    assert scales == pytest.approx([40 * count / 768 for count in video.spec.shape])


@pytest.mark.parametrize("inputs", [1, 2, 3, 6])
def test_fourier_features(inputs):
    features, x = FourierFeatures(inputs, 20, 3.0).double(), points(inputs)
    phase = 2 * math.pi * (x @ features.frequencies)
    torch.testing.assert_close(features(x), torch.cat([torch.cos(phase), torch.sin(phase)], -1))
    assert features(x).shape == (40, features.out_features)


@pytest.mark.parametrize("inputs", [1, 2, 3, 6])
def test_gabor_features(inputs):
    features, x = GaborFeatures(inputs, 20, 3.0, envelope=0.3).double(), points(inputs)
    difference = x[:, None, :] - features.centers.T
    envelope = torch.exp(-(difference.square() / features.sigmas.T.square()).sum(-1) / 2)
    phase = 2 * math.pi * (difference * features.frequencies.T).sum(-1)
    torch.testing.assert_close(features(x), torch.cat([envelope * torch.cos(phase), envelope * torch.sin(phase)], -1))
    assert features.centers.abs().max() <= 1


def test_gabor_features_are_exact_in_float32_far_from_the_centres():
    features, x = GaborFeatures(2, 64, 40.0, envelope=0.02), points().float()
    again = GaborFeatures(2, 64, 40.0, envelope=0.02).double()
    again.load_state_dict(features.state_dict())
    torch.testing.assert_close(features(x).double(), again(x.double()), rtol=0, atol=2e-3)
    assert torch.isfinite(features(100 * x)).all()


def test_default_scales_are_the_study_s_halved_for_coordinates_twice_as_long():
    assert 2 * default_scale(32) == pytest.approx(0.5 * 32 / math.sqrt(2 * math.pi))
    assert default_envelope(2) / 2 == pytest.approx(0.1 * math.sqrt(256 / 2))
    field = build(FourierMLP, spec(), {"encoding_features": 4096, "frequency_scale": None, "octaves": 0.0}, seed=0)
    assert float(field.encoding.frequencies.std()) == pytest.approx(default_scale(2048), rel=0.05)


def test_frequencies_spread_over_octaves_and_axes():
    torch.manual_seed(0)
    frequencies = draw_frequencies(2, 60_000, (8.0, 2.0), octaves=3.0)
    high, low = frequencies[:, :5000].std(1), frequencies[:, -5000:].std(1)
    assert high.tolist() == pytest.approx([8, 2], rel=0.15) and low.tolist() == pytest.approx([1, 0.25], rel=0.15)
    assert draw_frequencies(2, 60_000, 5.0).std(1).tolist() == pytest.approx([5, 5], rel=0.03)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("skip", [False, True])
def test_network_equations(activation, layer_norm, skip):
    field, x = made(activation=activation, layer_norm=layer_norm, skip=skip, layers=5), points()
    function = {"relu": lambda z: z.clamp_min(0), "silu": lambda z: z * torch.sigmoid(z),
                "gelu": lambda z: 0.5 * z * (1 + torch.erf(z / math.sqrt(2)))}[activation]
    state = field.encoding(x)
    for level, linear in enumerate(field.experts[0].hidden):
        new = function(state @ linear.weight.T + linear.bias)
        if layer_norm:
            new = (new - new.mean(-1, keepdim=True)) / (new.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        state = (state + new) / math.sqrt(2) if skip and level > 0 else new     # the encoding is no hidden state
    output = field.experts[0].output
    torch.testing.assert_close(field(x), 2 * torch.sigmoid(state @ output.weight.T + output.bias) - 1)
    assert len(field.experts[0].hidden) == 4


def test_experts_are_mixed_by_a_softmax_over_the_raw_coordinates():
    field, x = made(experts=3, output_activation="linear"), points()
    gate = torch.softmax(x @ field.gate.weight.T + field.gate.bias, -1)
    outputs = [expert(field.encoding(x)) for expert in field.experts]
    torch.testing.assert_close(field(x), sum(gate[:, i:i + 1] * outputs[i] for i in range(3)))
    assert not torch.allclose(outputs[0], outputs[1])
    with torch.no_grad():
        field.gate.bias.copy_(torch.tensor([0.0, 200.0, 0.0]))
    torch.testing.assert_close(field(x), outputs[1])


def test_without_features_it_is_the_plain_network_of_the_coordinates():
    field, x = made(features="none", layers=3, output_activation="linear"), points()
    first, second = field.experts[0].hidden
    state = torch.relu(torch.relu(x @ first.weight.T + first.bias) @ second.weight.T + second.bias)
    torch.testing.assert_close(field(x), state @ field.experts[0].output.weight.T + field.experts[0].output.bias)
    assert field.parameter_count == 3 * 32 + 33 * 32 + 33 * 3


@pytest.mark.parametrize("features, count", [("fourier", 2 * 12), ("gabor", 3 * 2 * 12)])
def test_trainable_features_are_parameters_and_fixed_ones_are_kept_but_not_trained(features, count):
    fixed, free = made(features=features), made(features=features, trainable_features=True)
    assert free.parameter_count - fixed.parameter_count == count
    assert fixed.state_dict().keys() == free.state_dict().keys()
    free(points()).sum().backward()
    assert all(p.grad.abs().max() > 0 for p in free.encoding.parameters())


@pytest.mark.parametrize("features", ["fourier", "gabor", "none"])
def test_derivatives_match_finite_differences(features):
    field, x = made(features=features, activation="gelu", layer_norm=True, experts=2), points().requires_grad_()
    (slope,) = torch.autograd.grad(field(x).sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope[:, 0].sum(), x)
    step = torch.tensor([1e-4, 0.0], dtype=torch.float64)
    with torch.no_grad():
        low, middle, high = (field(x + i * step).sum(-1) for i in (-1, 0, 1))
    torch.testing.assert_close(slope[:, 0], (high - low) / 2e-4, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(bend[:, 0], (high - 2 * middle + low) / 1e-8, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("features", ["fourier", "gabor", "none"])
def test_features_and_gate_stay_in_float32_under_autocast(features):
    field = made(features=features, frequency_scale=200.0, experts=2).float()
    x = points().float()
    encoded, gate = field.encoding(x), field.gate(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(field.encoding(x), encoded) and torch.equal(field.gate(x), gate)
        assert field(x).dtype == torch.float32
        hidden = field.experts[0].hidden
        assert hidden[0](encoded).dtype == (torch.float32 if features == "none" else torch.bfloat16)
        assert hidden[1](torch.rand(4, 32)).dtype == torch.bfloat16


@pytest.mark.parametrize("changes, text", [
    ({"features": "furier"}, "Did you mean fourier"), ({"activation": "sine"}, "relu, gelu, silu"),
    ({"output_activation": "softmax"}, "sigmoid, linear"), ({"encoding_features": 33}, "must be even"),
    ({"layers": 0}, "at least 1"), ({"experts": 0}, "at least 1"), ({"octaves": -1.0}, "octaves"),
    ({"frequency_scale": (1.0, 2.0, 3.0)}, "2 coordinates"), ({"frequency_scale": -1.0}, "above 0")])
def test_settings_that_cannot_work_are_refused(changes, text):
    with pytest.raises(InrError, match=text):
        build(FourierMLP, spec(), changes)


def test_a_single_linear_map_of_the_features_is_a_field():
    field = made(layers=1)
    assert field.parameter_count == 24 * 3 + 3 and field(points()).shape == (40, 3)


@pytest.mark.parametrize("config", [{}, {"features": "gabor"}, {"features": "none"}, {"experts": 2, "skip": True}],
                         ids=["fast", "gabor", "none", "experts"])
def test_conformance(config):
    small = {"hidden_features": 48, "encoding_features": 48, **config}
    assert check_field(FourierMLP, small)["second_derivatives"]


def test_encoding_makes_detail_learnable():
    """The study's first lesson: a plain network does not reach what random features do."""
    signal = small_signal("image")
    noise = torch.randint(256, signal.data.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    signal.data = noise
    reached = {}
    for features in ("none", "fourier"):
        config = {"features": features, "hidden_features": 64, "encoding_features": 256, "frequency_scale": 5.0}
        field = build(FourierMLP, signal.spec, config, seed=0)
        recipe = FourierMLP.suggest(signal, "fast").fit
        reached[features] = fit(field, signal, FitConfig(**{**recipe, "steps": 150, "batch": 0})).metrics["psnr"]
    assert reached["fourier"] > reached["none"] + 10


def test_same_seed_same_field():
    fields = [build(FourierMLP, spec(), {}, seed=4) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(fields[0].state_dict().values(), fields[1].state_dict().values()))
    assert dataclasses.asdict(fields[0].config) == dataclasses.asdict(FourierMLP.Config())
