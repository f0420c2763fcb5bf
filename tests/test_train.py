"""Training on many signals: sets, exact resume, average, processes, the command line, encoded archives."""

import copy
import dataclasses
import json
import math
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from inr_scenes import archive
from inr_scenes.augment import Parts
from inr_scenes.batches import Drawer
from inr_scenes.dataset import open_set
from inr_scenes.errors import InrError, SetAside
from inr_scenes.export import export
from inr_scenes.field import build
from inr_scenes.generalizable import BoundField, build_model, concentration, pack, token_maps, unpack
from inr_scenes.guard import Diverged
from inr_scenes.plugins import host
from inr_scenes.signals.shape import ShapeSignal
from inr_scenes.siren import Siren
from inr_scenes.train import TrainConfig, check, train_steps
from inr_scenes.validation import Validation, predict

MODELS = {cls.name: cls for cls in host().models()}
pytestmark = pytest.mark.skipif("lainr" not in MODELS, reason="the locality_aware plugin is not installed")
SMALL = {"patch": 4, "width": 32, "blocks": 1, "heads": 2, "head_features": 16, "hidden_features": 32,
         "frequency_features": 24, "tokens": 8, "token_features": 16, "bandwidths": (8.0, 4.0), "query_bandwidth": 2.0}
FLAGS = [word for name, value in SMALL.items() for word in
         (f"--{name.replace('_', '-')}", *(str(v) for v in (value if isinstance(value, tuple) else (value,))))]
QUICK = TrainConfig(steps=6, batch=4, points=64, warmup=0, device="cpu", validate_every=3)


def lainr(signals, seed=0, **changes):
    return build_model(MODELS["lainr"], signals.spec, {**SMALL, **changes}, seed=seed)


def test_a_set_holds_the_files_values_and_is_decoded_once(picture, folder, signals, tmp_path, monkeypatch):
    assert len(signals) == 10 and signals.names[3] == "03"
    for i in (0, 3, 9):
        assert np.array_equal(signals[i].data.reshape(16, 16, 3), picture(i))
        coords, values = signals[i].sample(torch.tensor([17]))
        assert torch.allclose(values, torch.tensor(picture(i)[1, 1] / 127.5 - 1).float()[None], atol=1e-6)
        assert torch.allclose(coords, torch.tensor([[-1 + 1.5 / 8, -1 + 1.5 / 8]]))
    from inr_scenes.signals.image import ImageSignal
    monkeypatch.setattr(ImageSignal, "load", lambda *a, **k: pytest.fail("decoded twice"))
    assert open_set(folder, cache=tmp_path / "cache").names == signals.names
    assert isinstance(signals.data, np.memmap)


def test_worker_processes_decode_the_same(folder, signals, tmp_path):
    again = open_set(folder, cache=tmp_path / "other", workers=1)
    assert np.array_equal(again.data, signals.data) and again.specs == signals.specs


def test_a_corrupt_or_odd_file_is_named_and_skipped_or_stops(picture, folder, tmp_path):
    (folder / "03.png").write_bytes(b"no picture at all")
    Image.fromarray(picture(0, 20)).save(folder / "odd.png")
    with pytest.warns(UserWarning, match=r"03\.png"):
        found = open_set(folder, cache=tmp_path / "cache")
    assert len(found) == 9 and "03" not in found.names
    assert any("odd.png is 20 × 20 of 3 channels" in line and "--size" in line for line in found.skipped)
    for cache in ("cache", "fresh"):                    # also where it was decoded before
        with pytest.raises(InrError, match=r"03\.png"):
            open_set(folder, cache=tmp_path / cache, on_error="stop")
    assert not [p for p in (tmp_path / "fresh").iterdir()], "a stopped decoding leaves nothing behind"
    with pytest.raises(InrError, match="no signals"):
        open_set(tmp_path / "cache", cache=tmp_path / "x")


def test_a_picture_that_is_mended_or_edited_within_its_folder_is_noticed(picture, tmp_path):
    for name in "ab":
        (tmp_path / "views" / name).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(picture(i, 8)).save(tmp_path / "views" / name / f"view_00_0{i}.png")
    place = tmp_path / "views" / "b" / "view_00_01.png"
    place.write_bytes(b"no picture at all")

    def found():
        return open_set(tmp_path / "views", kind="lightfield", options={"surface": False}, cache=tmp_path / "cache")

    with pytest.warns(UserWarning, match="left out"):
        assert found().names == ("a",)
    Image.fromarray(picture(1, 8)).save(place)
    mended = found()
    assert mended.names == ("a", "b") and np.array_equal(mended[0].data, mended[1].data)
    Image.fromarray(picture(2, 8)).save(place)
    edited = found()
    assert np.array_equal(edited[1].data[64:].reshape(8, 8, 3), picture(2, 8))
    (tmp_path / "views" / "b" / "gone.png").symlink_to("nowhere")
    assert len(found()) == 2


def test_parts_are_taken_of_pictures_of_any_size(folder, tmp_path):
    y, x = np.mgrid[0:21, 0:40]
    large = np.stack([x * 6, y * 12, 255 - x * 3], -1).astype(np.uint8)
    Image.fromarray(large).save(folder / "large.png")
    Image.fromarray(large[:7]).save(folder / "low.png")
    with pytest.warns(UserWarning, match=r"low\.png is 7 × 40 of 3 channels, smaller than 8 × 12"):
        found = open_set(folder, cache=tmp_path / "cache", crop=(8, 12))
    assert len(found) == 11 and found[10].spec.shape == (21, 40)
    assert np.array_equal(found[10].data.reshape(21, 40, 3).numpy(), large)
    held_out = found.part([9, 10])
    config = TrainConfig(steps=80, batch=3, points=32, crop=(8, 12), lr=3e-3, warmup=0, device="cpu")
    spec = Parts(found.spec, (8, 12)).spec
    model, validation = build_model(MODELS["lainr"], spec, {**SMALL, "patch": 4}, seed=0), Validation(held_out)
    before = validation.metrics(model)["psnr"]
    for _ in train_steps(model, found.part(range(11)), config):
        pass
    assert validation.metrics(model)["psnr"] > before and [len(p[0]) for p in validation.pictures(model)] == [16, 21]
    with pytest.raises(InrError, match="None of 12 signals is large enough"):
        open_set(folder, cache=tmp_path / "cache", crop=(30, 2))


def test_pictures_of_16_bits_among_others_keep_their_values(tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name, value in (("a", np.uint8(200)), ("b", np.uint16(40000)), ("c", np.uint8(100))):
        Image.fromarray(np.full((8, 6), value)).save(folder / f"{name}.png")
    for names in ("abc", "bc"):             # whichever is first decides the type that the set is kept in
        found = open_set(folder, cache=tmp_path / "cache")
        assert "".join(found.names) == names
        stored = [float(found[i].array()[0, 0, 0]) for i in range(len(found))]
        assert stored[-2:] == pytest.approx([40000 / 65535, 100 / 255], abs=0.002)
        (folder / "a.png").unlink(missing_ok=True)


def test_a_large_set_costs_one_spec_and_a_light_field_only_what_is_asked_for(signals, tmp_path):
    from inr_scenes.testing import small_signal
    from inr_scenes.views import around
    assert len({id(spec) for spec in signals.specs}) == 1
    from inr_scenes.dataset import RaySignal
    spec = small_signal("lightfield").spec

    class Rows(np.ndarray):
        asked = []

        def __getitem__(self, index):
            self.asked.append(index)
            return np.asarray(self)[index]

    rays, data = np.zeros((100, 6), np.float32).view(Rows), np.full((100, 3), 255, np.uint8).view(Rows)
    signal = RaySignal(spec.replace(cameras=around(1, 10)), rays, data, 1 / 255, "x")
    assert torch.equal(signal.sample(torch.tensor([7, 3]))[1], torch.ones(2, 3))
    assert [index.tolist() for index in Rows.asked] == [[7, 3], [7, 3]]


def test_what_a_set_lacks_is_said_in_the_terms_of_its_kind(picture, folder, tmp_path):
    import soundfile
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for name, count in (("a", 500), ("b", 400)):
        soundfile.write(sounds / f"{name}.wav", np.sin(np.arange(count) / 9), 8000)
    with pytest.warns(UserWarning, match=r"b\.wav is 400 of 1 channels, a is 500 of 1 channels; .*--seconds-long"):
        open_set(sounds, cache=tmp_path / "cache")
    Image.fromarray(picture(1)[..., 0]).save(folder / "grey.png")
    with pytest.warns(UserWarning, match=r"grey\.png has 1 channels, 00 has 3; .*--mode rgb"):
        open_set(folder, cache=tmp_path / "cache")


def test_training_improves_held_out_signals(signals):
    training, held_out = signals.split(2)
    assert not set(training.numbers) & set(held_out.numbers) and len(training) == 8
    model, validation = lainr(signals), Validation(held_out)
    before = validation.metrics(model.eval())["psnr"]
    config = TrainConfig(steps=90, batch=8, points=0, lr=3e-3, warmup=10, ema=0.9, device="cpu")
    *_, last = train_steps(model, training, config, validation=validation)
    assert last.metrics["psnr"] > before + 2
    assert validation.metrics(model)["psnr"] == pytest.approx(last.metrics["psnr"])


def test_resuming_gives_the_same_weights(signals):
    training, held_out = signals.split(2)
    whole = lainr(signals)
    for _ in train_steps(whole, training, QUICK, validation=Validation(held_out)):
        pass
    first = lainr(signals)
    for step in train_steps(first, training, QUICK, validation=Validation(held_out)):
        if step.step == 3:
            state = step.state()
            state = torch.load(_saved(state), weights_only=True)
            break
    second = lainr(signals, seed=5)
    for _ in train_steps(second, training, QUICK, resume=state):
        pass
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


@pytest.mark.parametrize("changes", [{"ema": 0.9}, {"ema": 0.0, "optimizer": "schedule-free"},
                                     {"ema": 0.5, "optimizer": "schedule-free", "steps": None, "seconds": 0.1}])
def test_resuming_a_finished_training_changes_nothing(signals, changes):
    config = dataclasses.replace(QUICK, **changes)
    field, again = lainr(signals), lainr(signals, seed=5)
    *_, last = train_steps(field, signals.split(2)[0], config)
    state = copy.deepcopy(last.state())
    assert not list(train_steps(again, signals.split(2)[0], config, resume=state)) and not again.training
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in field.state_dict().items())


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_training_that_diverges_keeps_the_last_good_weights(signals, ema, monkeypatch):
    training, _ = signals.split(2)
    model, seen, real = lainr(signals), [], type(lainr(signals)).loss

    def loss(self, batch):
        seen.append([p.detach().clone() for p in self.parameters()])
        return real(self, batch) * (float("nan") if len(seen) > 60 else 1.0)

    monkeypatch.setattr(type(model), "loss", loss)
    config = TrainConfig(steps=200, batch=2, points=16, ema=ema, clip=0.0, warmup=0, device="cpu")
    with pytest.raises(Diverged, match="last good weights were kept"):
        for _ in train_steps(model, training, config):
            pass
    assert len(seen) == 75
    if not ema:             # those of the look before: of the 25th step, whose loss came before it
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), seen[25]))
    assert all(p.isfinite().all() for p in model.parameters())


def _saved(state):
    import io
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


@pytest.mark.parametrize("held_out", [None, 0])
def test_a_quality_on_no_held_out_signals_is_refused_at_the_start(signals, held_out):
    validation = None if held_out is None else Validation(signals.part([]))
    with pytest.raises(InrError, match="--until psnr=1 .*--validation"):
        next(train_steps(lainr(signals), signals.split(2)[0], dataclasses.replace(QUICK, until="psnr=1"),
                         validation=validation))
    from inr_scenes.latents import LatentValidation
    assert not LatentValidation(signals.part([]))


def test_a_small_share_of_the_points_is_one_at_least(signals):
    for points, count in ((0.0004, 1), (0.5, 128), (0, 256), (3, 3)):
        batch, = Drawer(signals.split(2)[0], TrainConfig(batch=2, points=points), torch.device("cpu"))(0)
        assert batch.values.shape == (2, count, 3)


def test_distances_are_measured_with_their_greatest_as_full_scale(tmp_path):
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 8)] * 3, indexing="ij"), -1)
    (tmp_path / "shapes").mkdir()
    for i in range(2):
        np.savez(tmp_path / "shapes" / f"{i}.npz", np.float32(40 * (np.linalg.norm(grid, axis=-1) - 0.5 - 0.2 * i)))
    found = open_set(tmp_path / "shapes", kind="shape", options={"quantity": "sdf"}, cache=tmp_path / "cache")
    changes = {name: value for name, value in SMALL.items() if name != "patch"}
    model = build_model(MODELS["lainr"], found.spec, {**changes, "patch": 4}).eval()
    guess, truth = predict(model, found[0], found[0])
    expected = -10 * math.log10(float((guess - truth).square().mean()))         # in the network's range: that over 1
    assert Validation(found.part([0])).metrics(model)["psnr"] == pytest.approx(expected, abs=1e-3)


def test_distances_and_occupancy_make_no_set(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    (tmp_path / "shapes").mkdir()
    trimesh.creation.icosphere(2).export(tmp_path / "shapes" / "b.ply")
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 8)] * 3, indexing="ij"), -1)
    field = build(Siren, ShapeSignal.from_array(np.linalg.norm(grid, axis=-1) - 0.5, quantity="sdf").spec, seed=0)
    export(field, tmp_path / "shapes" / "a.npz")
    with pytest.warns(UserWarning, match=r"b\.ply holds occupancy, a sdf; .*--quantity"):
        found = open_set(tmp_path / "shapes", kind="shape", options={"resolution": 8}, cache=tmp_path / "cache")
    assert found.names == ("a",)


def test_accumulated_parts_equal_one_batch(signals):
    training, _ = signals.split(2)
    weights = []
    for parts in (1, 2):
        model = lainr(signals)
        config = TrainConfig(steps=1, batch=4, accumulate=parts, points=64, warmup=0, ema=0.0, device="cpu", clip=0.0)
        loss = [step.loss for step in train_steps(model, training, config)]
        weights.append((loss, model.state_dict()))
    assert torch.allclose(weights[0][0][0], weights[1][0][0], atol=1e-6)
    with pytest.raises(InrError, match="multiple"):
        Drawer(training, TrainConfig(batch=4, accumulate=3), torch.device("cpu"))


def test_the_average_lags_and_is_what_is_kept(signals):
    training, _ = signals.split(2)
    model = lainr(signals)
    history = []
    config = TrainConfig(steps=4, batch=4, points=64, warmup=0, ema=0.5, device="cpu", schedule="constant")
    name, start = next((n, p.detach().clone()) for n, p in model.named_parameters())
    expected = start
    for step in train_steps(model, training, config):
        current = step.state()["field"][name].clone()
        history.append(current)
        weight = 1 - min(0.5, step.step / (9 + step.step))
        expected = expected + weight * (current - expected)
    assert torch.allclose(dict(model.named_parameters())[name], expected, atol=1e-6)
    assert not torch.equal(expected, history[-1])


def test_two_processes_see_the_joined_batch(signals):
    training, _ = signals.split(2)
    config = TrainConfig(batch=4, points=32, seed=3)
    alone = Drawer(training, config, torch.device("cpu"))(5)[0]
    shares = [Drawer(training, config, torch.device("cpu"), rank, 2)(5)[0] for rank in range(2)]
    assert sorted(n for share in shares for n in share.numbers.tolist()) == sorted(alone.numbers.tolist())
    for share in shares:
        assert torch.equal(share.coords, alone.coords)


@pytest.mark.slow
def test_two_cpu_processes_give_the_loss_of_one(folder, tmp_path):
    import subprocess
    import sys

    lines = []
    for devices in (1, 2):
        run = tmp_path / f"run{devices}"
        subprocess.run([sys.executable, "-m", "inr_scenes", "train", "lainr", str(folder), "-o", str(run), *FLAGS,
                        "--steps", "3", "--batch", "4", "--device", "cpu", "--devices", str(devices),
                        "--validation", "2", "--cache", str(tmp_path / "cache")], check=True, capture_output=True)
        lines.append([json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()])
    assert lines[0][-1]["loss"] == pytest.approx(lines[1][-1]["loss"], rel=1e-5)
    assert lines[0][-1]["psnr"] == pytest.approx(lines[1][-1]["psnr"], abs=1e-3)


@pytest.mark.parametrize("changes, message", [({"steps": None}, "end"), ({"ema": 1.0}, "ema"), ({"batch": 0}, "batch"),
                                              ({"views": (3, 2)}, "views"), ({"precision": "bf61"}, "bf16")])
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(InrError, match=message):
        check(TrainConfig(**changes))


def test_half_precision_trains_close_to_full(signals):
    training, _ = signals.split(2)
    losses = []
    for precision in ("32", "bf16"):
        config = TrainConfig(steps=5, batch=4, points=64, warmup=0, device="cpu", precision=precision)
        losses.append([float(step.loss) for step in train_steps(lainr(signals), training, config)][-1])
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_a_compiled_training_is_the_plain_one(signals, monkeypatch):
    calls, ends = [], []
    monkeypatch.setattr(torch, "compile", lambda function: lambda *given: calls.append(function) or function(*given))
    for kernel in ("torch", "compile"):
        field = lainr(signals, blocks=2)
        list(train_steps(field, signals.split(2)[0], dataclasses.replace(QUICK, kernel=kernel)))
        ends.append(field.state_dict())
        assert len(calls) == {"torch": 0, "compile": 3 * (1 + 6)}[kernel]        # two blocks and a decoder, proved once
    assert all(torch.equal(ends[0][name], value) for name, value in ends[1].items())
    assert not any("forward" in vars(part) for part in field.compilable())


@pytest.mark.parametrize("name, changes, calls", [("siren-hyper", {}, 7), ("lfn", {}, 7), ("learned-init", {}, 0),
                                                  ("learned-init", {"method": "reptile"}, 19)])
def test_decoders_that_are_handed_their_weights_are_compiled_too(signals, monkeypatch, name, changes, calls):
    if name not in MODELS:
        pytest.skip("no such model")
    made, ends = [], []
    monkeypatch.setattr(torch, "compile", lambda function: lambda *given: made.append(1) or function(*given))
    for kernel in ("torch", "compile"):
        field = build_model(MODELS[name], signals.spec, {"hidden_features": 16, "layers": 3, **changes}, seed=0)
        with warnings.catch_warnings():
            warnings.simplefilter("error", SetAside)
            list(train_steps(field, signals.split(2)[0], dataclasses.replace(QUICK, kernel=kernel)))
        ends.append(field.state_dict())
    # six steps and the proof, Reptile's with two inner ones each; MAML's second derivatives are plain torch's
    assert len(made) == calls
    assert all(torch.equal(ends[0][key], value) for key, value in ends[1].items())


def test_compiled_code_with_wrong_gradients_by_the_weights_it_is_handed_is_set_aside(signals, monkeypatch):
    def wrong(function):
        return lambda x, context: function(x, {key: 2 * value - value.detach() for key, value in context.items()})

    monkeypatch.setattr(torch, "compile", wrong)
    field = build_model(MODELS["siren-hyper"], signals.spec, {"hidden_features": 16, "layers": 3}, seed=0)
    with pytest.warns(SetAside, match="differ from plain torch's"):
        list(train_steps(field, signals.split(2)[0], dataclasses.replace(QUICK, kernel="compile")))


def test_an_overflow_in_half_precision_skips_the_step_without_clipping_too(signals, monkeypatch):
    monkeypatch.setattr(torch.nn.functional, "mse_loss", lambda a, b: (a - b).square().mean() * 1e38)
    model = lainr(signals)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = TrainConfig(steps=1, batch=4, points=64, warmup=0, ema=0.0, device="cpu", precision="fp16", clip=0.0)
    next(train_steps(model, signals.split(2)[0], config))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_codes_are_quantised_within_half_a_step():
    values = torch.randn(20, 7) * torch.arange(1, 8)
    for bits in range(1, 9):
        codes, scales = pack(values, bits)
        assert codes.numel() == -(-values.numel() * bits // 8)
        assert ((unpack(codes, scales, values.shape, bits) - values).abs() <= scales[1] / 2 + 1e-5).all()
    with pytest.raises(InrError):
        pack(values, 9)


def test_shared_latents_need_their_model(signals, tmp_path):
    model = lainr(signals).eval()
    with torch.no_grad():
        field = model.field(model.encode([signals[0]]), signals[0].spec)
    path = archive.save(field, tmp_path / "shared.safetensors", share=8)
    whole = archive.save(field, tmp_path / "whole.safetensors")
    weights = archive.save(model, tmp_path / "model.safetensors")
    other = archive.save(lainr(signals, seed=1), tmp_path / "other.safetensors")
    assert path.stat().st_size < whole.stat().st_size / 3
    assert archive.header(path)["parameters"] == 8 * 16
    with pytest.raises(InrError, match="give the model"):
        archive.open(path)
    with pytest.raises(InrError, match="another model"):
        archive.open(path, model=other)
    with pytest.raises(InrError, match="no generalizable model"):
        archive.open(path, model=whole)
    coords = torch.rand(50, 2) * 2 - 1
    opened = archive.open(path, model=weights)
    with torch.no_grad():
        assert isinstance(opened, BoundField) and (opened(coords) - field(coords)).abs().max() < 0.05
        assert torch.equal(archive.open(path, model=model)(coords), opened(coords))
    damaged = bytearray(path.read_bytes())
    damaged[-1:] = b""
    (tmp_path / "cut.safetensors").write_bytes(damaged)
    with pytest.raises(InrError, match="truncated"):
        archive.open(tmp_path / "cut.safetensors", model=weights)


def test_token_maps_are_those_of_tokens_replaced_by_zero(signals):
    model = lainr(signals).eval()
    with torch.no_grad():
        field = model.field(model.encode([signals[0]]), signals[0].spec)
        coords = torch.rand(40, 2) * 2 - 1
        maps = token_maps(field, coords, batch=3)
        base = field(coords)
        field.latents["tokens"][5] = 0
        change = (field(coords) - base).abs().mean(-1)
    assert maps.shape == (8, 40)
    assert torch.allclose(maps[5], change / change.max(), atol=1e-4)


def test_concentration_tells_a_spot_from_a_haze():
    assert concentration(torch.ones(4, 100)) == pytest.approx(0.1)
    spot = torch.zeros(4, 100)
    spot[:, :5] = 1
    assert concentration(spot) == pytest.approx(1.0)


def test_train_encode_and_look_from_the_command_line(inr, folder, tmp_path):
    status, out, err = inr("train", "lainr", folder, "-o", "run", *FLAGS, "--steps", 20, "--batch", 4, "--validation",
                           2, "--device", "cpu", "--cache", tmp_path / "cache", "--sheet", "--track", "tensorboard",
                           "--json")
    assert status == 0, err
    result = json.loads(out)
    assert result["steps"] == 20 and result["metrics"]["psnr"] > 5
    assert (tmp_path / "run" / "sheet.png").is_file() and any((tmp_path / "run" / "tensorboard").iterdir())
    status, out, err = inr("train", "lainr", folder, "-o", "run", "--cache", tmp_path / "cache")
    assert status == 1 and "--resume" in err
    status, out, err = inr("encode", "run", folder / "03.png", "-o", "one.safetensors", "--json")
    assert status == 0, err
    plain = json.loads(out)
    status, out, err = inr("encode", "run", folder / "03.png", "-o", "fine.safetensors", "--steps", 40, "--json")
    assert json.loads(out)["metrics"]["psnr"] > plain["metrics"]["psnr"]
    status, out, err = inr("eval", "one.safetensors", folder / "03.png", "--json")
    assert json.loads(out)["metrics"]["psnr"] == pytest.approx(plain["metrics"]["psnr"], abs=1e-4)
    status, out, err = inr("export", "one.safetensors", "out.png")
    assert status == 0 and Image.open(tmp_path / "out.png").size == (16, 16)
    status, out, err = inr("tokens", "one.safetensors", "tokens.png", "--json")
    assert json.loads(out)["tokens"] == 8 and (tmp_path / "tokens.png").is_file()
    status, out, err = inr("encode", "run", folder / "03.png", folder / "04.png", "-o", "many", "--share", "--bits", 6,
                           "--json")
    assert status == 0, err
    shared = json.loads(out)["encoded"][str(folder / "04.png")]
    assert shared["bytes"] < plain["bytes"] / 3 and shared["jpeg_bytes"] > 0
    assert len(list((tmp_path / "many").iterdir())) == 2
    status, out, err = inr("encode", "one.safetensors", folder / "03.png", "-o", "x.safetensors")
    assert status == 1 and "no generalizable model" in err
    status, out, err = inr("export", "run", "out.png")
    assert status == 1 and "inr encode" in err
    status, out, err = inr("train", "lainer", folder)
    assert status == 1 and "lainr" in err


def test_refined_latents_are_measured_as_refined_though_the_field_was_looked_at_before(signals):
    from inr_scenes.cli.encode import refine
    from inr_scenes.windows import encode

    field = encode(lainr(signals).eval(), signals[0])
    before = signals[0].metrics(field)["psnr"]
    refine(field, signals[0], 100, "latents", 3e-2, "cpu")
    assert signals[0].metrics(field)["psnr"] > before + 0.5


def test_a_crop_keeps_the_tokens_that_its_samples_need(signals, tmp_path):
    training, _ = signals.split(2)
    model = lainr(signals)
    for _ in train_steps(model, training, TrainConfig(steps=60, batch=8, points=0, lr=3e-3, warmup=5, device="cpu")):
        pass
    with torch.no_grad():
        field = model.field(model.encode([signals[0]]), signals[0].spec)
        field.latents["tokens"][3] = 50 * field.latents["tokens"][3].sign()     # far from every query, or near to all
    part = field.crop(((2, 6), (8, 12)))
    assert part.spec.shape == (4, 4) and 1 <= part.config.tokens <= 8
    coords = part.spec.coords(torch.arange(16))
    with torch.no_grad():
        assert (part(coords) - field(coords)).abs().max() <= 1 / 255
        left = field.crop(drop=[0, 5])
        assert torch.equal(left.latents["tokens"], field.latents["tokens"][[1, 2, 3, 4, 6, 7]])
        assert torch.equal(field.crop(keep=[2]).latents["tokens"], field.latents["tokens"][2:3])
    again = archive.open(archive.save(left, tmp_path / "left.safetensors"))
    with torch.no_grad():
        assert torch.equal(again(coords), left(coords))
    shared = archive.open(archive.save(left, tmp_path / "shared.safetensors", share=8), model=model)
    assert shared.config.tokens == 6
    for wrong in ({"keep": [8]}, {"drop": range(8)}):
        with pytest.raises(InrError, match="0 to 7"):
            field.crop(**wrong)
    ipc = {k: v for k, v in SMALL.items() if k not in ("token_features", "bandwidths", "query_bandwidth")}
    other = build_model(MODELS["ipc"], signals.spec, ipc)
    with torch.no_grad():
        bound = other.field(other.encode([signals[0]]), signals[0].spec)
    with pytest.raises(InrError, match="whole signal"):
        bound.crop(((2, 6), (8, 12)))


def test_a_token_that_no_sample_attends_to_is_not_needed(signals):
    from inr_scenes.generalizable import needed_tokens
    model = lainr(signals, decoder_heads=1)
    with torch.no_grad():
        field = model.field(model.encode([signals[0]]), signals[0].spec)
        attention = field.decoder.modulation
        attention.query.weight.zero_()
        attention.query.bias.copy_(torch.eye(32)[0] * 40)
        attention.key.weight.zero_()
        attention.key.weight[0, 0] = 1
        field.latents["tokens"][:, 0] = torch.tensor([0.0, 0, 9, 0, 0, 9, 0, 0])    # all weight goes to tokens 2 and 5
    assert needed_tokens(field, field.spec) == [2, 5]


def test_crop_of_encoded_archives_from_the_command_line(inr, run, folder, tmp_path):
    assert inr("encode", run, folder / "03.png", "-o", "one.safetensors", "--share")[0] == 0
    status, _, err = inr("crop", "one.safetensors", "part.safetensors", "--box", 0, 0, 8, 16)
    assert status == 1 and "--model" in err
    status, out, err = inr("crop", "one.safetensors", "part.safetensors", "--box", 0, 0, 8, 16, "--model", run,
                           "--json")
    assert status == 0, err
    assert json.loads(out)["shape"] == [8, 16, 3]
    assert inr("export", "part.safetensors", "part.png", "--model", run)[0] == 0
    assert Image.open(tmp_path / "part.png").size == (16, 8)
    status, out, err = inr("crop", "one.safetensors", "few.safetensors", "--drop", 1, 2, 3, "--model", run, "--json")
    assert status == 0 and archive.header(tmp_path / "few.safetensors")["parameters"] == 5 * 16, err


@pytest.fixture
def run(folder, tmp_path, inr):
    status, _, err = inr("train", "lainr", folder, "-o", "run", *FLAGS, "--steps", 2, "--batch", 4, "--validation", 0,
                         "--device", "cpu", "--cache", tmp_path / "cache")
    assert status == 0, err
    return "run"


def test_a_finished_run_that_is_resumed_is_written_byte_for_byte_again(inr, folder, tmp_path):
    written = []
    for flags in (("lainr", folder, *FLAGS, "--steps", 3, "--batch", 4, "--device", "cpu", "--cache", "cache"),
                  ("--resume",)):
        status, _, err = inr("train", "-o", "run", *flags)
        assert status == 0, err
        written.append((tmp_path / "run" / "field.safetensors").read_bytes())
    assert written[0] == written[1]


def test_a_training_on_parts_repeats_by_its_config_and_goes_on_from_its_state(picture, inr, tmp_path):
    (tmp_path / "large").mkdir()
    for i in range(6):
        Image.fromarray(picture(i, 130 + i)).save(tmp_path / "large" / f"{i}.png")
    small = {name: value for name, value in SMALL.items() if name not in ("patch", "bandwidths", "query_bandwidth")}
    flags = [word for name, value in small.items() for word in (f"--{name.replace('_', '-')}", value)]
    first = ("lainr", "large", *flags, "--crop", 16, 16, "--steps", 2, "--batch", 4, "--validation", 1,
             "--device", "cpu", "--cache", "cache")
    heads = []
    for given in (("-o", "run", *first), ("-o", "again", "--config", "run/config.toml"),
                  ("-o", "run", "--resume", "--steps", 3)):
        status, _, err = inr("train", *given)
        assert status == 0 and "left out" not in err, err
        heads.append(archive.header(given[1]))
    assert [head["fit"]["signals"] for head in heads] == ["5"] * 3 and heads[2]["fit"]["step"] == 3
    assert heads[0]["config"] == heads[1]["config"] == heads[2]["config"] and heads[0]["metrics"] == heads[1]["metrics"]
    assert heads[0]["config"]["patch"] == 4 and heads[0]["config"]["bandwidths"] == [8, 2], "those of 16 pixels"
    (tmp_path / "wrong.toml").write_text('[fit]\ncrop = "large"\n')
    status, _, err = inr("train", "lainr", "large", "-o", "wrong", "--config", "wrong.toml")
    assert status == 1 and "crop = 'large' should be tuple" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("flags, message", [
    (["--tune", "none", "--steps", 1], "latents or all"), (["--tune", "all"], "--steps"), (["--lr", 0.1], "--steps"),
    (["--bits", 4], "--share"), (["--share", "--bits", 9], "1 to 8"), (["--steps", -1], "at least 0"),
    (["--share", "--tune", "all", "--steps", 1], "all"), (["--views", 1], "light fields")])
def test_encode_refuses_what_cannot_be_and_flags_without_effect(inr, run, folder, tmp_path, flags, message):
    status, _, err = inr("encode", run, folder / "03.png", "-o", "out/x.safetensors", *flags)
    assert status == 1 and message in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_one_bad_file_among_many_keeps_none_of_the_others_from_being_encoded(inr, run, folder, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    status, _, err = inr("encode", run, folder / "00.png", tmp_path / "bad.png", folder / "01.png", "-o", "many")
    assert status == 1 and "bad.png" in err and "other 2" in err and len(err.strip().splitlines()) == 1
    assert sorted(p.name for p in (tmp_path / "many").iterdir()) == ["00.safetensors", "01.safetensors"]


def test_a_picture_is_completed_from_the_pixels_that_are_known(picture, inr, run, folder, tmp_path):
    mask = np.zeros((16, 16), np.uint8)
    mask[::2] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    status, _, err = inr("train", "siren-hyper", folder, "-o", "hyper", "--hidden-features", 32, "--layers", 3,
                         "--steps", 300, "--lr", 1e-3, "--batch", 8, "--context", 100, "--validation", 1, "--device",
                         "cpu", "--cache", tmp_path / "cache", "--ema", 0)
    assert status == 0, err
    torn = picture(3)
    torn[1::2] = 0
    Image.fromarray(torn).save(tmp_path / "torn.png")
    status, out, err = inr("encode", "hyper", "torn.png", "--known", "mask.png", "-o", "whole.safetensors", "--steps",
                           50, "--json")
    assert status == 0, err
    metrics = json.loads(out)["metrics"]
    assert metrics["psnr_known"] > 20 > metrics["psnr"], "the torn rows are not what it was to reproduce"
    status, out, _ = inr("eval", "whole.safetensors", folder / "03.png", "--json")
    assert json.loads(out)["metrics"]["psnr"] > 18, "rows that nobody showed it"
    for model, message in ((run, "completes none"), ("hyper", "must agree")):
        Image.fromarray(mask[:8] if model == "hyper" else mask).save(tmp_path / "mask.png")
        status, _, err = inr("encode", model, "torn.png", "--known", "mask.png", "-o", "no.safetensors")
        assert status == 1 and message in err and not (tmp_path / "no.safetensors").exists()


def test_pixels_that_are_known_are_those_of_pictures(picture, inr, folder, tmp_path):
    from inr_scenes.generalizable import KnownSamples
    from inr_scenes.signals.image import ImageSignal
    from inr_scenes.testing import small_signal
    views = build_model(MODELS["lainr"], small_signal("lightfield").spec, SMALL)
    archive.save(views, tmp_path / "views.safetensors")
    status, _, err = inr("encode", "views.safetensors", folder, "--known", "mask.png", "-o", "x.safetensors")
    assert status == 1 and "--known is for pictures; these signals are of kind 'lightfield'" in err
    grey = KnownSamples(ImageSignal.from_array(picture(0)[..., :1]), torch.arange(9))
    with pytest.raises(InrError, match="Read it as those were: --size .*--mode"):
        build_model(MODELS["lainr"], ImageSignal.from_array(picture(0)).spec, SMALL).check_signals([grey])


def test_a_contact_sheet_that_cannot_be_is_a_note(inr, folder, tmp_path):
    status, _, err = inr("train", "lainr", folder, "-o", "run", *FLAGS, "--steps", 1, "--batch", 4, "--validation", 0,
                         "--device", "cpu", "--cache", tmp_path / "cache", "--sheet")
    assert status == 0 and "no contact sheet" in err and not (tmp_path / "run" / "sheet.png").exists()
    assert (tmp_path / "run" / "field.safetensors").is_file()


def test_an_archive_may_look_at_more_samples_than_it_has_weights(signals, tmp_path):
    changes = {"hidden_features": 8, "layers": 3, "inner_points": 65536}
    model = build_model(MODELS["learned-init"], signals.spec, changes)
    archive.save(model, tmp_path / "model.safetensors")
    assert archive.open(tmp_path / "model.safetensors").config.inner_points == 65536 > model.parameter_count


def test_options_that_a_model_has_not_are_refused_alike(signals):
    with pytest.raises(InrError, match="lainr has no option 'token'. Did you mean tokens"):
        build_model(MODELS["lainr"], signals.spec, {"token": 3})


def test_encode_names_what_does_not_suit_the_model(picture, inr, run, folder, tmp_path):
    Image.fromarray(picture(1)[..., 0]).save(tmp_path / "grey.png")
    Image.fromarray(picture(1)).convert("RGBA").save(tmp_path / "clear.png")
    (tmp_path / "empty.png").write_bytes(b"")
    for name, message in (("clear.png", "3 channels; clear has 4"), ("empty.png", "0 bytes"),
                          ("nothing.png", "not exist")):
        status, _, err = inr("encode", run, name, "-o", "out.safetensors")
        assert status == 1 and message in err and len(err.strip().splitlines()) == 1
    status, _, err = inr("encode", run, folder / "03.png", "nothing.png", "-o", "both")
    assert status == 1 and not (tmp_path / "both").exists(), "what is missing is said before anything is encoded"
    for flags in ((), ("--mode", "rgb"), ("--mode", "grey")):       # grey is three equal channels
        status, _, err = inr("encode", run, "grey.png", *flags, "-o", "out.safetensors", "--overwrite")
        assert status == 0, err
        assert inr("eval", "out.safetensors", "grey.png")[0] == 0


def test_settings_that_count_nothing_are_refused(inr, folder, tmp_path):
    for field, flags in (("lainr", ["--patch", 0]), ("lainr", ["--heads", 0]), ("transinr", ["--groups", 0]),
                         ("lfn", ["--encode-steps", 0]), ("lainr", ["--workers", -1])):
        status, _, err = inr("train", field, folder, "-o", "run", *flags, "--cache", tmp_path / "cache")
        assert status == 1 and flags[0] in err and "at least" in err and len(err.strip().splitlines()) == 1
        assert not (tmp_path / "run").exists()


def test_tokens_refuses_what_it_cannot_draw(inr, run, folder):
    assert inr("encode", run, folder / "03.png", "-o", "one.safetensors")[0] == 0
    for flags, message in ((["tokens.xyz"], ".png"), (["t.png", "--resolution", 0], "--resolution"),
                           (["t.png", "--view", 2], "--view")):
        status, _, err = inr("tokens", "one.safetensors", *flags)
        assert status == 1 and message in err and len(err.strip().splitlines()) == 1


def test_a_signal_is_where_the_field_is_before_it_is_refined(inr, run, folder, monkeypatch):
    from inr_scenes.cli import encode
    from inr_scenes.signal import GridSignal
    order = []
    monkeypatch.setattr(GridSignal, "to", lambda self, device: order.append("moved") or self)
    monkeypatch.setattr(encode, "refine", lambda *_: order.append("refined"))
    assert inr("encode", run, folder / "03.png", "-o", "one.safetensors", "--steps", 1)[0] == 0
    assert order[:2] == ["moved", "refined"]


def test_support_views_move_with_their_light_field():
    from inr_scenes.generalizable import SupportViews
    from inr_scenes.testing import small_signal
    signal = small_signal("lightfield")
    seen = SupportViews(signal, [1, 4])
    assert seen.to("meta") is seen and seen.index.device == seen.device == signal.device == torch.device("meta")


def test_few_shot_light_fields(tmp_path):
    from inr_scenes.generalizable import SupportViews
    from inr_scenes.testing import small_signal
    signal = small_signal("lightfield")
    config = {**SMALL, "patch": 8}
    model = build_model(MODELS["lainr"], signal.spec, config)
    seen = SupportViews(signal, [1, 4])
    index = torch.tensor([0, 24 * 20])
    rays, values = seen.sample(index)
    whole_rays, whole_values = signal.sample(torch.tensor([24 * 20, 4 * 24 * 20]))
    assert torch.equal(rays, whole_rays) and torch.equal(values, whole_values)
    guess, truth = predict(model.eval(), seen, SupportViews(signal, [0]))
    assert guess.shape == truth.shape == (480, 3)
    with pytest.raises(InrError, match="0 to 5"):
        SupportViews(signal, [6])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = Validation([signal], views=2).metrics(model)["psnr"]
        chosen = Validation([signal], views=[5, 2], asked=[1]).metrics(model)["psnr"]
    for found, (shown, asked) in ((before, ([0, 3], [1, 2, 4, 5])), (chosen, ([5, 2], [1]))):
        guess, truth = predict(model, SupportViews(signal, shown), SupportViews(signal, asked))
        assert found == pytest.approx(-10 * math.log10(float((guess - truth).square().mean()) / 4), abs=1e-3)

    class Alone(list):
        spec = signal.spec

    config = TrainConfig(steps=60, batch=1, points=256, lr=3e-3, warmup=5, ema=0.0, views=(1, 3), device="cpu")
    list(train_steps(model, Alone([signal]), config))
    assert Validation([signal], views=2).metrics(model)["psnr"] > before + 6, "views that nobody showed it"


def test_a_light_field_of_one_view_cannot_be_held_out():
    from inr_scenes.generalizable import SupportViews
    from inr_scenes.testing import small_signal
    with pytest.raises(InrError, match="one view.*--validation 0"):
        Validation([SupportViews(small_signal("lightfield"), [2])])
    Validation([SupportViews(small_signal("lightfield"), [2, 3])])
