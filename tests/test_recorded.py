"""Steps recorded and replayed: on a GPU as CUDA graphs, here by a tape of torch's operations."""

import importlib
import warnings

import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from inr_scenes import muon
from inr_scenes.errors import SetAside
from inr_scenes.field import build
from inr_scenes.fit import FitConfig, steps
from inr_scenes.kernels import dispatch, products
from inr_scenes.kernels.recorded import Recorded
from inr_scenes.plugins import find_field
from inr_scenes.siren import Siren
from inr_scenes.testing import small_signal

fit_module = importlib.import_module("inr_scenes.fit")      # the package's own `fit` is the function
SMALL = {"hidden_features": 32, "hidden_layers": 2}


class Tape(TorchDispatchMode):
    """A CUDA graph's stand-in: every operation again on the memory it was done on, nothing else of Python again.

    Recording does the work, as that of a GPU does not, so the first replay is left out.
    """

    def __init__(self):
        super().__init__()
        self.operations, self.replays = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "lift_fresh"):
            raise RuntimeError(f"{function} waits for the device, or copies numbers of the host to it")
        out = function(*args, **(kwargs or {}))
        self.operations.append((function, args, kwargs or {}, out))
        return out

    def warm(self, work):
        return work()

    def record(self, work):
        with self:
            return work()

    @torch.no_grad()
    def replay(self):
        self.replays += 1
        if self.replays == 1:
            return
        for function, args, kwargs, out in self.operations:
            again = function(*args, **kwargs)
            for old, new in zip(pytree.tree_leaves(out), pytree.tree_leaves(again)):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@pytest.fixture
def tapes(monkeypatch):
    """Fits are recorded on tapes, which are listed, until `plainly`, without kernels and oneDNN: no tape hears them."""
    made = []
    monkeypatch.setattr(fit_module, "recordable", lambda device: True)
    monkeypatch.setattr(fit_module, "Graph", lambda device: made.append(Tape()) or made[-1])
    monkeypatch.setattr(dispatch, "serves", lambda *a, **k: False)
    monkeypatch.setattr(muon, "_fused_serves", lambda *_: False)
    monkeypatch.setattr(products, "available", lambda: False)
    return made


def plainly(monkeypatch):
    """Let steps be taken one by one, by optimisers that are ready to be recorded: their rates are float32."""
    monkeypatch.setattr(fit_module, "Recorded", lambda work, make, forget: work)


def fitted(field, signal, **changes):
    """Return the losses and the weights of a fit."""
    config = FitConfig(**{"steps": 25, "lr": 2e-3, "batch": 64, "warmup": 5, "device": "cpu", **changes})
    losses = [float(step.loss) for step in steps(field, signal, config)]
    return losses, [p.detach().clone() for p in field.parameters()]


def same(recorded, plain):
    """Compare losses and weights, bit for bit."""
    assert recorded[0] == plain[0] and len(set(plain[0])) > 20
    assert all(torch.equal(a, b) for a, b in zip(recorded[1], plain[1]))


@pytest.mark.parametrize("kind", ["image", "shape", "lightfield"])
@pytest.mark.parametrize("changes", [{"optimizer": "adam", "sampling": "error"}, {"optimizer": "muon", "batch": 0},
                                     {"optimizer": "muon", "weight_decay": 0.1, "precision": "bf16"},
                                     {"optimizer": "adamw", "sampling": "uniform", "clip": 0.1, "focus": 0.5}])
def test_a_recorded_fit_is_the_plain_one(kind, changes, tapes, monkeypatch):
    signal = small_signal(kind)
    recorded = fitted(build(Siren, signal.spec, SMALL, seed=0), signal, **changes)
    assert tapes[0].replays == 21                           # all steps but those it warms up with
    plainly(monkeypatch)
    same(recorded, fitted(build(Siren, signal.spec, SMALL, seed=0), signal, **changes))
    assert len(tapes) == 1


def test_points_that_lie_in_any_block_are_recorded(tapes, monkeypatch):
    partitioned = importlib.import_module("inr_local_global.partitioned")
    real = partitioned.Tiles
    monkeypatch.setattr(partitioned, "Tiles", lambda slots, _: real(slots, 8))
    monkeypatch.setattr(importlib.import_module("inr_local_global.fused").choice, "serves", lambda *a, **k: False)
    signal, config = small_signal("shape"), {"partitions": (2, 2, 2), "local_features": 8, "occupied_only": False}
    changes = {"optimizer": "muon", "batch": 200, "focus": 0.75}
    recorded = fitted(build(find_field("lg-siren"), signal.spec, config, seed=0), signal, **changes)
    assert tapes[0].replays == 21
    plainly(monkeypatch)
    same(recorded, fitted(build(find_field("lg-siren"), signal.spec, config, seed=0), signal, **changes))


@pytest.mark.parametrize("name", ["lg-siren", "siren-per-partition", "fourier-mlp", "incode", "lg-incode"])
def test_fields_of_plugins_are_recorded(name, tapes, monkeypatch):
    fused = importlib.import_module("inr_local_global.fused")
    monkeypatch.setattr(fused.choice, "serves", lambda *a, **k: False)
    signal, cls = small_signal("image"), find_field(name)
    changes = {"optimizer": "muon", "batch": 200}
    config = {} if name in ("fourier-mlp", "incode") else {"partitions": (3, 2), "local_features": 8}
    recorded = fitted(build(cls, signal.spec, config, seed=0), signal, **changes)
    assert tapes[0].replays == 21
    plainly(monkeypatch)
    same(recorded, fitted(build(cls, signal.spec, config, seed=0), signal, **changes))


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_recorded_fit_goes_on_from_its_state(elsewhere, tapes, monkeypatch):
    signal = small_signal("image")
    whole = fitted(build(Siren, signal.spec, SMALL, seed=0), signal)[1]
    config = FitConfig(steps=25, lr=2e-3, batch=64, warmup=5, device="cpu")
    half = steps(build(Siren, signal.spec, SMALL, seed=0), signal, config)
    state = next(step for step in half if step.step == 12).state()
    assert all(isinstance(group["lr"], float) for part in state["optimizers"] for group in part["param_groups"])
    if elsewhere:                                           # on a device that records nothing
        monkeypatch.setattr(fit_module, "recordable", lambda device: False)
    field = build(Siren, signal.spec, SMALL, seed=1)
    for _ in steps(field, signal, config, resume=state):
        pass
    for mine, true in zip(field.parameters(), whole):
        torch.testing.assert_close(mine, true, rtol=1e-4 * elsewhere, atol=1e-6 * elsewhere)


def test_what_cannot_be_recorded_is_set_aside_and_fits_all_the_same(tapes, monkeypatch):
    class Asking(Siren):
        name = "asking"

        def forward(self, coords):
            return super().forward(coords) * (1.0 if coords.sum().item() < 1e9 else 0.0)

    signal = small_signal("image")
    with pytest.warns(SetAside, match="Steps are not recorded"):
        mine = fitted(build(Asking, signal.spec, SMALL, seed=0), signal)
    plainly(monkeypatch)
    same(mine, fitted(build(Asking, signal.spec, SMALL, seed=0), signal))
    assert tapes[0].replays == 0


def test_a_recording_broken_off_in_the_backward_leaves_nothing(tapes, monkeypatch):
    class Late(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * (1.0 if gradient.sum().item() < 1e9 else 0.0)

    class Asking(Siren):
        name = "asking"

        def forward(self, coords):
            first = self.layers[0](coords)                  # the output's gradients are there before this one asks
            return self.output(self.layers[1](Late.apply(first)))

    signal = small_signal("image")
    with pytest.warns(SetAside):
        mine = fitted(build(Asking, signal.spec, SMALL, seed=0), signal)
    plainly(monkeypatch)
    same(mine, fitted(build(Asking, signal.spec, SMALL, seed=0), signal))


def test_parts_of_another_shape_are_worked_on_plainly():
    seen = []
    step = Recorded(lambda parts: seen.append(1) or sum(x.sum() * share for x, share in parts), Tape, lambda: None)
    odd, even = [(torch.arange(3.0), 1.0)], [(torch.arange(4.0), 1.0)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [float(step([(even[0][0] + i, 1.0)])) for i in range(8)]
        assert found == [6.0 + 4 * i for i in range(8)] and len(seen) == 5
        assert float(step(odd)) == 3.0 and len(seen) == 6
        assert float(step([(even[0][0], 0.5)])) == 3.0 and len(seen) == 7       # a share is no tensor
        first, second = step(even), step([(even[0][0] + 1, 1.0)])
        assert (float(first), float(second)) == (6.0, 10.0) and len(seen) == 7


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", ["siren", "lg-siren", "siren-per-partition", "fourier-mlp"])
@pytest.mark.parametrize("changes", [{"optimizer": "adam"}, {"optimizer": "muon", "clip": 0.1},
                                     {"optimizer": "adam", "precision": "fp16"}, {"precision": "fp16", "batch": 0}])
def test_a_gpus_recorded_fit_is_the_plain_one(name, changes):
    signal, cls = small_signal("image"), find_field(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SetAside)
        losses = [fitted(build(cls, signal.spec, {}, seed=0), signal, **{"batch": 200, **changes}, device="cuda",
                         kernel=kernel)[0] for kernel in ("auto", "torch")]
    for mine, plain in zip(*losses):
        assert mine == pytest.approx(plain, rel=0.1)
