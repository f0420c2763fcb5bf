import copy
import importlib
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from inr_scenes import device
from inr_scenes.device import ROWS
from inr_scenes.errors import InrError
from inr_scenes.field import build
from inr_scenes.fit import FitConfig, fit, steps
from inr_scenes.guard import Diverged, Guard
from inr_scenes.kernels.choice import choose
from inr_scenes.optim import Optimizers, rate, split_parameters
from inr_scenes.plugins import find_problem
from inr_scenes.sampler import CELL, Sampler
from inr_scenes.signals.image import ImageSignal
from inr_scenes.siren import Siren
from inr_scenes.testing import small_signal

fit_module = importlib.import_module("inr_scenes.fit")      # the package's own `fit` is the function
SMALL = {"hidden_features": 32, "hidden_layers": 1}


@pytest.fixture
def signal():
    return small_signal("image")


def new(signal, seed=0):
    return build(Siren, signal.spec, SMALL, seed=seed)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "muon", "schedule-free"])
@pytest.mark.parametrize("precision", ["32", "bf16", "fp16", "auto"])
def test_every_optimizer_learns(signal, optimizer, precision):
    before = signal.metrics(new(signal))["psnr"]
    result = fit(new(signal), signal, FitConfig(steps=150, lr=5e-3, optimizer=optimizer, precision=precision))
    assert result.metrics["psnr"] > before + 12
    assert result.steps == 150


@pytest.mark.parametrize("half, seen", [(None, torch.float32), (torch.bfloat16, torch.bfloat16)])
def test_precision_auto_is_what_the_device_is_quick_at(signal, half, seen, monkeypatch):
    monkeypatch.setattr(device, "quick_half", lambda device: half)
    field, found = new(signal), set()
    field.layers[-1].register_forward_hook(lambda layer, given, out: found.add(out.dtype) if layer.training else None)
    fit(field, signal, FitConfig(steps=3, lr=1e-3, precision="auto", kernel="torch"))
    assert found == {seen}


def test_only_mps_has_no_float64():
    for kind, dtype in (("mps", torch.float32), ("cpu", torch.float64), ("cuda", torch.float64)):
        assert device.wide(SimpleNamespace(device=SimpleNamespace(type=kind), to=lambda dtype: dtype)) is dtype


def test_muon_takes_hidden_matrices_and_no_biases(signal):
    field = build(Siren, signal.spec, {"hidden_features": 32, "hidden_layers": 2}, seed=0)
    shapes = {"blocks_bias": (20, 32), "blocks_weight": (20, 8, 8), "coords_weight": (20, 2, 8), "tokens": (8, 8, 32)}
    for name, shape in shapes.items():
        field.register_parameter(name, torch.nn.Parameter(torch.zeros(shape)))
    matrices, rest = split_parameters(field)
    chosen = {id(p) for p in matrices}
    names = {name for name, p in field.named_parameters() if id(p) in chosen}
    assert names == {"layers.1.linear.weight", "layers.2.linear.weight", "blocks_weight"} and len(rest) == 9
    field.rates = lambda: {field.layers[1].linear.weight: 0.5}
    groups = Optimizers(field, "muon", 1e-2, 0.0, 0).made[1].param_groups
    assert sorted(group["factor"] for group in groups) == [0.5, 1.0]


def test_schedule_free_shows_its_average_wherever_it_stops(signal):
    field = new(signal)
    for step in steps(field, signal, FitConfig(steps=60, lr=1e-2, optimizer="schedule-free")):
        if step.step == 40:
            training = [p.detach().clone() for p in field.parameters()]
            with step.averaged():
                assert not all(torch.equal(a, b) for a, b in zip(training, field.parameters()))
            assert all(torch.equal(a, b) for a, b in zip(training, field.parameters()))


def test_a_state_that_blows_up_is_not_the_good_one(signal):
    field = new(signal)
    guard = Guard(field)
    guard.check(torch.tensor(0.1), 25)
    guard.check(torch.tensor(0.1), 50)
    good = guard.state["output.bias"].clone()
    with torch.no_grad():
        field.output.bias.fill_(1e9)                        # what the update after step 75's loss did
    guard.check(torch.tensor(0.1), 75)
    with pytest.raises(Diverged, match="Step 50 was kept"):
        guard.check(torch.tensor(1e9), 100)
    assert torch.equal(field.output.bias, good)


def test_a_loss_that_falls_back_and_stays_is_divergence(signal):
    """What Local-Global fields did at too high a rate: the loss returned to that of a constant, and no higher."""
    field, step = new(signal), 0
    guard = Guard(field)
    for step in range(25, 1001, 25):
        guard.check(torch.tensor(0.001), step)
    good = guard.lowest_state["output.bias"].clone()
    with torch.no_grad():
        field.output.bias.fill_(1.0)
    with pytest.raises(Diverged, match="rose from 0.001 to 0.05 and stayed there"):
        for step in range(1025, 2001, 25):
            guard.check(torch.tensor(0.05), step)
    assert step == 1000 + 25 * guard.LOOKS
    assert torch.equal(field.output.bias, good)


def test_a_noisy_loss_is_no_divergence(signal, recwarn):
    guard = Guard(new(signal))
    for look in range(200):
        guard.check(torch.tensor(0.5 if look % 15 else 0.001), 25 * look + 25)
    assert not recwarn


def test_a_loss_that_stays_above_what_it_was_is_said(signal):
    guard = Guard(new(signal))
    for look in range(10):
        guard.check(torch.tensor(0.016), 25 * look + 25)
    with pytest.warns(UserWarning, match=r"over 2 times what it was at step \d+: a lower --lr"):
        for look in range(10, 40):
            guard.check(torch.tensor(0.039), 25 * look + 25)


def test_clipping_bounds_a_step(signal):
    """Adam does not feel a gradient's length, but for its epsilon: a tiny one hardly moves the weights."""
    moved = {}
    for clip in (0.0, 1e-12):
        field = new(signal)
        before = field.layers[1].linear.weight.detach().clone()
        fit(field, signal, FitConfig(steps=10, lr=1e-3, optimizer="adam", clip=clip))
        moved[clip] = (field.layers[1].linear.weight.detach() - before).abs().mean()
    assert moved[1e-12] < 0.01 * moved[0.0]


def test_rates_of_the_schedules():
    assert [rate("cosine", p, 100, 0) for p in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.5, 0.0])
    assert [rate("exponential", p, 100, 0, 0.01) for p in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.1, 0.01])
    assert [rate("constant", 0.0, step, 3) for step in (0, 1, 3, 9)] == pytest.approx([0.25, 0.5, 1.0, 1.0])


def test_uniform_sampling_draws_with_replacement(signal):
    sampler = Sampler(signal, FitConfig(steps=1, batch=len(signal), sampling="uniform"), torch.device("cpu"))
    drawn = sampler.draw(0)
    assert 0.5 < len(drawn.unique()) / len(signal) < 0.75                   # 1 - 1/e of them


def test_until_stops_early(signal):
    result = fit(new(signal), signal, FitConfig(steps=100_000, seconds=60, lr=5e-3, until="psnr=25"))
    assert result.metrics["psnr"] >= 25
    assert result.seconds < 30


def test_seconds_end_a_fit(signal):
    result = fit(new(signal), signal, seconds=0.5)
    assert 0.4 < result.seconds < 2


def test_seed_repeats_exactly(signal):
    a = fit(new(signal), signal, FitConfig(steps=40, batch=100)).field
    b = fit(new(signal), signal, FitConfig(steps=40, batch=100)).field
    c = fit(new(signal), signal, FitConfig(steps=40, batch=100, seed=1)).field
    for p, q, r in zip(a.parameters(), b.parameters(), c.parameters()):
        assert torch.equal(p, q) and not torch.equal(p, r)


@pytest.mark.parametrize("changes", [{"optimizer": "adam"}, {"optimizer": "muon", "sampling": "error"},
                                     {"optimizer": "schedule-free"}])
def test_resume_equals_uninterrupted(signal, changes, tmp_path):
    config = FitConfig(steps=60, batch=100, **changes)
    whole = fit(new(signal), signal, config).field
    for step in steps(new(signal), signal, config):
        if step.step == 23:
            torch.save(step.state(), tmp_path / "state.pt")
            break
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    field = new(signal, seed=9)
    for _ in steps(field, signal, config, resume=state):
        pass
    for p, q in zip(whole.parameters(), field.parameters()):
        assert torch.equal(p, q)


@pytest.mark.parametrize("end", [{"steps": 30}, {"steps": None, "seconds": 0.1}])
@pytest.mark.parametrize("optimizer", ["adam", "schedule-free"])
def test_resuming_a_finished_fit_changes_nothing(signal, optimizer, end):
    config, field, again = FitConfig(batch=100, optimizer=optimizer, **end), new(signal), new(signal, seed=9)
    *_, last = steps(field, signal, config)
    assert not list(steps(again, signal, config, resume=copy.deepcopy(last.state()))) and not again.training
    assert all(torch.equal(p, q) for p, q in zip(field.parameters(), again.parameters()))


def test_a_schedule_free_fit_is_left_at_its_average_where_it_is_told_to_end_earlier(signal):
    config, field = FitConfig(steps=30, batch=100, optimizer="schedule-free"), new(signal)
    for step in steps(field, signal, config):
        if step.step == 20:
            with step.averaged():
                average = [p.detach().clone() for p in field.parameters()]
            break
    list(steps(field, signal, replace(config, steps=10), resume=copy.deepcopy(step.state())))
    assert all(torch.equal(p, q) for p, q in zip(field.parameters(), average))


def test_a_schedule_free_fit_that_ended_can_go_on(signal):
    config = FitConfig(steps=10, batch=100, optimizer="schedule-free")
    *_, last = steps(new(signal), signal, config)
    *_, further = steps(new(signal), signal, replace(config, steps=40), resume=last.state())
    assert further.step == 40 and further.metrics["psnr"] > last.metrics["psnr"]


def test_divergence_keeps_the_last_good_state(signal):
    field = new(signal)
    with pytest.raises(Diverged, match="Lower --lr"):
        for _ in steps(field, signal, FitConfig(steps=500, lr=1e6, warmup=100, schedule="constant")):
            pass
    assert all(torch.isfinite(p).all() for p in field.parameters())
    assert math.isfinite(signal.metrics(field)["psnr"])


def test_permuted_sampling_sees_everything_once_an_epoch(signal):
    n = len(signal)
    sampler = Sampler(signal, FitConfig(batch=n // 4, sampling="permuted"), torch.device("cpu"))
    epoch = torch.cat([sampler.draw(step) for step in range(4)])
    assert torch.equal(epoch.sort().values, torch.arange(n))
    assert not torch.equal(epoch, torch.cat([sampler.draw(step) for step in range(4, 8)]))


def test_sampling_by_error_draws_what_is_wrong_and_still_comes_by_everything(signal):
    n = len(signal)
    sampler = Sampler(signal, FitConfig(batch=n // 8, sampling="error"), torch.device("cpu"))
    wrong = torch.arange(n) >= n // 2
    seen = torch.zeros(n)
    for step in range(40):
        index = sampler.draw(step)
        assert len(index.unique()) == n // 8            # none twice
        seen[index] += 1
        sampler.note(torch.where(wrong[index], 1.0, 1e-3))
    assert seen[wrong].sum() > 0.8 * seen.sum() and (seen > 0).float().mean() > 0.6
    assert (sampler.errors[:n // 2 // CELL] < 0.3).all() and (sampler.errors[-n // 2 // CELL:] == 1).all()


def test_sampling_by_error_reaches_further():
    x, y = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    corner = torch.sin(40 * x) * torch.sin(40 * y) * ((x > 0.4) & (y > 0.4))       # all that is to be learned
    signal = ImageSignal.from_array((0.5 + 0.45 * corner)[..., None].numpy())
    found = {}
    for sampling in ("permuted", "error"):
        field = build(Siren, signal.spec, {"hidden_features": 48, "hidden_layers": 2}, seed=0)
        config = FitConfig(steps=250, lr=1e-3, batch=256, sampling=sampling, device="cpu")
        found[sampling] = fit(field, signal, config).metrics["psnr"]
    assert found["error"] > found["permuted"] + 1


def test_sampling_by_error_needs_plain_values():
    problem = find_problem("helmholtz").wrap(None)
    field = build(Siren, problem.spec, SMALL, seed=0)
    with pytest.raises(InrError, match="--sampling permuted"):
        fit(field, problem, FitConfig(steps=2, batch=64, sampling="error", device="cpu"))


def test_a_field_that_draws_in_its_own_way_cannot_be_sampled_by_error(signal):
    class Own(Siren):
        def draw(self, signal, sampler, step):
            yield *signal.sample(torch.arange(50)), 1.0

    field = build(Own, signal.spec, SMALL, seed=0)
    with pytest.raises(InrError, match="in its own way"):
        fit(field, signal, FitConfig(steps=2, batch=50, sampling="error", device="cpu"))


def test_focus_takes_its_share(signal):
    signal.focus = torch.tensor([5, 6])
    sampler = Sampler(signal, FitConfig(batch=100, focus=0.5), torch.device("cpu"))
    index = sampler.draw(0)
    assert len(index) == 100 and torch.isin(index, signal.focus).sum() >= 50


def test_accumulated_parts_equal_one_pass(signal, monkeypatch):
    whole = fit(new(signal), signal, FitConfig(steps=5, batch=0)).field
    monkeypatch.setitem(ROWS, "cpu", 100)
    parts = fit(new(signal), signal, FitConfig(steps=5, batch=0)).field
    for p, q in zip(whole.parameters(), parts.parameters()):
        assert torch.allclose(p, q, atol=1e-5)


@pytest.mark.parametrize("changes, message", [
    ({"precision": "16"}, "--precision"), ({"schedule": "cosin"}, "Did you mean cosine"),
    ({"sampling": "random"}, "--sampling"), ({"until": "psnr"}, "metric=value"), ({"lr": 0.0}, "--lr"),
    ({"steps": None}, "needs an end"), ({"device": "tpu9"}, "--device cpu"), ({"until": "iou=1"}, "reports psnr"),
    ({"optimizer": "adm"}, "Did you mean adam"), ({"wrong": 1}, "no option"),
])
def test_wrong_settings(signal, changes, message):
    with pytest.raises(InrError, match=message):
        fit(new(signal), signal, FitConfig(steps=60, lr=1e-3, seconds=None), **changes)


def test_coordinate_layer_stays_float32(signal):
    field = new(signal)
    with torch.autocast("cpu", dtype=torch.bfloat16), choose("torch"):
        first = field.layers[0](torch.rand(4, 2))
        rest = field(torch.rand(4, 2))
    assert first.dtype == torch.float32 and rest.dtype == torch.bfloat16


class Waits(TorchDispatchMode):
    """Refuses whatever would make the host wait for a GPU: numbers and shapes that depend on values."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"), name
        if name in ("index", "index_put_"):
            assert all(i is None or i.dtype is not torch.bool for i in args[1]), "a mask as an index"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["image", "audio", "video", "shape", "lightfield"])
@pytest.mark.parametrize("changes", [{"optimizer": "muon"}, {"sampling": "uniform", "clip": 1.0}, {"batch": 0}])
def test_no_step_waits_for_the_device(kind, changes, monkeypatch):
    signal = small_signal(kind)
    field = build(Siren, signal.spec, {**SMALL, "rays": "pluecker"}, seed=0)
    config = FitConfig(**{"steps": None, "seconds": 1e9, "batch": 64, "focus": 0.5, **changes})
    run = steps(field, signal, config)
    monkeypatch.setattr(fit_module.time, "perf_counter", lambda: 0.0)       # no look at the quality
    next(run)                                   # the first step looks at the loss
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: pytest.fail("tolist"))
    monkeypatch.setattr(torch.Tensor, "numpy", lambda self: pytest.fail("numpy"))
    with Waits():
        for _ in range(5):
            next(run)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("precision", ["32", "fp16"])
@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_no_step_waits_for_a_gpu(signal, precision, optimizer):
    run = steps(new(signal), signal, FitConfig(steps=1000, batch=64, precision=precision, optimizer=optimizer, clip=1.0,
                                               device="cuda"))
    for _ in range(3):                          # kernels are built and proved
        next(run)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(10):
            next(run)
    finally:
        torch.cuda.set_sync_debug_mode("default")
