import itertools

import numpy as np
import pytest
import torch
from inr_local_global.encoders import _small
from inr_local_global.incode import Incode, LgIncode
from inr_local_global.layers import Blocks, Tiles
from inr_local_global.siren import LgSiren, SirenPerPartition

from inr_scenes.archive import open as open_archive
from inr_scenes.archive import save
from inr_scenes.errors import InrError
from inr_scenes.field import build, decode_all
from inr_scenes.fit import FitConfig, fit, steps
from inr_scenes.muon import Muon
from inr_scenes.optim import Optimizers
from inr_scenes.plugins import find_problem
from inr_scenes.sampler import Sampler
from inr_scenes.signals.audio import AudioSignal
from inr_scenes.signals.image import ImageSignal
from inr_scenes.signals.shape import ShapeSignal
from inr_scenes.signals.video import VideoSignal
from inr_scenes.siren import Siren
from inr_scenes.spec import Axis, Spec
from inr_scenes.testing import check_field

trimesh = pytest.importorskip("trimesh")

FIELDS = (LgSiren, SirenPerPartition, LgIncode)
SMALL = {"local_features": 6, "first_omega_0": 10.0}
MERGES = ("shared", "levels", "add")


def make_spec(kind, shape, out=1):
    return Spec(kind, tuple(Axis.regular(n) for n in shape), len(shape), out)


def small(cls, spec, **config):
    extra = {} if cls is SirenPerPartition else {"global_features": 9}
    return build(cls, spec, {**SMALL, **extra, **config}, seed=0).eval()


def picture(height=30, width=42, channels=3):
    y, x = np.mgrid[:height, :width] / 20
    return ImageSignal.from_array(np.stack([0.5 + 0.4 * np.sin(2 * x + y + 2 * c) for c in range(channels)], -1))


@pytest.mark.parametrize("cls", [*FIELDS, Incode])
def test_conformance(cls):
    check_field(cls, {"hidden_features": 32} if cls is Incode else {"budget": 8000})


@pytest.mark.parametrize("cls", [LgSiren, LgIncode, Incode])
@pytest.mark.parametrize("name", ["superres", "denoise", "inpaint", "ct", "poisson", "sdf", "helmholtz", "wave"])
def test_every_problem_can_be_solved(cls, name):
    """Each problem goes through a fit of two steps and leaves a field of its unknown."""
    problem = find_problem(name)
    if name == "sdf":
        wrapped = problem.from_mesh(trimesh.creation.icosphere(1), problem.Options(samples=100))
    else:
        grey = name in ("ct", "poisson")
        wrapped = problem.wrap(picture(24, 24, 1 if grey else 3) if problem.kinds else None)
    recipe = wrapped.adapt(cls.suggest(wrapped, "fast"), cls, "fast")
    size = {"hidden_features": 16} if cls is Incode else {"budget": 8000}
    field = build(cls, wrapped.spec, {**recipe.config, **size}, seed=0)
    for step in steps(field, wrapped, FitConfig(**{**recipe.fit, "steps": 2, "seconds": None, "batch": 64})):
        assert torch.isfinite(step.loss)
    assert all(np.isfinite(value) for value in wrapped.probe(field).values())


def test_incode_solves_problems_with_scalars_that_suit_them():
    """Denoising as published, begun near zero and normalised; tomography begun as a SIREN."""
    for name, wanted in (("denoise", (0.0005, True)), ("ct", (0.0, False))):
        wrapped = find_problem(name).wrap(picture(24, 24, 1))
        recipe = wrapped.adapt(Incode.suggest(wrapped, "fast"), Incode, "fast")
        field = build(Incode, wrapped.spec, {**recipe.config, "hidden_features": 16}, seed=0)
        field.condition(wrapped)
        assert (field.config.aux_bias, field.config.aux_norm) == wanted
        assert any(isinstance(m, torch.nn.LayerNorm) for m in field.harmonizer.modules()) == wanted[1]
        assert field.scalars.abs().max() < 0.01


def test_a_volume_is_averaged_down_slice_by_slice():
    rng = np.random.default_rng(0)
    film = VideoSignal.from_array(rng.integers(0, 256, (70, 66, 90, 3), dtype=np.uint8), 24)
    whole = torch.nn.functional.adaptive_avg_pool3d(film.array().movedim(-1, 0)[None], 64)
    assert torch.allclose(_small(film), whole, atol=1e-6)


@pytest.mark.parametrize("merge", MERGES)
def test_batched_forward_equals_a_loop_over_blocks(merge):
    """The published equations, written out for one block at a time."""
    field = small(LgSiren, make_spec("image", (30, 40), 3), partitions=(3, 4), merge=merge)
    coords = torch.rand(500, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
    slots = field.locator(coords)
    expected = torch.empty(500, 3)
    with torch.no_grad():
        for k in slots.unique():
            x = coords[slots == k]
            local = shared = x
            for i in range(4):
                omega = 10.0 if i == 0 else 30.0
                shared = torch.sin(omega * field.shared[i].linear(shared))
                u = torch.sin(omega * (local @ field.local[i].weight[k] + field.local[i].bias[k]))
                if merge == "add":
                    local = u + torch.sin(30 * field.merging[i].linear(shared))
                else:
                    operator = field.merging[0 if merge == "shared" else i].linear
                    local = torch.sin(30 * operator(torch.cat([u, shared], -1)))
            expected[slots == k] = local @ field.local[4].weight[k] + field.local[4].bias[k]
        assert torch.allclose(field(coords), expected, atol=2e-6)


@pytest.mark.parametrize("cls", FIELDS)
def test_a_block_depends_on_its_own_weights_alone(cls):
    field = small(cls, make_spec("image", (30, 40)), partitions=(3, 4))
    coords = field.spec.coords(torch.arange(1200))
    with torch.no_grad():
        before = field(coords)
        for layer in field.local:
            layer.weight[5] += 0.1
            layer.bias[5] += 0.1
        after = field(coords)
    mine = field.locator(coords) == 5
    assert torch.equal(before[~mine], after[~mine])
    assert (before[mine] != after[mine]).all()


@pytest.mark.parametrize("cls", FIELDS)
def test_order_and_company_do_not_matter(cls):
    field = small(cls, make_spec("image", (30, 40)), partitions=(5, 3))
    coords = torch.rand(701, 2, generator=torch.Generator().manual_seed(2)) * 2.4 - 1.2
    order = torch.randperm(701, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        values = field(coords)
        assert torch.allclose(field(coords[order]), values[order], atol=5e-6)
        assert torch.allclose(torch.cat([field(c[None]) for c in coords[:50]]), values[:50], atol=5e-6)
        assert torch.equal(field(coords.reshape(1, 701, 1, 2)).reshape(701, 1), values)


@pytest.mark.parametrize("kind, shape, partitions", [
    ("audio", (17,), (1,)), ("audio", (17,), (17,)), ("audio", (1003,), (32,)), ("image", (1, 1), (1, 1)),
    ("image", (30, 20), (16, 16)), ("image", (7, 5), (7, 5)), ("video", (7, 16, 16), (5, 3, 1)),
    ("shape", (9, 10, 11), (2, 3, 4))])
def test_any_size_and_any_partition(kind, shape, partitions):
    spec = make_spec(kind, shape)
    field = small(LgSiren, spec, partitions=partitions)
    boxes = field.layout.boxes()
    seen = torch.zeros(shape, dtype=torch.long)
    for slot, box in enumerate(boxes):
        seen[tuple(slice(*ends) for ends in box)] += slot + 1
    sizes = [[high - low for low, high in itertools.pairwise(line)] for line in field.layout.borders]
    assert all(max(lengths) - min(lengths) <= 1 for lengths in sizes)
    slots = field.locator(spec.coords(torch.arange(spec.size)))
    assert torch.equal(slots.reshape(shape) + 1, seen)         # every sample is in one block, and it is found there
    assert decode_all(field).shape == (*shape, 1)


def test_points_beyond_the_ends_belong_to_the_nearest_block():
    field = small(LgSiren, make_spec("image", (30, 40)), partitions=(3, 4))
    assert field.locator(torch.tensor([[-9.0, 9.0], [9.0, 0.01], [0.0, -1.5]])).tolist() == [3, 10, 4]


@pytest.mark.parametrize("cls", FIELDS)
def test_gradients_reach_second_order(cls):
    field = small(cls, make_spec("image", (30, 40)), partitions=(3, 4)).double()
    coords = (torch.rand(9, 2, generator=torch.Generator().manual_seed(4)).double() * 2 - 1).requires_grad_()
    gradient, = torch.autograd.grad(field(coords).sum(), coords, create_graph=True)
    step = 1e-6 * torch.tensor([1.0, 0.0])
    with torch.no_grad():
        numeric = ((field(coords + step) - field(coords - step)) / 2e-6)[:, 0]
    assert torch.allclose(gradient[:, 0], numeric, atol=1e-5)
    second, = torch.autograd.grad(gradient[:, 0].sum(), coords)
    assert torch.isfinite(second).all() and second.abs().max() > 0


def test_blocks_fan_in_is_their_own():
    field = small(LgSiren, make_spec("image", (64, 64)), partitions=(8, 8), local_features=8)
    first, hidden, output = field.local[0], field.local[1], field.local[4]
    bound = (6 / 8) ** 0.5 / 30
    assert 0.49 < first.weight.abs().max() <= 0.5
    assert 0.98 * bound < hidden.weight.abs().max() <= bound and output.weight.abs().max() <= bound
    assert 0.98 / 8**0.5 < hidden.bias.abs().max() <= 1 / 8**0.5
    merge = field.merging[0].linear.weight
    assert merge.abs().max() <= (6 / (8 + 9)) ** 0.5 / 30


@pytest.mark.parametrize("shape, partitions, batch, overlap", [
    ((30, 42), (4, 5), 0, ()), ((30, 42), (4, 5), 400, ()), ((30, 42), (4, 5), 400, (2,)), ((30, 42), (30, 42), 0, ()),
    ((30, 42), (2, 2), 100_000, ())])
def test_a_batch_weighs_every_sample_alike(shape, partitions, batch, overlap):
    signal = picture(*shape)
    field = small(LgSiren, signal.spec, partitions=partitions, overlap=overlap)
    sampler = Sampler(signal, FitConfig(batch=batch), torch.device("cpu"))
    weight = torch.zeros(len(signal), dtype=torch.float64)
    steps = 200 if batch == 400 else 1
    for step in range(steps):
        total = 0.0
        for query, values, share in field.draw(signal, sampler, step):
            assert isinstance(query, Blocks) and query.coords[..., 0].numel() == len(values) <= sampler.micro
            if not overlap:
                slots = field.locator(query.coords.flatten(0, 1)).unflatten(0, query.coords.shape[:2])
                assert (slots == query.slots[:, None]).all()
            index = _indices(signal, query.coords.flatten(0, 1))
            assert torch.equal(signal.sample(index)[1], values)
            weight.index_add_(0, index, torch.full((len(index),), share / len(index), dtype=torch.float64))
            total += share
        assert total == pytest.approx(1)
    weight *= len(signal) / steps
    if batch == 0 or batch > len(signal):
        assert torch.allclose(weight, torch.ones_like(weight))
    else:
        assert weight.mean() == pytest.approx(1) and weight.std() < (0.6 if overlap else 0.25)


def test_uniform_sampling_draws_with_replacement_and_permuted_without():
    signal = picture(30, 40)
    field = small(LgSiren, signal.spec, partitions=(3, 4))
    repeated = {}
    for sampling in ("uniform", "permuted"):
        sampler = Sampler(signal, FitConfig(batch=600, sampling=sampling), torch.device("cpu"))
        drawn = [torch.cat([_indices(signal, q.coords.flatten(0, 1)) for q, _, _ in field.draw(signal, sampler, step)])
                 for step in (3, 3, 4)]
        assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
        repeated[sampling] = 1 - len(drawn[0].unique()) / len(drawn[0])
    assert repeated["permuted"] == 0 and 0.15 < repeated["uniform"] < 0.3      # half of each block: 1 - 2 (1 - e^-1/2)


def test_a_signal_that_moved_to_another_device_is_planned_anew():
    signal = picture(30, 40)
    field = small(LgSiren, signal.spec, partitions=(3, 4))
    plan = field._planned(signal)
    assert field._planned(signal) is plan
    assert field._planned(signal.to("meta")).groups[0].offsets.device.type == "meta"


def test_sampling_by_error_draws_what_is_wrong_within_every_block():
    signal = picture(30, 40)
    field = small(LgSiren, signal.spec, partitions=(3, 4))
    sampler = Sampler(signal, FitConfig(batch=240, sampling="error"), torch.device("cpu"))
    wrong = torch.arange(len(signal)) % 40 >= 35        # the ends of rows, in the last column of blocks
    seen = torch.zeros(len(signal))
    for step in range(30):
        parts = list(field.draw(signal, sampler, step))
        index = torch.cat([_indices(signal, q.coords.flatten(0, 1)) for q, _, _ in parts])
        assert torch.equal(index, torch.cat(sampler.drawn)) and len(index.unique()) == 240
        assert all(q.coords.shape[1] == 20 for q, _, _ in parts)
        seen[index] += 1
        sampler.note(torch.where(wrong[index], 1.0, 1e-3))
    last = torch.arange(len(signal)) % 40 >= 30
    assert seen[wrong].sum() > 0.6 * seen[last].sum() and seen[~last].sum() == pytest.approx(0.75 * seen.sum())
    assert (seen > 0).float().mean() > 0.9


def _indices(signal, coords):
    columns = [axis.index(coords[:, d]).round().long() - axis.first for d, axis in enumerate(signal.spec.axes)]
    return columns[0] * signal.spec.shape[1] + columns[1]


def test_overlap_trains_neighbours_too():
    signal = picture(30, 40)
    field = small(LgSiren, signal.spec, partitions=(3, 4), overlap=(2, 1))
    sampler = Sampler(signal, FitConfig(batch=0), torch.device("cpu"))
    (query, _, share), = field.draw(signal, sampler, 0)
    assert query.coords.shape == (12, 14 * 12, 2) and share == 1        # ends are shifted inwards: one size for all


@pytest.mark.parametrize("cls, extra", [(LgSiren, {}), (SirenPerPartition, {}), (LgIncode, {"aux_bias": 0.0})])
def test_learns_an_image_of_odd_size(cls, extra):
    signal = picture(31, 43)
    field = small(cls, signal.spec, partitions=(3, 4), local_features=16, **extra)
    result = fit(field, signal, FitConfig(steps=150, lr=4e-3, batch=600))
    assert result.metrics["psnr"] > 32
    assert abs(field.diagnose(signal)["psnr_seam"] - result.metrics["psnr"]) < 6


def test_shapes_have_networks_where_they_are():
    z, y, x = np.mgrid[:20, :20, :20]
    signal = ShapeSignal.from_array((z - 9.5) ** 2 + (y - 4) ** 2 + (x - 4) ** 2 < 14)
    field = build(LgSiren, signal.spec, {"partitions": (4, 4, 4), "budget": 20_000}, seed=0)
    before = field.parameter_count
    field.condition(signal)
    inside = signal.array()[..., 0].reshape(4, 5, 4, 5, 4, 5).amax((1, 3, 5)).flatten()
    assert field.layout.kept == tuple(torch.nonzero(inside).flatten().tolist())
    assert len(field.layout.kept) < 64
    assert before == pytest.approx(20_000, rel=0.03) and field.parameter_count == pytest.approx(20_000, rel=0.03)
    everything = decode_all(field)[..., 0].reshape(4, 5, 4, 5, 4, 5).movedim((2, 4), (1, 2)).reshape(64, -1)
    assert (everything[inside == 0] == 0).all() and (everything[inside == 1].std(1) > 0).all()
    result = fit(field, signal, FitConfig(steps=150, lr=2e-3, batch=2000, focus=0.3))
    assert result.metrics["iou"] > 0.95
    assert field.layout.kept == tuple(torch.nonzero(inside).flatten().tolist())


def test_shapes_keep_all_blocks_when_asked():
    signal = ShapeSignal.from_array(np.pad(np.ones((4, 4, 4), bool), ((1, 11),) * 3))
    field = build(LgSiren, signal.spec, {"partitions": (2, 2, 2), "budget": 9000, "occupied_only": False})
    field.condition(signal)
    assert field.layout.kept is None


def test_signed_distances_are_the_largest_where_no_network_is():
    x = np.mgrid[:16, :16, :16].astype(np.float32)
    distance = np.sqrt(((x - 4) ** 2).sum(0)) - 2.5
    signal = ShapeSignal.from_array(distance, quantity="sdf", truncation=0.2)
    field = build(LgSiren, signal.spec, {"partitions": (4, 4, 4), "budget": 9000}, seed=0)
    field.condition(signal)
    truncation = signal.spec.values.scale
    assert decode_all(field)[-1, -1, -1, 0] == pytest.approx(truncation)
    outside = (signal.array()[..., 0] == truncation).reshape(4, 4, 4, 4, 4, 4).all(5).all(3).all(1).flatten()
    assert field.layout.kept == tuple(torch.nonzero(~outside).flatten().tolist())


@pytest.mark.parametrize("cls", [LgIncode, Incode])
def test_incode_with_zero_scalars_is_siren(cls):
    spec = make_spec("image", (30, 40), 3)
    plain = small(LgSiren, spec, partitions=(3, 4)) if cls is LgIncode else build(Siren, spec, {"hidden_features": 12})
    shaped = small(cls, spec, partitions=(3, 4)) if cls is LgIncode else build(cls, spec, {"hidden_features": 12})
    weights = list(plain.state_dict().values())
    state = dict(zip([name for name in shaped.state_dict() if name != "constants"], weights, strict=True))
    shaped.load_state_dict({**state, "constants": torch.zeros(cls.sets, 4)})
    coords = torch.rand(300, 2) * 2 - 1
    with torch.no_grad():
        assert torch.allclose(shaped(coords), plain(coords), atol=1e-6)


@pytest.mark.parametrize("train_encoder", [False, True])
def test_harmonizer_trains_jointly_and_is_baked(tmp_path, train_encoder):
    signal = picture(24, 24)
    field = small(LgIncode, signal.spec, partitions=(2, 2), train_encoder=train_encoder)
    start = field.scalars.clone()
    assert torch.equal(start, torch.full((3, 4), 0.3120))
    fit(field, signal, FitConfig(steps=40, lr=2e-3, batch=0))
    assert (field.scalars - start).abs().max() > 0.01
    assert any(name.startswith("harmonizer.") for name in field.state_dict())
    baked = field.baked()
    assert not any(name.startswith("harmonizer.") for name in baked.state_dict())
    assert torch.allclose(decode_all(baked), decode_all(field), atol=1e-6)
    again = open_archive(save(field, tmp_path / "field.safetensors"))      # opens without the signal
    assert torch.equal(decode_all(again), decode_all(baked))
    again.condition(picture(10, 10))                                        # constants stay constants
    assert torch.equal(decode_all(again), decode_all(baked))


def test_penalty_is_incodes():
    signal = picture(24, 24)
    field = small(LgIncode, signal.spec, partitions=(2, 2))
    assert field.penalty() == 0.0
    field.condition(signal)
    with torch.no_grad():
        assert float(field.penalty()) == 0.0            # scalars start positive
        field.harmonizer.layers[-1].weight.zero_()
        field.harmonizer.layers[-1].bias.copy_(torch.tensor([-1.0, -2.0, -3.0, -4.0, 1, 1, 1, 1, 0, 0, 0, -1.0]))
        assert float(field.penalty()) == pytest.approx(0.1993 + 2 * 0.0196 + 3 * 0.0588 + 5 * 0.0269)


def test_harmonizer_has_the_published_size():
    field = build(Incode, picture().spec, {})
    field.condition(picture())
    assert sum(p.numel() for p in field.harmonizer.parameters()) == 6372
    assert sum(p.numel() for p in field.parameters()) == 198_915 + 6372


@pytest.mark.parametrize("signal, features", [
    (AudioSignal.from_array(np.sin(np.arange(5000) / 9), 8000), 50),
    (AudioSignal.from_array(np.sin(np.arange(100) / 9), 8000), 50),
    (ShapeSignal.from_array(np.pad(np.ones((4, 4, 4), bool), 3)), 128)])
def test_encoders_of_other_kinds(signal, features):
    field = build(Incode, signal.spec, {"hidden_features": 16})
    field.condition(signal)
    assert field.harmonizer.seen.shape == (features,) and torch.isfinite(field.harmonizer.seen).all()
    assert field.harmonizer.seen.std() > 0


@pytest.mark.parametrize("cls", [Incode, LgIncode])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 4)])
def test_encoders_of_the_smallest_pictures(cls, size):
    signal = picture(*size)
    field = build(cls, signal.spec, {"partitions": (1, 1), "budget": 9000} if cls is LgIncode else {})
    field.condition(signal)
    assert torch.isfinite(field.harmonizer.seen).all() and field.harmonizer.seen.std() > 0


def test_same_seed_same_shape_field():
    z, y, x = np.mgrid[:16, :16, :16]
    signal = ShapeSignal.from_array((z - 5) ** 2 + (y - 5) ** 2 + (x - 5) ** 2 < 9)
    states = []
    for _ in range(2):
        field = build(LgIncode, signal.spec, {"partitions": (4, 4, 4), "budget": 9000}, seed=3)
        torch.rand(3)                                   # what else draws random numbers must not matter
        field.condition(signal)
        states.append(field.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values()))


def test_an_empty_layout_is_refused():
    with pytest.raises(InrError, match="layout"):
        build(LgSiren, make_spec("image", (8, 8)),
              {"partitions": (2, 2), "borders": (0, 4, 8, 0, 4, 8), "kept": (), "budget": 9000})


def rates_of(field, part):
    return {field.rates().get(p, 1.0) for p in part.parameters()}


def test_blocks_learn_at_rates_of_their_own_but_not_as_published():
    signal = picture()
    widths = {"partitions": (2, 2), "local_features": 16, "global_features": 120}
    published = build(LgSiren, signal.spec, LgSiren.suggest(signal, "published").config | widths)
    assert rates_of(published, published) == {1.0}
    recipe = LgSiren.suggest(signal, "fast")
    field = build(LgSiren, signal.spec, recipe.config | widths)
    assert rates_of(field, field.local) == {4.0}                            # √(256 / 16)
    assert rates_of(field, field.shared) == rates_of(field, field.merging) == {1.0}
    halved = build(LgSiren, signal.spec, widths | {"local_rate": 0.5})
    assert rates_of(halved, halved.local) == {0.5}
    with pytest.raises(InrError, match="--local-rate 0"):
        build(LgSiren, signal.spec, {"local_rate": 0.0})
    made = Optimizers(field, recipe.fit["optimizer"], 1e-2, 0.0, 0).made
    groups = {id(p): (type(optimizer), group["lr"])
              for optimizer in made for group in optimizer.param_groups for p in group["params"]}
    assert groups.keys() == {id(p) for p in field.parameters()}
    adam, muon = torch.optim.Adam, Muon
    assert [groups[id(layer.weight)] for layer in field.local] == [(adam, 4e-2), *[(muon, 4e-2)] * 3, (adam, 4e-2)]
    assert all(groups[id(layer.bias)] == (adam, 4e-2) for layer in field.local)
    assert groups[id(field.shared[1].linear.weight)] == (muon, 1e-2)


def test_uneven_rates_slow_wide_layers_down():
    field = build(LgSiren, picture().spec, {"partitions": (2, 2), "local_features": 24, "global_features": 120,
                                            "even_rates": False})
    rates = field.rates()
    assert rates_of(field, field.local) == {0.5}
    assert rates[field.shared[1].linear.weight] == pytest.approx((96 / 120) ** 2)
    assert rates[field.shared[0].linear.weight] == 1.0


def test_muon_takes_the_matrices_of_blocks_one_by_one():
    torch.manual_seed(0)
    stack = torch.nn.Parameter(torch.randn(30, 12, 20))
    singles = [torch.nn.Parameter(matrix.clone()) for matrix in stack.detach()]
    gradient = torch.randn(30, 12, 20)
    stack.grad = gradient
    for single, its in zip(singles, gradient):
        single.grad = its
    Muon([stack], lr=1e-2).step()
    Muon(singles, lr=1e-2).step()
    assert torch.equal(stack.detach(), torch.stack([s.detach() for s in singles]))


@pytest.mark.parametrize("points", [1, 7, 500])
@pytest.mark.parametrize("among", [(0, 5), (-1, 5), (-1, 0), (3, 4)])
def test_tiles_that_wait_for_no_device_bring_every_point_back(points, among):
    slots = torch.randint(*among, (points,), generator=torch.Generator().manual_seed(points))
    coords, tiles = torch.rand(points, 2), Tiles(slots, 5)
    gathered = tiles.gather(coords)
    assert gathered.shape[:1] == tiles.slots.shape and tiles.slots.max() < 5
    values = (gathered + 10 * tiles.slots[:, None, None]).flatten(0, 1)
    expected = torch.where(slots[:, None] >= 0, coords + 10 * slots[:, None], -1.0)
    assert torch.equal(tiles.scatter(values, torch.tensor(-1.0)), expected)
    padded = tiles.index.numel() - points
    assert padded <= 5 * tiles.index.shape[1]
