"""Priors over latents: sets of them, training and resume, samples, archives, and the command line."""

import dataclasses
import json
import shutil

import pytest
import torch
from PIL import Image

from inr_scenes import archive
from inr_scenes.errors import InrError
from inr_scenes.field import decode_all
from inr_scenes.generalizable import build_model
from inr_scenes.latents import LatentDrawer, LatentValidation, open_latents
from inr_scenes.plugins import host
from inr_scenes.prior import Prior, build_prior
from inr_scenes.train import TrainConfig, train_steps
from inr_scenes.windows import encode

MODELS = {cls.name: cls for cls in host().models()}
PRIORS = {cls.name: cls for cls in host().priors()}
pytestmark = pytest.mark.skipif("latent-diffusion" not in PRIORS, reason="the locality_aware plugin is not installed")
TINY = {"width": 32, "blocks": 2, "heads": 2, "head_features": 16}
QUICK = TrainConfig(steps=40, batch=8, warmup=0, lr=3e-3, ema=0.0, device="cpu", validate_every=20)


@pytest.fixture
def encoded(signals, small, tmp_path):
    """A folder of encoded signals of two classes that differ, red_… and blue_…, and their model."""
    model = build_model(MODELS["lainr"], signals.spec, small).eval()
    place = tmp_path / "latents"
    for i in range(10):
        field = encode(model, signals[i])
        with torch.no_grad():
            field.latents["tokens"].add_(3.0 if i % 2 else -3.0)
        archive.save(field, place / f"{'red' if i % 2 else 'blue'}_{i}.safetensors", share=8)
    return place, model


def trained(latents, config=QUICK, **changes):
    prior = build_prior(PRIORS["latent-diffusion"], latents, {**TINY, **changes})
    for _ in train_steps(prior, latents, config, drawer=LatentDrawer):
        pass
    return prior


def test_a_set_of_latents_knows_classes_by_name_or_by_folder(encoded, tmp_path):
    place, model = encoded
    found = open_latents(place, model=model)
    assert found.classes == ("blue", "red") and found.labels.tolist() == [0] * 5 + [1] * 5
    assert found.latents["tokens"].shape == (10, 8, 16)
    assert open_latents(place, model=model, classes="none").classes == ()
    (place / "warm").mkdir()
    shutil.move(place / "red_1.safetensors", place / "warm" / "a.safetensors")
    assert open_latents(place, model=model, classes="folder").classes == (".", "warm")
    assert open_latents(place, model=model).classes == ()           # neither all in folders, nor all named alike
    with pytest.raises(InrError, match="--classes"):
        open_latents(place, model=model, classes="colour")


def test_what_is_no_set_of_latents_is_refused(encoded, signals, small, tmp_path):
    place, model = encoded
    with pytest.raises(InrError, match="holds no archives"):
        (tmp_path / "empty").mkdir()
        open_latents(tmp_path / "empty")
    with pytest.raises(InrError, match="--model"):
        open_latents(place)
    archive.save(model, place / "model.safetensors")
    with pytest.raises(InrError, match="no signal encoded"):
        open_latents(place, model=model)
    (place / "model.safetensors").unlink()
    other = build_model(MODELS["lainr"], signals.spec, small, seed=1).eval()
    archive.save(encode(other, signals[0]), place / "red_other.safetensors")
    with pytest.raises(InrError, match="another model"):
        open_latents(place, model=model)


def test_latents_of_other_token_counts_are_refused(encoded, tmp_path):
    place, model = encoded
    few = archive.open(place / "red_1.safetensors", model=model).crop(keep=[0, 3])
    archive.save(few, place / "red_few.safetensors", share=8)
    with pytest.raises(InrError, match=r"red_few\.safetensors has another model, size, windows or tokens than"):
        open_latents(place, model=model)


def test_a_prior_of_any_width_is_told_the_noise_level(encoded):
    place, model = encoded
    latents = open_latents(place, model=model)
    for width in (32, 33):
        *_, last = train_steps(build_prior(PRIORS["latent-diffusion"], latents, {**TINY, "width": width}), latents,
                               dataclasses.replace(QUICK, steps=2), drawer=LatentDrawer)
        assert last.loss.isfinite()
    with pytest.raises(InrError, match="no option 'widht'. Did you mean width"):
        build_prior(PRIORS["latent-diffusion"], latents, {"widht": 3})


def test_training_takes_noise_off_and_samples_follow_their_class(encoded):
    place, model = encoded
    latents = open_latents(place, model=model)
    prior = trained(latents, dataclasses.replace(QUICK, steps=200))
    assert LatentValidation(latents).metrics(prior)["mse"] < 0.5        # the mean alone would make 1
    for name, sign in (("red", 1), ("blue", -1)):
        drawn = list(prior.sample(4, name, seed=3, steps=20, guidance=1.0))
        means = torch.stack([field.latents["tokens"].mean() for field in drawn])
        assert (sign * means > 1).all()
    again = list(prior.sample(4, "blue", seed=3, steps=20, guidance=1.0))
    other = list(prior.sample(1, "blue", seed=4, steps=20, guidance=1.0))
    assert torch.equal(again[0].latents["tokens"], drawn[0].latents["tokens"])
    assert not torch.equal(other[0].latents["tokens"], drawn[0].latents["tokens"])
    assert not torch.equal(drawn[0].latents["tokens"], drawn[1].latents["tokens"])
    with pytest.raises(InrError, match=r"no class 'rde'.*red"):
        prior.sample(1, "rde")
    with pytest.raises(InrError, match="--steps"):
        list(prior.sample(1, steps=0))


def test_the_sampler_ends_at_the_data_when_the_denoiser_knows_it(encoded):
    place, model = encoded
    latents = open_latents(place, model=model)
    prior = build_prior(PRIORS["latent-diffusion"], latents, TINY)
    truth = prior.standardised({"tokens": latents.latents["tokens"][:1]})
    prior._clean = lambda x, *_: {"tokens": truth["tokens"].expand_as(x["tokens"])}
    drawn = list(prior.sample(2, steps=7))
    assert torch.allclose(drawn[1].latents["tokens"], latents.latents["tokens"][0], atol=1e-4)


def test_noise_follows_the_linear_schedule(encoded):
    place, model = encoded
    prior = build_prior(PRIORS["latent-diffusion"], open_latents(place, model=model), TINY)
    noise = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    assert torch.allclose(prior.signal_share.double(), torch.cumprod(1 - noise, 0), atol=1e-7)
    clean, step = torch.randn(3, 8, 16), torch.tensor([0, 500, 999])
    mixed = prior._mixed(clean, torch.zeros_like(clean), step)
    assert torch.allclose(mixed, clean * prior.signal_share[step].sqrt()[:, None, None])


def test_resuming_gives_the_same_prior(encoded):
    place, model = encoded
    latents = open_latents(place, model=model)
    whole = trained(latents)
    half = build_prior(PRIORS["latent-diffusion"], latents, TINY)
    for step in train_steps(half, latents, QUICK, drawer=LatentDrawer):
        if step.step == 15:
            state = step.state()
            break
    resumed = build_prior(PRIORS["latent-diffusion"], latents, TINY)
    for _ in train_steps(resumed, latents, QUICK, drawer=LatentDrawer, resume=state):
        pass
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_prior_is_an_archive_that_needs_nothing_else(encoded, tmp_path):
    place, model = encoded
    prior = trained(open_latents(place, model=model))
    path = archive.save(prior, tmp_path / "prior.safetensors")
    opened = archive.open(path)
    assert isinstance(opened, Prior) and opened.classes == ("blue", "red")
    mine, its = (decode_all(next(p.sample(1, "red", steps=5))) for p in (prior, opened))
    assert torch.allclose(mine, its, atol=1e-5)
    raw = bytearray(path.read_bytes())
    path.write_bytes(raw.replace(b'\\"blocks\\": 2', b'\\"blocks\\": 3'))
    with pytest.raises(InrError, match="damaged"):
        archive.open(path)


def test_train_and_sample_from_the_command_line(inr, folder, small, tmp_path):
    flags = [word for name, value in small.items() for word in
             (f"--{name.replace('_', '-')}", *(str(v) for v in (value if isinstance(value, tuple) else (value,))))]
    assert inr("train", "lainr", folder, "-o", "run", *flags, "--steps", 2, "--batch", 4, "--validation", 0,
               "--device", "cpu", "--cache", tmp_path / "cache")[0] == 0
    pictures = sorted(folder.iterdir())
    assert inr("encode", "run", *pictures, "-o", "latents", "--share")[0] == 0
    narrow = [w for k, v in TINY.items() for w in (f"--{k.replace('_', '-')}", v)]
    status, out, err = inr("train", "latent-diffusion", "latents", "-o", "prior", *narrow, "--steps", 5, "--validation",
                           2, "--device", "cpu", "--json")
    assert status == 0, err
    assert json.loads(out)["metrics"]["mse"] > 0
    status, out, err = inr("sample", "prior", "-n", 3, "-o", "drawn", "--steps", 3, "--json")
    assert status == 0, err
    assert len(json.loads(out)["files"]) == 6 and Image.open(tmp_path / "drawn" / "0002.png").size == (16, 16)
    assert json.loads(inr("info", "drawn/0001.safetensors", "--json")[1])["field"] == "lainr"
    status, out, err = inr("sample", "prior", "-n", 5, "-o", "sheet.png", "--steps", 3)
    assert status == 0 and Image.open(tmp_path / "sheet.png").size == (51, 34), err
    for words, message in [
            (("prior", "-o", "drawn"), "--overwrite"), (("run", "-o", "x"), "holds no prior"), (("prior",), "-o"),
            (("prior", "-o", "x", "--class", "tulips"), "no class"), (("prior", "-o", "x.safetensors"), "-n 1"),
            (("prior", "-o", "x", "--export", ".wav"), "cannot be written"),
            (("prior", "-o", "x", "--guidance", 2), "--class"), (("prior", "-o", "x", "--seed", 1 << 64), "--seed")]:
        status, out, err = inr("sample", *words)
        assert status == 1 and message in err and len(err.strip().splitlines()) == 1, err
    status, _, err = inr("train", "latent-diffusion", "latents", "--crop", 2, 2)
    assert status == 1 and "--crop" in err
    assert not (tmp_path / "x").exists()
    status, _, err = inr("sample", "prior", "-n", 1, "-o", "drawn", "--steps", 0, "--overwrite")
    assert status == 1 and "--steps" in err
    assert len(list((tmp_path / "drawn").iterdir())) == 6, "what cannot be drawn replaces nothing"
    status, out, err = inr("sample", "prior", "-n", 1, "-o", "drawn", "--steps", 3, "--overwrite", "--json")
    assert status == 0 and len(list((tmp_path / "drawn").iterdir())) == 2, "what was drawn before is gone"
    status, _, err = inr("train", "latent-diffusion", "latents", "--sheet", "-o", "other")
    assert status == 1 and "inr sample" in err and not (tmp_path / "other").exists()
    status, _, err = inr("crop", "prior", "x.safetensors", "--keep", 0)
    assert status == 1 and "inr sample" in err
    status, _, err = inr("export", "prior", "out.png")
    assert status == 1 and "inr sample" in err


def test_frechet_distance_of_normals_is_the_closed_form():
    from inr_scenes.metrics import frechet

    generator = torch.Generator().manual_seed(0)
    one = torch.randn(20_000, 3, generator=generator, dtype=torch.float64)
    other = 2 * torch.randn(20_000, 3, generator=generator, dtype=torch.float64) + torch.tensor([1.0, 0, 0])
    assert frechet(one.numpy(), one.numpy()) == pytest.approx(0, abs=1e-6)
    # |mean|² + Σ (σ₁ - σ₂)²
    assert frechet(one.numpy(), other.numpy()) == pytest.approx(1 + 3, rel=0.05)
    assert frechet(one.numpy(), other.numpy()) == pytest.approx(frechet(other.numpy(), one.numpy()))


def test_latents_that_are_vectors_are_one_token_each(signals, tmp_path):
    if "siren-hyper" not in MODELS:
        pytest.skip("no model with vectors")
    model = build_model(MODELS["siren-hyper"], signals.spec, {"hidden_features": 16, "layers": 3, "code_features": 16,
                                                              "hyper_features": 16}).eval()
    for i in range(4):
        archive.save(encode(model, signals[i]), tmp_path / "codes" / f"{i}.safetensors")
    prior = trained(open_latents(tmp_path / "codes"), dataclasses.replace(QUICK, steps=3, batch=4))
    assert decode_all(next(prior.sample(1, steps=3))).shape == (16, 16, 3)


def test_drawn_sounds_are_as_loud_as_the_middle_one(small, tmp_path):
    from inr_scenes.signals.audio import AudioSignal

    loud = [AudioSignal.from_array(torch.sin(torch.arange(800) / 9.0)[:, None].numpy() * peak, 8000)
            for peak in (0.1, 0.9, 0.5)]
    model = build_model(MODELS["lainr"], loud[0].spec, {**small, "patch": 50}).eval()
    for i, sound in enumerate(loud):
        archive.save(encode(model, sound), tmp_path / "sounds" / f"{i}.safetensors")
    found = open_latents(tmp_path / "sounds")
    assert found.spec.values == loud[2].spec.values


def test_a_training_stops_when_the_error_is_small_enough_not_before(encoded):
    place, model = encoded
    config = dataclasses.replace(QUICK, steps=200, validate_every=5, until="mse=0.6")
    latents = open_latents(place, model=model)
    prior = build_prior(PRIORS["latent-diffusion"], latents, TINY)
    scores = [step.metrics["mse"] for step in train_steps(prior, latents, config, drawer=LatentDrawer,
                                                          validation=LatentValidation(latents)) if step.metrics]
    assert len(scores) > 1 and scores[-1] <= 0.6 < min(scores[:-1])


@pytest.mark.parametrize("key, value", [("windows", {"size": [float("inf")]}), ("role", "sgnal"), ("format", 1e999)])
def test_a_damaged_header_is_one_line(encoded, key, value, tmp_path):
    place, model = encoded
    path = place / "red_1.safetensors"
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    head = json.loads(raw[8:8 + length])
    inner = json.loads(head["__metadata__"][archive.KEY])
    head["__metadata__"][archive.KEY] = json.dumps({**inner, key: value})
    packed = json.dumps(head).encode()
    path.write_bytes(len(packed).to_bytes(8, "little") + packed + raw[8 + length:])
    with pytest.raises(InrError, match="damaged") as caught:
        archive.open(path, model=model)
    assert len(str(caught.value).splitlines()) == 1


def test_a_header_cannot_ask_for_more_latents_than_there_are(encoded):
    place, model = encoded
    path = place / "red_1.safetensors"
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b'\\"tokens\\": 8', b'\\"tokens\\": 9'))
    with pytest.raises(InrError, match="not as many as the header says"):
        archive.open(path, model=model)
