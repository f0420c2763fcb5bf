"""The decoder against a plain restatement of Eqs. (2)–(9), written from the paper alone."""

import copy
import dataclasses
import importlib.util
import math

import pytest
import torch
from inr_locality_aware import kernel
from inr_locality_aware.composers import PatternDecoder, WeightDecoder
from inr_locality_aware.decoder import LocalityAwareDecoder
from inr_locality_aware.encoder import Block, PatchTokens, split_patches
from inr_locality_aware.features import LogFourier
from inr_locality_aware.fields import LocalityAware, PatternComposer, WeightModulation

from inr_scenes.errors import InrError
from inr_scenes.kernels.choice import choose
from inr_scenes.testing import check_builds, small_signal

CONFIG = LocalityAware.Config(hidden_features=32, frequency_features=24, tokens=7, token_features=10, decoder_heads=2,
                              bandwidths=(64.0, 16.0, 8.0), query_bandwidth=4.0)


def gamma(v, sigma, features):
    n = features // (2 * len(v))
    waves = [sigma ** (j / (n - 1)) for j in range(n)]
    return torch.tensor([math.cos(math.pi * w * x) for x in v for w in waves]
                        + [math.sin(math.pi * w * x) for x in v for w in waves])


def restated(decoder, config, v, tokens):
    """One coordinate, one signal, with loops over heads and levels."""
    state = decoder.state_dict()

    def linear(name, x):
        return state[f"{name}.weight"] @ x + state[f"{name}.bias"]

    d, heads = config.hidden_features, config.decoder_heads
    q = torch.relu(linear("query.linear", gamma(v, config.query_bandwidth, config.frequency_features)))
    query = linear("modulation.query", q).split(d // heads)
    keys = [linear("modulation.key", z).split(d // heads) for z in tokens]
    values = [linear("modulation.value", z).split(d // heads) for z in tokens]
    parts = []
    for head in range(heads):
        scores = torch.stack([query[head] @ key[head] for key in keys]) / math.sqrt(d // heads)
        weights = torch.softmax(scores, 0)
        parts.append(sum(w * value[head] for w, value in zip(weights, values)))
    m = linear("modulation.output", torch.cat(parts))
    y, h = 0.0, None
    for level, sigma in enumerate(config.bandwidths):
        frequency = torch.relu(linear(f"bands.frequencies.{level}.linear", gamma(v, sigma, config.frequency_features)))
        modulated = torch.relu(frequency + linear(f"bands.modulations.{level}", m))
        h = modulated if level == 0 else torch.relu(linear(f"bands.layers.{level - 1}", modulated + h))
        y = y + linear(f"bands.outputs.{level}", h)
    return y


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("folds", [True, False])
def test_decoder_is_the_papers(levels, folds):
    config = dataclasses.replace(CONFIG, bandwidths=CONFIG.bandwidths[:levels])
    torch.manual_seed(0)
    decoder = LocalityAwareDecoder(config, 2, 3)
    decoder.folds = folds
    tokens, coords = torch.randn(2, 7, 10), torch.rand(1, 5, 2) * 2 - 1
    with torch.no_grad():
        out = decoder(coords, decoder.prepare({"tokens": tokens}))
        assert out.shape == (2, 5, 3)
        for b in range(2):
            for i in range(5):
                expected = restated(decoder, config, coords[0, i].tolist(), tokens[b])
                assert torch.allclose(out[b, i], expected, atol=1e-5)


def test_folding_changes_the_order_of_sums_alone():
    torch.manual_seed(0)
    decoder = LocalityAwareDecoder(CONFIG, 2, 3)
    tokens, coords = torch.randn(2, 7, 10), torch.rand(1, 50, 2) * 2 - 1
    assert decoder.folds and not LocalityAwareDecoder(dataclasses.replace(CONFIG, tokens=256), 2, 3).folds
    folded = decoder(coords, decoder.prepare({"tokens": tokens}))
    gradients = torch.autograd.grad(folded.square().sum(), list(decoder.parameters()))
    decoder.folds = False
    plain = decoder(coords, decoder.prepare({"tokens": tokens}))
    assert torch.allclose(folded, plain, atol=1e-5)
    for a, b in zip(gradients, torch.autograd.grad(plain.square().sum(), list(decoder.parameters()))):
        assert torch.allclose(a, b, atol=1e-4, rtol=1e-3)


def test_frequencies_run_from_one_to_sigma_and_rays_get_252_features():
    encoding = LogFourier(2, 256, 128.0)
    assert encoding.turns[0].item() == pytest.approx(math.pi)
    assert encoding.turns[-1].item() == pytest.approx(128 * math.pi)
    ratios = encoding.turns[1:] / encoding.turns[:-1]
    assert torch.allclose(ratios, ratios[0].expand_as(ratios), rtol=1e-4)
    assert LogFourier(6, 256, 8.0).out_features == 252
    v = [0.3, -0.7]
    assert torch.allclose(encoding(torch.tensor(v)), gamma(v, 128.0, 256), atol=2e-4)


def test_shared_and_repeated_coordinates_agree():
    torch.manual_seed(0)
    for cls, config in ((LocalityAware, CONFIG), (PatternComposer, PatternComposer.Config(tokens=7)),
                        (WeightModulation, WeightModulation.Config())):
        signal = small_signal("image")
        decoder = cls.make_decoder(config, signal.spec)
        latents = {name: torch.randn(3, *shape) for name, shape in cls.latent_shapes(config, signal.spec).items()}
        coords = torch.rand(1, 11, 2) * 2 - 1
        with torch.no_grad():
            context = decoder.prepare(latents)
            assert torch.allclose(decoder(coords, context), decoder(coords.expand(3, -1, -1), context), atol=1e-5)


def test_pattern_composer_is_the_published_one():
    torch.manual_seed(0)
    config = PatternComposer.Config(tokens=6, hidden_features=16, frequency_features=8, bandwidth=8.0, layers=4)
    decoder = PatternDecoder(config, 2, 3)
    tokens, v = torch.randn(1, 6, 16), torch.tensor([0.2, -0.4])
    state = decoder.state_dict()

    def unit(w):
        return w / w.norm(dim=0)

    x = torch.relu(gamma(v.tolist(), 8.0, 8) @ unit(state["first.weight"]) + state["first.bias"])
    x = torch.relu(x @ unit(tokens[0].T @ state["pattern.factor"]) + state["pattern.bias"])
    x = torch.relu(x @ unit(state["layers.0.weight"]) + state["layers.0.bias"])
    expected = x @ unit(state["output.weight"]) + state["output.bias"]
    with torch.no_grad():
        out = decoder(v[None, None], decoder.prepare({"tokens": tokens}))[0, 0]
    assert torch.allclose(out, expected, atol=1e-5)


def test_transinr_modulates_every_column_by_its_groups_token():
    torch.manual_seed(0)
    config = WeightModulation.Config(groups=4, hidden_features=12, frequency_features=8, bandwidth=8.0, layers=3)
    decoder = WeightDecoder(config, 2, 3)
    spec = small_signal("image").spec
    latents = {name: torch.randn(1, *shape) for name, shape in WeightModulation.latent_shapes(config, spec).items()}
    context = decoder.prepare(latents)
    base, token = decoder.layers[1].weight, latents["layer1"][0]
    for column in range(12):
        w = base[:, column] * token[column // 3]
        assert torch.allclose(context["weight1"][0, :, column], w / w.norm(), atol=1e-6)


def test_ablations_change_the_network_as_described():
    spec = small_signal("image").spec
    full = {n for n, _ in LocalityAware.make_decoder(CONFIG, spec).named_parameters()}

    def names(**changes):
        return {n for n, _ in LocalityAware.make_decoder(dataclasses.replace(CONFIG, **changes), spec)
                .named_parameters()}

    assert "modulation.factor" in names(token_aggregation=False)
    assert not any("frequencies" in n for n in names(multi_band=False))
    assert full - names(linear_maps=False) == {n for n in full if "frequencies" in n or "modulations" in n}
    with pytest.raises(InrError, match="does not divide"):
        names(decoder_heads=5)


@pytest.mark.parametrize("shape, patch, counts", [((178, 178), 9, (20, 20)), ((24, 20), 8, (3, 3)), ((601,), 200, (4,)),
                                                  ((5, 6, 7), 4, (2, 2, 2))])
def test_patches_keep_every_value_and_pad_both_sides(shape, patch, counts):
    grid = torch.rand(2, *shape, 3) + 1
    patches = split_patches(grid, patch)
    assert patches.shape == (2, *counts, patch ** len(shape) * 3)
    assert torch.equal(patches[patches != 0].sort().values, grid.flatten().sort().values)
    corner = patches[(0,) + (0,) * len(shape)].reshape(*[patch] * len(shape), 3)
    low = [(-size % patch) // 2 for size in shape]
    assert torch.equal(corner[tuple(low)], grid[(0,) + (0,) * len(shape)])


def test_places_are_resampled_for_other_sizes():
    spec = small_signal("image").spec
    tokens = PatchTokens(spec, 8, 16)
    assert tokens(torch.zeros(1, 24, 20, 3)).shape == (1, 9, 16)
    assert tokens(torch.zeros(1, 64, 48, 3)).shape == (1, 48, 16)


def test_a_last_block_that_keeps_the_tokens_alone_changes_nothing_in_them():
    torch.manual_seed(0)
    block, x = Block(24, 3, 8), torch.randn(2, 11, 24)
    assert block(x, 4).shape == (2, 4, 24)
    assert torch.allclose(block(x, 4), block(x)[:, :4], atol=1e-6)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("inputs, outputs, rows, changes", [
    (2, 3, 129, {}), (2, 3, 1, {"tokens": 128, "decoder_heads": 1, "bandwidths": (64.0,)}),
    (6, 3, 127, {"frequency_features": 60, "bandwidths": (8.0, 4.0)}),
    (1, 1, 65, {"hidden_features": 64, "tokens": 17}), (2, 3, 300, {"tokens": 70}),
    (2, 3, 130, {"hidden_features": 256, "frequency_features": 256, "tokens": 256})])     # the published decoder's
def test_fused_decoder_equals_float64(inputs, outputs, rows, changes):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    config = dataclasses.replace(CONFIG, **changes)
    decoder = LocalityAwareDecoder(config, inputs, outputs).to(device)
    tokens = torch.randn(2, config.tokens, 10, device=device)
    for given in (1, 2):                        # coordinates shared by both signals, and each signal's own
        coords = torch.rand(given, rows, inputs, device=device) * 2 - 1
        with torch.no_grad(), choose("fused"):
            context = decoder.prepare({"tokens": tokens})
            mine = decoder(coords, context)
        with torch.no_grad():
            exact = copy.deepcopy(decoder).double()
            true = restated_all(exact, coords, tokens)
        assert "fused" in context and mine.shape == true.shape == (2, rows, outputs)
        assert (mine - true).norm() < 5e-3 * true.norm()


def restated_all(decoder, coords, tokens):
    """The decoder in float64; its frequency features are float32 in any case."""
    context = decoder.modulation.keys_values(tokens.double())
    for level in (decoder.query, *decoder.bands.frequencies):
        level.encoding.register_forward_hook(lambda layer, given, out: out.double())
    modulation = decoder.modulation(decoder.query(coords.double()), context)
    return decoder.bands(coords.double(), modulation)


def test_gradients_and_ablations_are_left_to_plain_torch():
    decoder = LocalityAwareDecoder(CONFIG, 2, 3)
    with choose("fused"):
        assert "fused" not in decoder.prepare({"tokens": torch.randn(2, 7, 10)})
    for changes, said in (({"multi_band": False}, "ablations"), ({"hidden_features": 48}, "powers of two")):
        assert said in kernel.obstacle(LocalityAwareDecoder(dataclasses.replace(CONFIG, **changes), 2, 3))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_fused_decoder_builds_for_a_gpu():
    check_builds("inr_locality_aware.kernel_triton", "decode", "*fp32 *fp32 *fp16 *fp32 *fp16 *fp32 *fp16 *fp16 *fp16 "
                 "*fp32 *fp16 *fp32 *fp16 *fp32 *fp16 *fp32 *fp16 *fp32 *fp16 *fp32 i32 i32 i32 i32 i32 fp32",
                 {"IN": 2, "WAVES": 64, "FEATURES": 256, "HIDDEN": 256, "HEADS": 2, "TOKENS": 64, "LEVELS": 2,
                  "OUT": 16, "CHUNK": 64, "ROWS": 128})
