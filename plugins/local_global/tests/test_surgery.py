import numpy as np
import pytest
import torch
from inr_local_global.incode import LgIncode
from inr_local_global.layers import GrownLinear
from inr_local_global.seams import seam
from inr_local_global.siren import LgSiren, SirenPerPartition

from inr_scenes.archive import header, save
from inr_scenes.archive import open as open_archive
from inr_scenes.errors import InrError
from inr_scenes.field import build, decode_all
from inr_scenes.fit import FitConfig, fit
from inr_scenes.regions import grown
from inr_scenes.signals.audio import AudioSignal
from inr_scenes.signals.image import ImageSignal
from inr_scenes.signals.shape import ShapeSignal
from inr_scenes.spec import Axis, Spec

FIELDS = (LgSiren, SirenPerPartition, LgIncode)


def make(cls=LgSiren, shape=(30, 42), partitions=(4, 5), seed=0, **config):
    kind = {1: "audio", 2: "image", 3: "video"}[len(shape)]
    spec = Spec(kind, tuple(Axis.regular(n) for n in shape), len(shape), 3, meta={"sample_rate": 100, "fps": 1})
    config = {"local_features": 6, "first_omega_0": 10.0, "partitions": partitions, **config}
    if cls is not SirenPerPartition:
        config["global_features"] = 9
    return build(cls, spec, config, seed=seed).eval()


def part_of(image, box):
    return image[tuple(slice(*ends) for ends in box)]


@pytest.mark.parametrize("cls", FIELDS)
@pytest.mark.parametrize("box", [((0, 30), (0, 42)), ((8, 23), (17, 25)), ((3, 4), (40, 42)), ((0, 7), (0, 42))])
def test_crop_is_exact(cls, box):
    field = make(cls)
    whole, small = decode_all(field), field.crop(box)
    assert small.spec.box == box and small.spec.shape == tuple(high - low for low, high in box)
    assert (decode_all(small) - part_of(whole, box)).abs().max() <= 1e-6
    inside = [k for k, block in enumerate(field.layout.boxes())
              if all(low < b and a < high for (low, high), (a, b) in zip(block, box))]
    for name, layer in small.local_linears().items():
        assert torch.equal(layer.weight, field.get_submodule(name).weight[inside])
    local = field.config.sizes(field.spec, 1).local(6)
    assert field.parameter_count - small.parameter_count == local * (20 - len(inside))


def test_crop_where_batches_agree_is_bit_exact():
    field = make()
    coords = field.crop(((8, 23), (17, 25))).spec.coords(torch.arange(15 * 8))
    with torch.no_grad():
        assert torch.equal(field.crop(((8, 23), (17, 25)))(coords), field(coords))


@pytest.mark.parametrize("shape, partitions, first, second", [
    ((30, 42), (4, 5), ((5, 28), (9, 40)), ((0, 20), (12, 42))), ((101,), (7,), ((13, 70),), ((40, 101),)),
    ((6, 12, 14), (2, 3, 2), ((1, 6), (0, 9), (3, 14)), ((0, 5), (2, 12), (0, 9)))])
def test_crop_twice_is_crop_to_the_intersection(tmp_path, shape, partitions, first, second):
    field = make(shape=shape, partitions=partitions)
    both = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(first, second))
    twice = field.crop(first).crop(second)
    once = field.crop(both)
    assert twice.spec == once.spec and twice.config == once.config
    assert all(torch.equal(a, b) for a, b in zip(twice.state_dict().values(), once.state_dict().values()))
    assert save(twice, tmp_path / "twice.safetensors").read_bytes() == \
        save(once, tmp_path / "once.safetensors").read_bytes()


def test_bytes_shrink_in_proportion(tmp_path):
    field = make(shape=(64, 64), partitions=(8, 8))
    sizes = field.config.sizes(field.spec, 1)
    for blocks in (64, 40, 7, 1):
        path = save(field.crop(keep=range(blocks)), tmp_path / "field.safetensors")
        parameters = blocks * sizes.local(6) + sizes.common(6, 9)
        start = int.from_bytes(path.read_bytes()[:8], "little") + 8
        assert path.stat().st_size == start + 4 * parameters
        assert header(path)["parameters"] == parameters


def test_a_crop_of_a_crop_is_an_archive_like_any(tmp_path):
    signal = _gradient(30, 42)
    field = make()
    fit(field, signal, FitConfig(steps=60, lr=4e-3, batch=0))
    path = save(field.crop(((5, 28), (9, 40))), tmp_path / "first.safetensors")
    path = save(open_archive(path).crop(((7, 20), (12, 30))), tmp_path / "second.safetensors")
    small = open_archive(path)
    assert torch.equal(small.spec.coords(torch.tensor([0])),
                       field.spec.coords(torch.tensor([7 * 42 + 12])))          # coordinates are the original's
    piece = ImageSignal(small.spec, signal.data.reshape(30, 42, 3)[7:20, 12:30].reshape(-1, 3), signal.gain)
    assert piece.metrics(small)["psnr"] == pytest.approx(piece.metrics(field)["psnr"], abs=1e-3)
    from inr_scenes.export import export
    assert export(small, tmp_path / "out.png").stat().st_size > 0
    from PIL import Image
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (18, 13)


def test_keep_and_drop_blocks():
    field = make()
    whole = decode_all(field)
    kept = field.crop(keep=[0, 1, 7])
    assert kept.spec.box == ((0, field.layout.borders[0][2]), (0, field.layout.borders[1][3]))
    image = decode_all(kept)
    for block in (0, 1, 7):
        box = field.layout.box_of(block)
        assert (part_of(image, box) - part_of(whole, box)).abs().max() <= 1e-6
    for block in (2, 5, 6):
        assert (part_of(image, field.layout.box_of(block)) == 0).all()
    rest = field.crop(drop=[0, 1, 7])
    assert rest.spec.box == field.spec.box and len(rest.layout.blocks) == 17
    assert (decode_all(make(fill=0.25).crop(drop=[7])) == 0.25).any()
    again = kept.crop(drop=[0])                                     # counted over what is left: 2 × 3 blocks
    assert again.layout.counts == (2, 2) and len(again.layout.blocks) == 2


def test_cropping_nothing_is_refused():
    field = make()
    for box in (((0, 0), (0, 42)), ((30, 40), (0, 42))):
        with pytest.raises(InrError, match="no sample"):
            field.crop(box)
    with pytest.raises(InrError, match="no block 20"):
        field.crop(drop=[20])
    with pytest.raises(InrError, match="No block would be left"):
        field.crop(drop=range(20))
    with pytest.raises(InrError, match="nothing to keep"):
        field.crop(drop=[0]).crop(((0, 3), (0, 4)))


@pytest.mark.parametrize("cls", FIELDS)
@pytest.mark.parametrize("start", ["neighbour", "fresh"])
@pytest.mark.parametrize("box", [((0, 30), (0, 61)), ((-9, 30), (0, 42)), ((-4, 40), (-3, 50))])
def test_extension_leaves_the_old_region_bit_identical(cls, start, box):
    field = make(cls).baked()
    old = decode_all(field)
    larger = field.spec.cropped(box)
    grown = field.extend(larger, start)
    assert field.config.local_rate == 1.0 and grown.config.local_rate is None      # as the fast recipe wants it
    signal = _gradient(*larger.shape, spec=larger)
    result = fit(grown, signal, FitConfig(steps=25, lr=4e-3, batch=0))
    whole = result.field.baked()
    assert not any(isinstance(layer, GrownLinear) for layer in whole.local_linears().values())
    assert whole.spec.box == box and whole.layout.box == box
    assert torch.equal(decode_all(whole, field.spec), old)
    assert whole.parameter_count == grown.parameter_count > field.parameter_count
    back = whole.crop(field.spec.box)
    assert back.layout == field.layout
    assert all(torch.equal(a, b) for a, b in zip(back.state_dict().values(), field.state_dict().values()))


def test_extension_learns_the_new_part_from_it_alone(tmp_path):
    signal = _gradient(30, 64)
    field = make(partitions=(2, 3), local_features=16)
    left = ImageSignal(field.spec, signal.data.reshape(30, 64, 3)[:, :42].reshape(-1, 3), signal.gain)
    fit(field, left, FitConfig(steps=100, lr=4e-3, batch=0))
    right = field.spec.cropped(((0, 30), (42, 64)))
    piece = ImageSignal(right, signal.data.reshape(30, 64, 3)[:, 42:].reshape(-1, 3), signal.gain)
    grown = field.extend(field.spec.cropped(((0, 30), (0, 64))))
    before = piece.metrics(grown)["psnr"]
    fit(grown, piece, FitConfig(steps=100, lr=1e-3, batch=0))      # times 4, their local rate
    assert piece.metrics(grown)["psnr"] > max(before + 5, 28)
    again = open_archive(save(grown, tmp_path / "field.safetensors"))
    assert torch.equal(decode_all(again), decode_all(grown.baked()))
    twice = again.extend(again.spec.cropped(((0, 30), (0, 70))))           # an extension can be extended
    assert again.layout.counts == (2, 5) and twice.layout.counts == (2, 6)


def test_extension_of_a_cropped_field_goes_on_where_the_samples_end():
    field = make(partitions=(3, 3)).crop(((0, 30), (0, 20)))                # cuts through the second column of blocks
    grown = field.extend(field.spec.cropped(((0, 30), (0, 34))))
    assert grown.layout.borders[1] == (0, 14, 20, 34)
    assert grown.training_slots() == [2, 5, 8]


def test_senseless_extensions_are_refused():
    field = make()
    with pytest.raises(InrError, match="cover all"):
        field.extend(field.spec.cropped(((0, 20), (0, 60))))
    with pytest.raises(InrError, match="adds no sample"):
        field.extend(field.spec)
    with pytest.raises(InrError, match="coordinates"):
        field.extend(make(shape=(60, 80)).spec)


@pytest.mark.parametrize("cls", FIELDS)
def test_joining_crops_gives_the_whole_back(cls):
    field = make(cls).baked()
    left, right = field.crop(((0, 30), (0, 23))), field.crop(((0, 30), (23, 42)))     # a block in both
    whole = left.joined(right)
    assert whole.spec == field.spec and whole.layout == field.layout
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), field.state_dict().values()))
    corners = field.crop(((0, 7), (0, 8))).joined(field.crop(((23, 30), (34, 42))))
    assert corners.spec.box == field.spec.box and len(corners.layout.blocks) == 2


def test_joining_extensions_of_one_archive():
    field = make()
    right = field.extend(field.spec.cropped(((0, 30), (0, 50)))).baked()
    below = field.extend(field.spec.cropped(((0, 36), (0, 42)))).baked()
    whole = right.joined(below)
    assert whole.spec.shape == (36, 50)
    assert torch.equal(decode_all(whole, right.spec), decode_all(right))
    assert torch.equal(decode_all(whole, below.spec), decode_all(below))


def test_a_crop_of_joined_extensions_is_found_in_the_whole():
    field = make()
    right, above = (field.extend(grown(field.spec, side, count)[0]).baked()
                    for side, count in (("right", 8), ("above", 6)))
    for whole in (right.joined(above), above.joined(right)):
        assert whole.spec.whole == ((-6, 30), (0, 50))
        crop = whole.crop(((-4, 20), (30, 48))).spec
        assert crop.part_of(make(shape=(36, 50)).spec) == (slice(2, 26), slice(30, 48))
    left, rest = field.crop(((0, 30), (0, 20))), field.crop(((0, 30), (20, 42)))
    assert "whole" not in left.joined(rest).spec.meta


def test_joining_strangers_is_refused():
    with pytest.raises(InrError, match="do not share one global network"):
        make(seed=0).joined(make(seed=1))
    with pytest.raises(InrError, match="siren-per-partition"):
        make().joined(make(SirenPerPartition))
    changed = make()
    with torch.no_grad():
        changed.local[0].weight += 1
    with pytest.raises(InrError, match="different networks for the same block"):
        make().joined(changed)


def test_decoding_a_region_computes_its_blocks_only(monkeypatch):
    field = make()
    seen = []
    inner = field.values
    monkeypatch.setattr(field, "values", lambda points: seen.extend(points.slots.tolist()) or inner(points))
    decode_all(field, field.spec.cropped(((0, 7), (0, 16))))
    assert set(seen) == {0, 1}


def test_seam_metric_sees_what_is_at_borders():
    signal = _gradient(32, 32)
    field = make(shape=(32, 32), partitions=(2, 2))

    class Off(torch.nn.Module):
        """The signal itself, but for an error of 0.1 in the two columns left of the middle."""

        layout = field.layout

        def forward(self, coords):
            y, x = ((coords + 1) / 2 * 32 - 0.5).round().long().unbind(-1)
            values = signal.sample(y * 32 + x)[1]
            return values + 0.2 * ((x == 14) | (x == 15))[:, None]

    found = seam(Off(), signal)
    assert found["psnr_elsewhere"] > 60                         # rounding alone
    at_seam = 32 * 32 - 28 * 28
    assert found["psnr_seam"] == pytest.approx(-10 * np.log10(0.1**2 * 64 / at_seam), abs=1e-3)
    assert seam(make(shape=(32, 32), partitions=(1, 1)), signal) == {}
    assert set(seam(make(shape=(4, 4), partitions=(2, 2)), _gradient(4, 4))) == {"psnr_seam"}   # no sample is elsewhere


def test_sound_is_cropped_in_its_own_samples():
    signal = AudioSignal.from_array(np.sin(np.arange(1000) / 7), 100)
    field = build(LgSiren, signal.spec, {"partitions": (7,), "local_features": 6, "global_features": 5}, seed=0)
    whole = decode_all(field)
    assert (decode_all(field.crop(((250, 610),))) - whole[250:610]).abs().max() <= 1e-6


def _gradient(height, width, spec=None):
    y, x = np.mgrid[:height, :width] / 20
    image = np.stack([0.5 + 0.4 * np.sin(2 * x + y + 2 * c) for c in range(3)], -1).astype(np.float32)
    signal = ImageSignal.from_array(image)
    return signal if spec is None else ImageSignal(spec, signal.data, signal.gain)


def test_a_shape_grows_where_it_is(tmp_path):
    voxels = np.zeros((8, 8, 24), bool)
    voxels[:, :, :8] = voxels[:4, :4, 8:14] = True
    whole = ShapeSignal.from_array(voxels)
    field = build(LgSiren, whole.spec.cropped(((0, 8), (0, 8), (0, 8))),
                  {"partitions": (2, 2, 2), "local_features": 6, "global_features": 16, "first_omega_0": 10.0}, seed=0)
    box = ((0, 8), (0, 8), (8, 24))
    part = ShapeSignal(whole.spec.cropped(box), whole.data.reshape(8, 8, 24)[:, :, 8:].reshape(-1, 1), whole.gain)
    grown = field.extend(whole.spec, "neighbour", part)
    assert grown.layout.total == 2 * 2 * 6 and len(grown.layout.blocks) == 8 + 2
    before = decode_all(field)
    fit(grown, part, FitConfig(steps=60, lr=2e-3, batch=500))
    after = decode_all(grown.baked().eval())
    assert torch.equal(after[:, :, :8], before) and not after[4:, :, 8:].any() and not after[:, :, 16:].any()
    assert part.metrics(grown.baked())["iou"] > 0.9
