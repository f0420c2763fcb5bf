"""Signals of any size through a model of one size: windows, their blending, crops and archives; random parts."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from inr_scenes import archive
from inr_scenes.augment import Parts
from inr_scenes.dataset import open_set
from inr_scenes.errors import InrError
from inr_scenes.field import decode_all, sides
from inr_scenes.generalizable import build_model
from inr_scenes.plugins import host
from inr_scenes.signals.audio import AudioSignal
from inr_scenes.signals.image import ImageSignal
from inr_scenes.train import TrainConfig, train_steps
from inr_scenes.validation import Validation
from inr_scenes.windows import WindowedField, Windows, encode, window_spec

MODELS = {cls.name: cls for cls in host().models()}
pytestmark = pytest.mark.skipif("lainr" not in MODELS, reason="the locality_aware plugin is not installed")


def image(height, width, name="large"):
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 5), np.cos(y / 7), np.sin((x + y) / 9)], -1)
    return ImageSignal.from_array(waves / 2 + 0.5, name=name)


@pytest.fixture
def model(signals, small):
    return build_model(MODELS["lainr"], signals.spec, small).eval()


@pytest.mark.parametrize("shape", [(16, 40), (39, 16), (50, 61), (9, 30), (7, 5)])
def test_windows_cover_every_sample_with_weights_that_sum_to_one(shape):
    spec = image(*shape).spec
    windows = Windows.over(spec, image(16, 16).spec)
    coords = torch.cat([spec.coords(torch.arange(spec.size)), torch.tensor([[-1.0, -1.0], [1.0, 1.0], [1.3, -1.2]])])
    point, window, local, weight = windows.covering(spec, coords)
    assert torch.allclose(torch.zeros(len(coords)).index_add(0, point, weight), torch.ones(len(coords)), atol=1e-6)
    assert (window.diff() >= 0).all() and local[point < spec.size].abs().max() <= 1 + 1e-6
    for corner in windows.corners:
        assert all(low >= 0 and (low + 16 <= n or low == 0) for low, n in zip(corner, shape))


def test_a_window_sees_and_says_what_the_model_alone_would(model, signals):
    large = image(50, 61)
    field = encode(model, large)
    assert isinstance(field, WindowedField)
    k = 3
    corner = field.windows.corners[k]
    part = image(50, 61).array()[corner[0]:corner[0] + 16, corner[1]:corner[1] + 16]
    alone = encode(model, ImageSignal.from_array(part.numpy()))
    assert not isinstance(alone, WindowedField)
    assert torch.allclose(field.latents["tokens"][k], alone.latents["tokens"], atol=1e-5)
    # far from other windows' borders nothing is blended
    row, column = next((r, c) for r in range(50) for c in range(61)
                       if [all(a <= i < a + 16 for a, i in zip(other, (r, c))) for other in field.windows.corners]
                       == [i == k for i in range(len(field.windows))])
    whole, own = decode_all(field), decode_all(alone)
    assert torch.allclose(whole[row, column], own[row - corner[0], column - corner[1]], atol=1e-5)
    window = field.window(k)
    assert torch.allclose(decode_all(window), own, atol=1e-5) and window.spec.axes == alone.spec.axes


def test_the_tokens_of_one_window_are_mapped(model, inr, tmp_path):
    field = encode(model, image(50, 61))
    archive.save(field, tmp_path / "large.safetensors")
    archive.save(encode(model, image(16, 16)), tmp_path / "one.safetensors")
    status, out, err = inr("tokens", "large.safetensors", "middle.png", "--json")
    assert status == 0, err
    corner = field.windows.corners[json.loads(out)["window"]]
    assert json.loads(out)["tokens"] == 8 and abs(corner[0] + 8 - 25) <= 8 and abs(corner[1] + 8 - 30) <= 8
    assert Image.open(tmp_path / "middle.png").size == (3 * 17, 3 * 17)
    assert inr("tokens", "large.safetensors", "first.png", "--window", 0)[0] == 0
    assert (tmp_path / "first.png").read_bytes() != (tmp_path / "middle.png").read_bytes()
    for name, number, message in (("large", 99, "not among the"), ("one", 0, "in one piece")):
        status, _, err = inr("tokens", f"{name}.safetensors", "x.png", "--window", number)
        assert status == 1 and message in err and len(err.strip().splitlines()) == 1


def test_a_windowed_field_is_pointwise_and_continuous(model):
    field = encode(model, image(50, 61))
    coords = torch.rand(500, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    order = torch.randperm(500, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        together = field(coords)
        assert torch.allclose(field(coords[order]), together[order], atol=1e-5)
        assert torch.allclose(torch.cat([field(c[None]) for c in coords[:20]]), together[:20], atol=1e-5)
        line = torch.stack([torch.zeros(20001), torch.linspace(-1, 1, 20001)], -1)
        steps = field(line).diff(dim=0).abs()
        assert steps.max() < 0.05 * (field(line).amax(0) - field(line).amin(0)).max()      # no jump at any border


def test_archive_crop_and_share_of_windows(model, signals, tmp_path):
    large = image(50, 61)
    field = encode(model, large)
    whole = decode_all(field)
    path = archive.save(field, tmp_path / "large.safetensors")
    opened = archive.open(path)
    assert torch.equal(decode_all(opened), whole)
    small = opened.crop(((10, 30), (20, 40)))
    assert len(small.windows) < len(field.windows)
    assert torch.allclose(decode_all(small), whole[10:30, 20:40], atol=1e-5)
    twice = small.crop(((12, 20), (20, 30)))
    assert torch.allclose(decode_all(twice), whole[12:20, 20:30], atol=1e-5)
    again = archive.open(archive.save(small, tmp_path / "small.safetensors"))
    assert torch.equal(decode_all(again), decode_all(small)) and again.spec.box == ((10, 30), (20, 40))
    with pytest.raises(InrError, match="windows 0 to"):
        opened.crop(keep=[999])
    shared = archive.save(field, tmp_path / "shared.safetensors", share=8)
    with pytest.raises(InrError, match="holds latents alone"):
        archive.open(shared)
    assert (decode_all(archive.open(shared, model=model)) - whole).abs().max() < 0.05
    assert shared.stat().st_size < path.stat().st_size / 2


def test_many_windows_are_held_a_few_at_a_time(model, monkeypatch):
    from inr_scenes import windows

    field = encode(model, image(50, 61))
    whole = decode_all(field)
    monkeypatch.setattr(windows, "HELD", 3)
    monkeypatch.setattr(windows, "PAIRS", 500)
    few = encode(model, image(50, 61))
    part = few.spec.coords(torch.arange(few.spec.size))[:61 * 3]
    with torch.no_grad():
        assert torch.allclose(few.stored(part), whole[:3].reshape(-1, 3), atol=1e-5)
        assert 3 < len(few._kept[torch.float32][2]) < len(few.windows)
    assert torch.allclose(decode_all(few), whole, atol=1e-5)


def test_refining_windows_improves_the_signal(model):
    from inr_scenes.cli.encode import refine

    large = image(24, 40)
    field = encode(model, large)
    before = large.metrics(field)["psnr"]
    refine(field, large, 100, "latents", 3e-2, "cpu")
    assert large.metrics(field)["psnr"] > before + 0.5


def test_long_sounds_are_windows_too(small):
    wave = torch.sin(torch.arange(3000) / 9.0)[:, None]
    sound = AudioSignal.from_array(wave.numpy(), 8000)
    spec = window_spec(sound.spec, (800,))
    net = build_model(MODELS["lainr"], spec, {**small, "patch": 50}).eval()
    field = encode(net, sound)
    assert isinstance(field, WindowedField) and decode_all(field).shape == (3000, 1)


def test_parts_are_crops_of_the_signal_and_repeat_with_their_seed(signals):
    parts = Parts(signals.spec, (6, 5))
    one, again, other = parts(signals[0], 3), parts(signals[0], 3), parts(signals[0], 4)
    assert one.spec.shape == (6, 5) and torch.equal(one.data, again.data) and not torch.equal(one.data, other.data)
    whole, cut = signals[0].array(), one.array()
    assert any(torch.allclose(whole[r:r + 6, c:c + 5], cut) for r in range(11) for c in range(12))
    assert Parts(signals.spec)(signals[0], 1).array().equal(whole)


def test_zoomed_parts_average_what_they_cover(signals):
    def means(zoom):
        parts = Parts(signals.spec, (8, 8), zoom)
        return torch.stack([parts(signals[0], seed).array().mean((0, 1)) for seed in range(300)])
    whole = signals[0].array().mean((0, 1))
    # larger parts are nearer to the whole's mean, which parts as large as the signal have
    assert (means(2.0) - whole).abs().mean() < (means(1.0) - whole).abs().mean()
    halves = Parts(signals.spec.cropped(((0, 16), (0, 16))), (8, 8), 2.0)
    halves._cut = lambda values, generator: values
    assert torch.allclose(halves(signals[0], 0).array().mean((0, 1)), whole, atol=0.01)


def test_recoloured_parts_stay_in_range_and_are_mirrored_half_the_time(signals):
    parts = Parts(signals.spec, augment=True)
    drawn = torch.stack([parts(signals[0], seed).array() for seed in range(40)])
    assert drawn.min() >= 0 and drawn.max() <= 1
    whole = signals[0].array()

    def likeness(image):                # centred, so that brightness and contrast do not matter
        return torch.nn.functional.cosine_similarity(*((i - i.mean()).flatten() for i in (image, whole)), 0)
    mirrored = sum(bool(likeness(image) < likeness(image.flip(1))) for image in drawn)
    assert 10 <= mirrored <= 30


def test_turned_light_fields_are_those_of_turned_cameras():
    from inr_scenes.augment import Turned, _turn
    from inr_scenes.camera import Cameras, look_at, pluecker
    from inr_scenes.signal import Signal

    class Rays(Signal):
        spec = None

        def sample(self, index, generator=None):
            return self.rays[index], torch.zeros(len(index), 3)

    def cameras(origins, up=1.0):
        n = len(origins)
        return Cameras(look_at(origins, torch.zeros(3), torch.tensor([0.0, 0.0, up])), torch.full((n, 2), 9.0),
                       torch.full((n, 2), 4.0), torch.full((n, 2), 8))
    origins = torch.tensor([[2.0, 0.5, 1.0], [-1.0, 2.0, 0.3]])
    rays = Rays()
    for i in range(2):
        rays.rays = pluecker(*cameras(origins).rays(i))
        for seed in range(4):
            turn = _turn(torch.Generator().manual_seed(seed))
            found, _ = Turned(rays, turn).sample(torch.arange(64))
            expected = pluecker(*cameras(origins @ turn.T).rays(i)).reshape(8, 8, 6)
            if torch.linalg.det(turn) < 0:          # what a mirror shows is the picture the other way round
                expected = expected.flip(1)
            assert torch.allclose(found.reshape(8, 8, 6), expected, atol=1e-5), (i, seed)
    assert {round(float(torch.linalg.det(_turn(torch.Generator().manual_seed(s))))) for s in range(8)} == {-1, 1}


@pytest.mark.parametrize("crop", [(40, 40), (4,)])
def test_impossible_parts_are_refused(signals, crop):
    with pytest.raises(InrError, match="is no part of"):
        Parts(signals.spec, crop)


def test_training_on_parts_is_validated_on_whole_signals(picture, small, tmp_path):
    place = tmp_path / "large"
    place.mkdir()
    for i in range(8):
        Image.fromarray(picture(i, 32)).save(place / f"{i}.png")
    found = open_set(place, cache=tmp_path / "cache")
    config = TrainConfig(steps=30, batch=4, points=64, warmup=0, device="cpu", crop=(16, 16), zoom=2.0, augment=True,
                         lr=3e-3, validate_every=29)
    net = build_model(MODELS["lainr"], Parts(found.spec, config.crop).spec, small)
    training, held_out = found.split(2)
    scores = [step.metrics["psnr"] for step in train_steps(net, training, config, validation=Validation(held_out))
              if step.metrics]
    assert net.spec.shape == (16, 16) and scores[-1] > 12
    assert decode_all(encode(net, held_out[0])).shape == (32, 32, 3)


def test_parts_of_sounds_keep_each_sounds_own_scale():
    sounds = [AudioSignal.from_array(torch.sin(torch.arange(900) / 9.0)[:, None].numpy() * peak, 8000)
              for peak in (0.01, 0.9)]
    parts = Parts(sounds[0].spec, (300,))
    for sound in sounds:
        values = parts(sound, 0).sample(torch.arange(300))[1]
        assert 0.9 < values.abs().max() <= 1.001
        assert torch.allclose(parts(sound, 0).stored(slice(None)).abs().amax(), sound.array().abs().amax(), rtol=0.01)


def test_zoomed_sounds_are_averaged_too():
    comb = torch.zeros(800, 1)
    comb[::8] = 1.0
    sound = AudioSignal.from_array(comb.numpy(), 8000)
    part = Parts(sound.spec, (100,), 8.0)
    part._cut = lambda values, generator: values
    assert torch.allclose(part(sound, 0).stored(slice(None)), torch.full((100, 1), 0.125), atol=1e-4)


def test_opacity_is_not_recoloured():
    rgba = torch.rand(16, 16, 4)
    rgba[..., 3] = 1.0
    signal = ImageSignal.from_array(rgba.numpy())
    parts = Parts(signal.spec, augment=True)
    assert all((parts(signal, seed).array()[..., 3] == 1).all() for seed in range(8))


def test_windows_speak_in_the_coordinates_that_the_model_was_trained_at(small):
    from inr_scenes.signal import GridSignal
    from inr_scenes.spec import Axis, Spec

    spec = Spec("shape", (Axis(-0.375, 0.25, 4), Axis(-0.875, 0.25, 8), Axis(-0.875, 0.25, 8)), 3, 1)
    net = build_model(MODELS["lainr"], spec, small).eval()
    large = spec.replace(axes=tuple(Axis.regular(n) for n in (4, 14, 14)))
    signal = GridSignal(large, torch.rand(large.size, 1))
    field = encode(net, signal)
    part = signal.array()[:, :8, :8].reshape(-1, 1)
    alone = encode(net, GridSignal(spec, part))
    assert torch.allclose(field.latents["tokens"][0], alone.latents["tokens"], atol=1e-5)
    assert torch.allclose(decode_all(field)[:, 2, 2], decode_all(alone)[:, 2, 2], atol=1e-5)


def test_models_without_weights_in_their_decoder_are_windowed_too(signals):
    if "learned-init" not in MODELS:
        pytest.skip("no such model")
    changes = {"hidden_features": 16, "layers": 3, "inner_points": 0}
    net = build_model(MODELS["learned-init"], signals.spec, changes).eval()
    assert decode_all(encode(net, image(20, 30))).shape == (20, 30, 3)


def test_a_windowed_shape_is_told_inside_from_outside_where_half_precision_is_quick(model, monkeypatch):
    monkeypatch.setattr(sys.modules[sides.__module__], "quick_half", lambda device: torch.bfloat16)
    windowed, alone = encode(model, image(24, 30)), encode(model, image(16, 16))
    for field in (windowed, alone):
        calls, prepare = [], field.decoder.prepare
        field.decoder.prepare = lambda latents, calls=calls, prepare=prepare: calls.append(1) or prepare(latents)
        coords = field.spec.coords(torch.arange(field.spec.size))
        for part in coords.split(100):
            sides(field, part, level=0.5)            # some of them near
            values, exact = sides(field, part, level=100.0)
            assert not exact.any() and values.isfinite().all(), "none near"
        assert len(calls) == 2, "a context is prepared once in each precision, however often that changes"
    with torch.no_grad():
        assert windowed(torch.zeros(3, 0, 2)).shape == (3, 0, 3)


@pytest.mark.parametrize("size, overlap", [((1, 8), 0.6), ((2, 8), 0.75), ((3, 8), 0.5)])
def test_windows_of_few_samples_cover_every_sample_whatever_they_share(size, overlap):
    spec = image(7, 20).spec
    windows = Windows.over(spec, image(*size).spec, overlap)
    point, *_ = windows.covering(spec, spec.coords(torch.arange(spec.size)))
    assert len(point.unique()) == spec.size and len(set(windows.corners)) == len(windows)


def test_a_box_whose_windows_were_cut_away_is_refused(model):
    field = encode(model, image(50, 61))
    part = field.crop(keep=[0])
    assert part.crop(((0, 8), (0, 8))).spec.shape == (8, 8)
    with pytest.raises(InrError, match="Nothing is kept"):
        part.crop(((40, 50), (50, 61)))
