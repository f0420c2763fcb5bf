import pytest
from inr_local_global.siren import LgSiren, SirenPerPartition
from inr_local_global.sizes import Sizes

from inr_scenes.errors import InrError
from inr_scenes.field import build
from inr_scenes.spec import Axis, Spec


def make_spec(kind, shape, out=1):
    return Spec(kind, tuple(Axis.regular(n) for n in shape), len(shape), out)


PUBLISHED = [       # kind, shape, channels, partitions, h, g, parameters: table of the publication, recounted
    ("image", (512, 512), 1, (16, 16), 14, 84, 198_930),
    ("image", (512, 512), 3, (16, 16), 14, 84, 206_610),
    ("audio", (308_207,), 1, (32,), 42, 72, 198_182),
    ("video", (300, 512, 512), 3, (5, 8, 8), 55, 180, 3_192_400),
]
PER_PARTITION = [
    ("image", (512, 512), 1, (16, 16), 15, 199_936),
    ("image", (512, 512), 3, (16, 16), 15, 208_128),
    ("audio", (308_207,), 1, (32,), 45, 203_072),
    ("video", (300, 512, 512), 3, (5, 8, 8), 56, 3_190_720),
]


@pytest.mark.parametrize("kind, shape, out, partitions, h, g, parameters", PUBLISHED)
def test_published_counts(kind, shape, out, partitions, h, g, parameters):
    field = build(LgSiren, make_spec(kind, shape, out),
                  {"partitions": partitions, "local_features": h, "global_features": g})
    assert field.parameter_count == parameters


@pytest.mark.parametrize("kind, shape, out, partitions, h, parameters", PER_PARTITION)
def test_published_counts_per_partition(kind, shape, out, partitions, h, parameters):
    field = build(SirenPerPartition, make_spec(kind, shape, out), {"partitions": partitions, "local_features": h})
    assert field.parameter_count == parameters


@pytest.mark.parametrize("blocks, parameters", [(83, 80_079), (36, 47_790)])
def test_published_counts_after_a_crop(blocks, parameters):
    field = build(LgSiren, make_spec("image", (512, 512)),
                  {"partitions": (16, 16), "local_features": 14, "global_features": 84})
    assert field.crop(keep=range(blocks)).parameter_count == parameters


def test_published_count_of_a_shape():
    kept = tuple(range(179))
    spec = make_spec("shape", (512, 512, 512))
    borders = tuple(range(0, 513, 64)) * 3
    layout = {"partitions": (8, 8, 8), "borders": borders, "kept": kept}
    assert build(LgSiren, spec, {**layout, "local_features": 17, "global_features": 76}).parameter_count == 199_174
    assert build(SirenPerPartition, spec, {**layout, "local_features": 18}).parameter_count == 199_943


@pytest.mark.parametrize("kind, shape, out", [
    ("image", (512, 512), 1), ("image", (512, 768), 3), ("image", (339, 510), 3), ("image", (2048, 2048), 3),
    ("audio", (308_207,), 1), ("audio", (60_000,), 2), ("video", (150, 135, 240), 3), ("shape", (128, 128, 128), 1)])
@pytest.mark.parametrize("merge", ["shared", "levels", "add"])
def test_automatic_widths_meet_the_budget(kind, shape, out, merge):
    field = build(LgSiren, make_spec(kind, shape, out), {"merge": merge})
    assert field.parameter_count == pytest.approx(200_000, rel=0.01)
    assert field.config.local_features >= 8
    if kind != "shape":                 # 512 blocks: one feature more or less a block moves the share by 18 %
        assert 0.05 <= field.global_share <= 0.15 and not field.notes()


def test_blocks_are_32_pixels_by_default():
    assert build(LgSiren, make_spec("image", (512, 768), 3)).config.partitions == (16, 24)
    assert build(LgSiren, make_spec("image", (512, 768), 3), {"block": (64,)}).config.partitions == (8, 12)


def test_given_widths_stay_and_the_other_is_found():
    field = build(LgSiren, make_spec("image", (512, 512)), {"partitions": (16,), "local_features": 12, "merge": "add"})
    assert field.config.local_features == 12
    assert field.parameter_count == pytest.approx(200_000, rel=0.01)
    assert field.notes() and "global" in field.notes()[0]


def test_sizes_count_what_the_layers_hold():
    for merge in ("shared", "levels", "add"):
        field = build(LgSiren, make_spec("image", (40, 30), 3),
                      {"partitions": (3, 2), "local_features": 5, "global_features": 7, "merge": merge,
                       "hidden_layers": 2})
        assert Sizes(6, 2, 3, 2, merge).total(5, 7) == field.parameter_count
        assert Sizes(6, 2, 3, 2, merge).share(5, 7) == pytest.approx(field.global_share)


@pytest.mark.parametrize("options, words", [
    ({"partitions": (3, 4, 5)}, "--partitions 3 4 5"), ({"partitions": (0, 2)}, "at least 1"),
    ({"partitions": (41, 2)}, "more than there are samples"), ({"block": (0,)}, "--block 0"),
    ({"budget": 10, "partitions": (8, 8)}, "too few"), ({"local_features": 0}, "at least 1"),
    ({"merge": "shred"}, "Did you mean shared")])
def test_senseless_settings_are_refused(options, words):
    with pytest.raises(InrError, match=words):
        build(LgSiren, make_spec("image", (40, 30)), options)


def test_light_fields_are_refused():
    with pytest.raises(InrError, match="lg-siren does not support signals of kind 'lightfield'"):
        build(LgSiren, Spec("lightfield", (), 6, 3))


def test_a_budget_that_no_widths_meet_is_told_and_leaves_a_global_network():
    spec = make_spec("video", (20, 68, 120), 3)
    field = build(LgSiren, spec, {"budget": 6_600, "partitions": (2, 3, 5)}, seed=0)
    assert 0.03 < field.global_share < 0.25 and field.config.global_features > 3
    assert abs(field.parameter_count - 6_600) < 0.1 * 6_600
    if abs(field.parameter_count - 6_600) > 66:
        assert "No widths give 6,600 parameters with 30 blocks" in field.notes()[0]
    alone = build(SirenPerPartition, make_spec("image", (64, 64), 3), {"budget": 10_700, "partitions": (4, 4)}, seed=0)
    assert alone.notes() == [f"No widths give 10,700 parameters with 16 blocks: there are {alone.parameter_count:,}."]
