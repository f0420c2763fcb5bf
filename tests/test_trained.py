"""The models that come with the plugin: whole, small, without a trace of a machine, as good as their cards say."""

import json
from importlib.resources import files

import numpy as np
import pytest
import torch

from inr_scenes import archive
from inr_scenes.generalizable import SupportViews
from inr_scenes.plugins import host
from inr_scenes.signals.image import ImageSignal
from inr_scenes.validation import Validation
from inr_scenes.windows import WindowedField, encode

TRAINED = {item.name: item for item, _ in host().collect("inr_weights")}
pytestmark = pytest.mark.skipif("pretrained-image" not in TRAINED, reason="the locality_aware plugin is not installed")


@pytest.mark.parametrize("name", ["pretrained-image", "pretrained-views"])
def test_each_is_a_small_archive_with_a_card(name):
    path = TRAINED[name].path
    head = archive.header(name)
    assert path.stat().st_size <= 12 * 2**20 and head["role"] == "model" and head["dtype"] == "float16"
    assert "/" not in json.dumps(head["fit"]), "where the training data lay is nobody's business"
    card = (files("inr_locality_aware") / "trained" / f"{name}.md").read_text()
    for word in ("Data", "Licence", "Settings", "PSNR", "cannot"):
        assert word in card, f"the card of {name} says nothing of {word}"


def waves(height, width):
    """A smooth picture with edges, unlike any that was trained on."""
    y, x = np.mgrid[:height, :width] / 32
    image = np.stack([np.sin(3 * x + y), np.cos(2 * y - x), np.sin(x * y)], -1) * 0.3 + 0.5
    image[(y - 1) ** 2 + (x - 1) ** 2 < 0.3] = (0.9, 0.2, 0.1)
    return ImageSignal.from_array(image)


@pytest.mark.parametrize("shape", [(32, 32), (60, 45)])
def test_a_picture_is_encoded_well_in_one_pass(shape):
    model = archive.open("pretrained-image")
    signal = waves(*shape)
    field = encode(model, signal)
    assert isinstance(field, WindowedField) == (shape != (32, 32))
    assert signal.metrics(field)["psnr"] > 25


def test_held_out_flowers_are_as_good_as_the_card_says(real):
    paths = sorted(real("many_images/flowers128").iterdir())
    order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(0)).tolist()
    model = archive.open("pretrained-image")
    scores = []
    for number in sorted(order[:32])[:6]:                       # what the training held out
        signal = ImageSignal.load(paths[number], mode="rgb")
        scores.append(signal.metrics(encode(model, signal))["psnr"])
    assert np.mean(scores) > 25


def test_views_of_a_new_object_are_better_than_a_guess(tmp_path):
    import trimesh

    from inr_scenes.dataset import open_set
    from inr_scenes.views import render_set

    mesh = trimesh.creation.box((1, 0.7, 0.4))
    mesh.visual.face_colors = (200, 60, 40, 255)
    mesh.export(tmp_path / "box.ply")
    (tmp_path / "meshes").mkdir()
    (tmp_path / "box.ply").rename(tmp_path / "meshes" / "box.ply")
    for _ in render_set(tmp_path / "meshes", tmp_path / "views", views=12, size=64, test=0):
        pass
    signal = open_set(tmp_path / "views", kind="lightfield", cache=tmp_path / "cache")[0]
    model = archive.open("pretrained-views")
    few, many = (Validation([signal], count).metrics(model)["psnr"] for count in (1, 5))
    _, values = SupportViews(signal, range(12)).sample(torch.arange(12 * 4096))
    mean = values.mean(0)
    blank = -10 * np.log10(float((values - mean).square().mean()) / 4)
    assert many > blank + 2 and many > few - 0.5
