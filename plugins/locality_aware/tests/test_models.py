"""Every model of this plugin: trains, encodes, binds, archives; what the decoder keeps per signal."""

import dataclasses

import pytest
import torch
from inr_locality_aware.baselines import HyperSiren, LearnedInit, LightFieldNetwork
from inr_locality_aware.fields import LocalityAware, PatternComposer, WeightModulation

from inr_scenes import archive
from inr_scenes.errors import InrError
from inr_scenes.fit import FitConfig, steps
from inr_scenes.generalizable import KnownSamples, SupportViews, build_model
from inr_scenes.testing import KINDS, small_signal
from inr_scenes.train import TrainConfig, train_steps
from inr_scenes.validation import Validation

SMALL = {"patch": 8, "width": 32, "blocks": 1, "heads": 2, "head_features": 16, "hidden_features": 32,
         "frequency_features": 24}
MODELS = [
    (LocalityAware, {**SMALL, "tokens": 8, "token_features": 16, "bandwidths": (8.0, 4.0), "query_bandwidth": 2.0}),
    (PatternComposer, {**SMALL, "tokens": 8, "bandwidth": 8.0}),
    (WeightModulation, {**SMALL, "groups": 4, "bandwidth": 8.0}),
    (LearnedInit, {"hidden_features": 16, "layers": 3, "inner_points": 0}),
    (LearnedInit, {"hidden_features": 16, "layers": 3, "method": "reptile", "inner_steps": 4}),
    (HyperSiren, {"hidden_features": 16, "layers": 3, "code_features": 16, "hyper_features": 16, "context": 50}),
    (HyperSiren, {"hidden_features": 16, "layers": 3, "code_features": 16, "hyper_features": 16, "encoder": "conv"}),
    (LightFieldNetwork, {"hidden_features": 16, "layers": 3, "code_features": 16, "hyper_features": 16,
                         "encode_steps": 30}),
]
NAMES = [f"{cls.name}-{config.get('method') or config.get('encoder') or ''}" for cls, config in MODELS]


class Set(list):
    """A handful of signals where training expects a set."""

    @property
    def spec(self):
        return self[0].spec


def images(count=6):
    from inr_scenes.signals.image import ImageSignal
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 3, 3, generator=generator)
    pictures = torch.nn.functional.interpolate(coarse, (24, 20), mode="bilinear")
    return Set(ImageSignal.from_array(p.movedim(0, -1).numpy(), name=f"picture {i}") for i, p in enumerate(pictures))


@pytest.mark.parametrize("cls, config", MODELS, ids=NAMES)
def test_trains_encodes_and_archives(cls, config, tmp_path):
    signals = images()
    model = build_model(cls, signals.spec, config, seed=0)
    validation = Validation(signals)
    before = validation.metrics(model.eval())["psnr"]
    training = TrainConfig(steps=80, batch=6, points=0, lr=3e-3, warmup=5, ema=0.0, schedule="constant", device="cpu")
    *_, last = train_steps(model, signals, training, validation=validation)
    assert last.metrics["psnr"] > before + 0.8
    latents = model.encode(signals[:2])
    assert {k: tuple(v.shape[1:]) for k, v in latents.items()} == cls.latent_shapes(model.config, model.spec)
    field = model.field(latents, signals[1].spec, item=1)
    coords, _ = signals[1].sample(torch.arange(0, 480, 7))
    with torch.no_grad():
        assert torch.allclose(field(coords), model.decode(coords[None], latents)[1], atol=1e-5)
        alone = model.field(model.encode([signals[1]]), signals[1].spec)
        assert torch.allclose(field(coords), alone(coords), atol=2e-3), "a batch must not change what a signal becomes"
        again = archive.open(archive.save(field, tmp_path / "bound.safetensors"))
        assert torch.equal(again(coords), field(coords)) and again.spec == field.spec
        whole = archive.open(archive.save(model, tmp_path / "model.safetensors"))
    for name, value in whole.encode(signals[1:2]).items():
        assert torch.allclose(value, model.encode(signals[1:2])[name], atol=1e-5)
    assert (tmp_path / "bound.safetensors").stat().st_size < 2 * (tmp_path / "model.safetensors").stat().st_size


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "video"])
def test_every_kind_is_encoded(kind):
    signal = small_signal(kind)
    config = {**MODELS[0][1], "patch": {"audio": 100, "shape": 4}.get(kind, 8)}
    model = build_model(LocalityAware, signal.spec, config).eval()
    seen = SupportViews(signal, [0, 2]) if kind == "lightfield" else signal
    field = model.field(model.encode([seen]), signal.spec)
    *_, last = steps(field.tune("latents"), signal, FitConfig(steps=40, lr=1e-2, warmup=0, device="cpu", batch=256))
    assert torch.isfinite(last.loss)
    assert all(p.grad is None for p in field.decoder.parameters())
    for preset in LocalityAware.presets():
        recipe = LocalityAware.suggest(signal, preset)
        LocalityAware.Config(**recipe.config)
        TrainConfig(**recipe.fit)


def test_the_bound_field_projects_tokens_once_and_notices_changes():
    signal = small_signal("image")
    model = build_model(*[MODELS[0][0], signal.spec, MODELS[0][1]]).eval()
    field = model.field(model.encode([signal]), signal.spec)
    calls = []
    prepare = field.decoder.prepare
    field.decoder.prepare = lambda latents: calls.append(1) or prepare(latents)
    coords = torch.rand(10, 2)
    with torch.no_grad():
        first = field(coords)
        field(coords)
        assert len(calls) == 1
        field.latents["tokens"][0] = 0
        assert not torch.equal(field(coords), first) and len(calls) == 2


def test_published_preset_has_the_papers_sizes():
    from inr_scenes.signals.image import ImageSignal
    signal = ImageSignal.from_array(torch.rand(178, 178, 3).numpy())
    config = LocalityAware.Config(**LocalityAware.suggest(signal, "published").config)
    assert dataclasses.asdict(config) | {"patch": 9, "width": 768, "blocks": 6, "heads": 12, "head_features": 64,
                                         "tokens": 256, "token_features": 256, "hidden_features": 256,
                                         "frequency_features": 256, "decoder_heads": 2, "bandwidths": (128.0, 32.0),
                                         "query_bandwidth": 16.0} == dataclasses.asdict(config)
    with torch.device("meta"):
        model = LocalityAware(config, signal.spec)
    assert model.encoder.patches.places.shape == (20, 20, 768)


@pytest.mark.parametrize("size, heads", [(178, 2), (256, 2), (512, 4)])
def test_published_heads_follow_the_size(size, heads):
    from inr_scenes.signals.image import ImageSignal
    signal = ImageSignal.from_array(torch.rand(size, size, 3).numpy())
    assert LocalityAware.suggest(signal, "published").config["decoder_heads"] == heads


def test_published_transinr_has_its_own_band():
    signal = images()[0]
    assert [cls.suggest(signal, "published").config["bandwidth"] for cls in (PatternComposer, WeightModulation)] == \
        [128.0, 1024.0]


@pytest.mark.parametrize("cls, batch", [(LocalityAware, 32), (PatternComposer, 32), (WeightModulation, 32),
                                        (LearnedInit, 3), (HyperSiren, None)])
def test_published_steps_on_light_fields_take_a_part_of_the_rays(cls, batch):
    recipe = cls.suggest(small_signal("lightfield"), "published")
    assert recipe.fit.get("batch") == batch and 1 <= recipe.fit["points"] <= 128 * 128
    assert recipe.config.get("inner_points", 1) > 0


def test_wrong_kinds_and_sizes_are_refused():
    signals = images()
    others = [build_model(cls, signals.spec, config) for cls, config in MODELS]
    grey = signals[0].from_array(torch.rand(24, 20, 1).numpy(), name="grey")
    for model in others:
        with pytest.raises(InrError, match="was trained on signals of kind 'image'"):
            model.encode([small_signal("audio")])
        with pytest.raises(InrError, match="3 channels; grey has 1"):
            model.encode([grey])
    model = others[0]
    from inr_scenes.signals.image import ImageSignal
    other = ImageSignal.from_array(torch.rand(8, 8, 3).numpy(), name="other")
    with pytest.raises(InrError, match="one size"):
        model.encode([signals[0], other])
    with pytest.raises(InrError, match="not one signal"):
        model.stored(torch.zeros(1, 2))
    with pytest.raises(InrError, match="conv"):
        build_model(HyperSiren, small_signal("audio").spec, {"encoder": "conv"})


def test_the_fast_preset_trains_all_three_alike_and_the_published_one_as_its_papers():
    signal = images()[0]
    for cls in (LocalityAware, PatternComposer, WeightModulation):
        assert cls.suggest(signal, "fast").fit == {"optimizer": "muon", "lr": 1e-2}
        assert all(cls.suggest(small_signal(kind), "fast").fit["lr"] == 3e-3 for kind in KINDS if kind != "image")
        assert cls.suggest(signal, "published").fit["optimizer"] == "adam"


@pytest.mark.parametrize("cls, config", [pair for pair in MODELS if pair[0].completes],
                         ids=[name for name, (cls, _) in zip(NAMES, MODELS) if cls.completes])
def test_what_is_not_known_is_not_looked_at(cls, config):
    whole, known = images(1)[0], torch.arange(0, 480, 7)
    hidden = torch.ones(480, dtype=torch.bool).index_fill_(0, known, False)
    damaged = type(whole).from_array(whole.array().numpy())
    damaged.data[hidden] = 0
    model = build_model(cls, whole.spec, config, seed=0).eval()
    some, same, all_ = (model.encode([signal]) for signal in (KnownSamples(whole, known), KnownSamples(damaged, known),
                                                             damaged))
    assert all(torch.equal(some[name], same[name]) for name in some)
    assert any(not torch.equal(some[name], all_[name]) for name in some)
