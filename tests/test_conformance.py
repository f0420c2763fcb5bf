"""The conformance kit on everything that is installed."""

import pytest
import torch

from inr_scenes.errors import InrError
from inr_scenes.field import Field, build
from inr_scenes.plugins import host
from inr_scenes.siren import Siren
from inr_scenes.testing import KINDS, check_exporter, check_field, check_signal, small_signal

FIELDS = [cls for cls in host().fields() if issubclass(cls, Field)]
EXPORTERS = [exporter for exporter, _ in host().collect("inr_exporters")]
SMALL = {"hidden_features": 32, "hidden_layers": 1}


@pytest.mark.parametrize("cls", FIELDS, ids=lambda cls: cls.name)
def test_field(cls):
    assert check_field(cls)["second_derivatives"]


@pytest.mark.parametrize("kind, path", [("image", None), ("video", "video/moving.mp4"), ("audio", "audio/chord.wav"),
                                        ("lightfield", "lightfield")])
def test_signal(kind, path, samples, tmp_path):
    if path is None:
        from PIL import Image
        from skimage.data import astronaut
        path = tmp_path / "astronaut.png"
        Image.fromarray(astronaut()[::8, ::8]).save(path)
    else:
        path = samples / path
    cls = next(s for s in host().signals() if s.kind == kind)
    assert len(check_signal(cls, path)) > 1000


@pytest.mark.parametrize("exporter", EXPORTERS, ids=lambda e: e.name)
def test_exporter(exporter):
    for kind in sorted(exporter.kinds & set(KINDS)):
        signal = small_signal(kind)
        field = build(Siren, signal.spec, SMALL, seed=0).eval()
        if kind == "shape":             # an untrained field has no surface: make it a ball
            with torch.no_grad():
                for p in field.parameters():
                    p.zero_()
            field.forward = lambda coords: 0.7 - coords.norm(dim=-1, keepdim=True)
        assert set(check_exporter(exporter, field)) == set(exporter.suffixes)


def test_the_kit_notices_what_is_wrong():
    class Mixing(Siren):
        """Not pointwise: every point sees the mean of all."""

        name = "mixing"

        def forward(self, coords):
            return super().forward(coords) + coords.mean()

    class Random(Siren):
        """Not repeatable."""

        name = "random"

        def forward(self, coords):
            return super().forward(coords) * torch.rand(()).add(0.5)

    class Reader(Siren):
        """Cannot be built without memory."""

        name = "reader"

        def __init__(self, config, spec):
            super().__init__(config, spec)
            self.scale = float(self.output.weight.sum())

    for cls, error, message in ((Mixing, AssertionError, "a point alone"), (Random, AssertionError, "must not matter"),
                                (Reader, RuntimeError, "meta tensors")):
        cls.kinds = frozenset({"image"})
        with pytest.raises(error, match=message):
            check_field(cls, {**SMALL})


def test_small_signals_say_what_they_are():
    for kind in KINDS:
        assert small_signal(kind).kind == kind
    with pytest.raises(InrError):
        small_signal("smell")
