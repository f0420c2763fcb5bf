"""Image, sound and video: real files of every format, and every kind of bad input."""

import errno
import os
import shutil
import struct
import sys
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import inr_scenes as inr
from inr_scenes.errors import InrError
from inr_scenes.field import build, decode_all, decode_bands
from inr_scenes.media import write_audio, write_image, write_video
from inr_scenes.regions import grown
from inr_scenes.signals.audio import AudioSignal
from inr_scenes.signals.image import ImageSignal
from inr_scenes.signals.video import VideoSignal
from inr_scenes.siren import Siren
from inr_scenes.spec import Axis, Spec
from inr_scenes.testing import check_signal, small_signal

soundfile = pytest.importorskip("soundfile")

image_module = sys.modules[ImageSignal.__module__]


@pytest.fixture
def picture():
    y, x = np.mgrid[0:30, 0:40]
    return np.stack([x * 6, y * 8, 255 - x * 3], -1).astype(np.uint8)


@pytest.mark.parametrize("suffix, exact", [(".png", True), (".webp", False), (".jpg", False), (".tif", True)])
def test_image_formats(tmp_path, picture, suffix, exact):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(picture).save(path, quality=95)
    signal = check_signal(ImageSignal, path)
    assert signal.spec.shape == (30, 40) and signal.spec.out_features == 3
    error = np.abs(signal.array().numpy() * 255 - picture).max()
    assert error < 1e-3 if exact else error < 40


@pytest.mark.parametrize("mode, channels", [("L", 1), ("RGB", 3), ("RGBA", 4), ("P", 3), ("1", 1), ("CMYK", 3)])
def test_image_modes(tmp_path, picture, mode, channels):
    path = tmp_path / "a.tif"
    Image.fromarray(picture).convert(mode).save(path)
    assert ImageSignal.load(path).spec.out_features == channels


def test_sixteen_bits_survive(tmp_path):
    deep = np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)
    path = tmp_path / "deep.png"
    Image.fromarray(deep).save(path)
    signal = ImageSignal.load(path)
    assert signal.spec.meta["bits"] == 16
    assert np.abs(signal.array().numpy()[..., 0] * 65535 - deep).max() < 0.01
    write_image(tmp_path / "again.png", signal.array().numpy(), bits=16)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "again.png")), deep)


def test_sixteen_bit_colour_png(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (7, 9, 3)).astype(">u2")

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 7, 16, 2, 0, 0, 0))
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows))
                                        + chunk(b"IEND", b""))
    signal = inr.load(tmp_path / "deep.png")
    assert signal.spec.meta["bits"] == 16 and signal.spec.out_features == 3
    assert np.abs(signal.array().numpy() * 65535 - deep).max() < 0.01
    grey = inr.load(tmp_path / "deep.png", mode="grey", size=(3, 4))
    assert grey.spec.shape == (3, 4) and grey.spec.out_features == 1 and grey.spec.meta["bits"] == 16


def test_sixteen_bit_colour_tiff(tmp_path):
    values = np.random.default_rng(0).random((8, 9, 3))
    write_image(tmp_path / "a.tif", values, bits=16)
    signal = ImageSignal.load(tmp_path / "a.tif")
    assert signal.spec.out_features == 3 and signal.spec.meta["bits"] == 16
    assert np.abs(signal.array().numpy() - values).max() < 1e-4


@pytest.mark.parametrize("dtype, channels", [(np.uint8, 3), (np.uint16, 3), (np.uint8, 1)])
def test_a_huge_tiff_stays_on_disk(tmp_path, monkeypatch, dtype, channels):
    top = np.iinfo(dtype).max
    values = np.random.default_rng(0).integers(0, top + 1, (40, 30, channels)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", values.squeeze(), compression="zlib")
    held = ImageSignal.load(tmp_path / "a.tif")
    monkeypatch.setattr(image_module, "HELD", 1000)
    signal = ImageSignal.load(tmp_path / "a.tif")
    assert signal.data.dtype == (torch.uint8 if dtype == np.uint8 else torch.uint16)
    mapped = image_module.read_image(tmp_path / "a.tif")[0]
    assert isinstance(mapped, np.memmap)
    assert np.shares_memory(ImageSignal.from_array(mapped).data.numpy(), mapped), "values are not copied into memory"
    assert signal.spec == held.spec and torch.allclose(signal.array(), held.array(), atol=1e-7)
    monkeypatch.setattr(image_module, "SHOWN", 200)
    field = inr.field("siren", signal.spec, hidden_features=16)
    metrics = inr.fit(field, signal, steps=3, batch=256).metrics
    assert metrics == pytest.approx(held.metrics(field), rel=1e-5)
    truth, shown = signal.pictures(field)[0]
    assert truth.shape == shown.shape == (14, 10, channels)
    assert np.allclose(truth, held.array().numpy()[::3, ::3], atol=1e-6)
    assert np.allclose(shown, decode_all(field).clamp(0, 1).numpy()[::3, ::3], atol=1e-5)
    for flags in ({"size": (4, 4)}, {"mode": "rgba"}):
        with pytest.raises(InrError, match="too many to be resized"):
            ImageSignal.load(tmp_path / "a.tif", **flags)


def test_a_tiff_keeps_what_is_transparent(tmp_path):
    clear = np.random.default_rng(0).integers(0, 256, (6, 5, 4)).astype(np.uint8)
    write_image(tmp_path / "a.tif", clear)
    with Image.open(tmp_path / "a.tif") as image:
        assert image.mode == "RGBA" and np.array_equal(np.asarray(image), clear)


def test_a_huge_tiff_that_cannot_be_read_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(image_module, "HELD", 10)
    values = np.zeros((40, 30), np.float32)
    tifffile.imwrite(tmp_path / "float.tif", values)
    with pytest.raises(InrError, match="8 or 16 bits"):
        ImageSignal.load(tmp_path / "float.tif")
    tifffile.imwrite(tmp_path / "a.tif", values.astype(np.uint8))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=100))
    with pytest.raises(InrError, match="TMPDIR"):
        ImageSignal.load(tmp_path / "a.tif")
    monkeypatch.undo()
    monkeypatch.setattr(image_module, "HELD", 10)
    monkeypatch.setattr(image_module, "LARGEST", 20)
    noise = np.random.default_rng(0).integers(0, 256, (40, 30)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "deflated.tif", noise, compression="zlib")
    whole = (tmp_path / "deflated.tif").read_bytes()
    (tmp_path / "odd.tif").write_bytes(whole[:-600] + bytes(600))
    for name, words in (("a.tif", "ends before its pixels do"), ("odd.tif", "cannot be unpacked")):
        if name == "a.tif":
            (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:700])
        with pytest.raises(InrError, match=f"{name}.*{words}"):
            ImageSignal.load(tmp_path / name)


@pytest.mark.parametrize("bits, channels", [(8, 3), (16, 3), (16, 1)])
def test_a_tiff_is_written_band_by_band(tmp_path, monkeypatch, bits, channels):
    field = build(Siren, small_signal("image").spec.replace(out_features=channels), {"hidden_features": 16}, seed=0)
    field_module = sys.modules[decode_bands.__module__]
    monkeypatch.setattr(field_module, "BAND", 64)
    monkeypatch.setattr(sys.modules[write_image.__module__], "LARGEST", 10)
    path = inr.export(field, tmp_path / "a.tif", bits=bits)
    expected = decode_all(field).clamp(0, 1).numpy().squeeze()
    top = 2**bits - 1
    assert np.abs(tifffile.imread(path) / top - expected).max() < 0.51 / top
    assert np.abs(ImageSignal.load(path).array().numpy().squeeze() - expected).max() < 0.51 / top
    with pytest.raises(InrError, match="too many for .png: write .tif"):
        inr.export(field, tmp_path / "a.png")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InrError, match="The disk is full"):
        inr.export(field, tmp_path / "b.tif", bits=bits)
    assert [found.name for found in tmp_path.iterdir()] == ["a.tif"]


def test_exif_orientation_is_applied(tmp_path, picture):
    exif = Image.Exif()
    exif[274] = 6                                       # rotate by 90° to view
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    signal = ImageSignal.load(tmp_path / "a.png")
    assert signal.spec.shape == (40, 30)
    assert np.array_equal(signal.data.reshape(40, 30, 3).numpy(), np.rot90(picture, -1))


def test_one_pixel(tmp_path):
    path = tmp_path / "one.png"
    Image.fromarray(np.full((1, 1, 3), 77, np.uint8)).save(path)
    signal = ImageSignal.load(path)
    field = inr.field("siren", signal.spec, hidden_features=16, hidden_layers=1)
    result = inr.fit(field, signal, steps=300, lr=1e-3)
    assert result.metrics["psnr"] > 40


def test_grids(picture):
    centers, ends = ImageSignal.from_array(picture), ImageSignal.from_array(picture, grid="ends")
    index = torch.tensor([0, len(ends) - 1])
    assert ends.sample(index)[0].tolist() == [[-1, -1], [1, 1]]
    assert torch.allclose(centers.sample(index)[0].abs(), torch.tensor([[29 / 30, 39 / 40]] * 2))
    all_of_it = torch.arange(len(centers))
    assert torch.equal(centers.sample(all_of_it)[0], centers.spec.coords(all_of_it))


def test_another_grid_is_told_by_the_meta_and_leads_back():
    spec = Spec("image", (Axis.regular(6), Axis.regular(1)), 2, 3, meta={"bits": 8, "grid": "centers"})
    ends = spec.regrid("ends")
    assert ends.meta["grid"] == ends.grid == "ends" and ends.axes == (Axis.regular(6, "ends"), Axis.regular(1, "ends"))
    assert [axis.original for axis in ends.axes] == [6, 1] and ends.regrid("centers") == spec
    moved = ends.cropped(((2, 5), (0, 1))).regrid("centers")
    assert moved.axes == (Axis.regular(3), Axis.regular(1))


@pytest.mark.parametrize("meta", [{}, {"grid": "centers"}], ids=["new", "archives from before the meta was kept"])
def test_a_crop_of_a_picture_on_both_ends_is_found_in_its_file(picture, meta):
    fresh = ImageSignal.from_array(picture)
    ends = ImageSignal.from_array(picture).regrid("ends").spec
    crop = ends.replace(meta={**ends.meta, **meta}).cropped(((3, 20), (5, 17)))
    assert crop.part_of(fresh.spec) == crop.part_of(ends) == (slice(3, 20), slice(5, 17))
    assert torch.equal(fresh.beside(crop, "photo.png").array(), fresh.array()[3:20, 5:17])


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "PCM_U8", "FLOAT", "DOUBLE", "ULAW"])
def test_wav_of_every_sample_format(tmp_path, subtype):
    t = np.arange(4000) / 8000
    samples = np.stack([0.5 * np.sin(2 * np.pi * 440 * t), 0.25 * np.cos(2 * np.pi * 220 * t)], -1)
    path = tmp_path / "a.wav"
    soundfile.write(path, samples, 8000, subtype=subtype)
    signal = check_signal(AudioSignal, path)
    assert signal.spec.shape == (4000,) and signal.spec.out_features == 2
    assert np.abs(signal.array().numpy() - samples).max() < (0.03 if subtype in ("PCM_U8", "ULAW") else 1e-3)


@pytest.mark.parametrize("suffix", [".flac", ".ogg"])
def test_compressed_sound(tmp_path, suffix):
    samples = 0.5 * np.sin(np.arange(8000) / 20)[:, None]
    write_audio(tmp_path / f"a{suffix}", samples, 16000)
    signal = check_signal(AudioSignal, tmp_path / f"a{suffix}")
    assert signal.spec.meta["sample_rate"] == 16000 and len(signal) == 8000


def test_sound_excerpt(samples):
    signal = AudioSignal.load(samples / "audio" / "chord.wav", start=0.25, seconds_long=0.5)
    assert len(signal) == 8000


def test_video_round_trip(samples, tmp_path):
    signal = check_signal(VideoSignal, samples / "video" / "moving.mp4")
    assert signal.spec.shape == (24, 64, 96) and signal.spec.meta["fps"] == 12
    assert signal.data.dtype == torch.uint8
    part = VideoSignal.load(samples / "video" / "moving.mp4", first_frame=4, frames=3, every=2, size=(32, 48))
    assert part.spec.shape == (3, 32, 48) and part.spec.meta["fps"] == 6
    frames = (signal.array().numpy() * 255).astype(np.uint8)
    write_video(tmp_path / "a.mp4", iter(frames), 12)
    again = VideoSignal.load(tmp_path / "a.mp4")
    assert ((again.array() - signal.array()) ** 2).mean() < 1e-3


@pytest.mark.parametrize("side, box, columns", [("right", (10, 50), slice(10, 50)), ("left", (-30, 10), slice(10, 50))])
def test_a_crop_of_an_extended_video_is_found_in_a_file_of_the_whole(samples, tmp_path, side, box, columns):
    whole = VideoSignal.load(samples / "video" / "moving.mp4", frames=4)
    begun = whole.spec.replace(axes=(*whole.spec.axes[:2], Axis.regular(56)))
    like = grown(begun, side, 40)[0].cropped(((1, 3), (4, 60), box))
    part = VideoSignal.load(samples / "video" / "moving.mp4", frames=4, like=like)
    assert torch.equal(part.array(), whole.array()[1:3, 4:60, columns])
    write_video(tmp_path / "part.mp4", iter((part.array().numpy() * 255).round().astype(np.uint8)), 12)
    alone = VideoSignal.load(tmp_path / "part.mp4", like=like)
    assert torch.equal(alone.array(), VideoSignal.load(tmp_path / "part.mp4").array())


def test_a_frame_keeps_its_number_at_any_size(samples, tmp_path):
    spec = VideoSignal.load(samples / "video" / "moving.mp4", frames=10).spec.cropped(((4, 10), (8, 24), (0, 16)))
    field = inr.field("siren", spec, hidden_features=16, hidden_layers=1, first_omega_0=60.0, seed=0)
    pictures = [np.asarray(Image.open(inr.export(field, tmp_path / f"{i}.png", frame=5, **options)))
                for i, options in enumerate(({}, {"size": (16, 16)}, {"scale": 1.0}))]
    larger = np.asarray(Image.open(inr.export(field, tmp_path / "larger.png", frame=5, scale=2.0)), float)
    assert np.array_equal(pictures[0], pictures[1])
    assert np.abs(larger.reshape(16, 2, 16, 2, 3).mean((1, 3)) - pictures[0]).mean() < 3
    with pytest.raises(InrError, match="frames 4 to 9"):
        inr.export(field, tmp_path / "none.png", frame=2, scale=2.0)


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_film_of_one_channel_is_grey(tmp_path, suffix):
    frames = np.random.default_rng(0).integers(0, 255, (3, 16, 24, 1), dtype=np.uint8)
    assert write_video(tmp_path / f"a{suffix}", iter(frames), 25) == 3
    again = VideoSignal.load(tmp_path / f"a{suffix}").array()
    assert again.shape == (3, 16, 24, 3) and (again - torch.from_numpy(frames) / 255).abs().mean() < 0.05


def test_odd_sized_video(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (5, 17, 23, 3), dtype=np.uint8)
    assert write_video(tmp_path / "a.mp4", iter(frames), 25) == 5
    assert VideoSignal.load(tmp_path / "a.mp4").spec.shape == (5, 18, 24)


BAD = {
    "text.png": (b"this is text, not an image", "not an image"),
    "text.wav": (b"this is text, not sound", "not a sound"),
    "text.mp4": (b"this is text, not video", "cannot be decoded"),
    "empty.png": (b"", "empty"),
    "empty.wav": (b"", "empty"),
}


@pytest.mark.parametrize("name", BAD)
def test_foreign_and_empty_files(tmp_path, name):
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InrError, match=message):
        inr.load(tmp_path / name)


def test_truncated_png(tmp_path, picture):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(InrError, match="damaged"):
        inr.load(path)


def test_truncated_mp4(tmp_path, samples):
    raw = (samples / "video" / "moving.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(raw[:len(raw) // 2])
    with pytest.raises(InrError, match="cannot be decoded|damaged"):
        inr.load(tmp_path / "a.mp4")


def test_decompression_bomb(tmp_path):
    import struct
    import zlib

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"0" * 99)) +
                                        chunk(b"IEND", b""))
    with pytest.raises(InrError, match="refused"):
        inr.load(tmp_path / "bomb.png")


def test_silence_and_no_samples(tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(1000), 8000)
    with pytest.raises(InrError, match="silent"):
        inr.load(tmp_path / "silent.wav")
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 8000)
    with pytest.raises(InrError, match="no samples"):
        inr.load(tmp_path / "none.wav")


def test_unknown_kinds_and_options(tmp_path):
    with pytest.raises(InrError, match="does not exist"):
        inr.load(tmp_path / "nowhere.png")
    (tmp_path / "a.xyzzy").write_text("?")
    with pytest.raises(InrError, match="no known signal type"):
        inr.load(tmp_path / "a.xyzzy")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(InrError, match="Did you mean size"):
        inr.load(tmp_path / "a.png", sise=(2, 2))


def test_not_a_number():
    with pytest.raises(InrError, match="not numbers"):
        ImageSignal.from_array(np.full((4, 4), np.nan))


def test_metrics_of_a_perfect_field():
    signal = small_signal("image")

    class Truth(inr.Field):
        name = "truth"

        def __init__(self):
            super().__init__(None, signal.spec)
            self.dummy = torch.nn.Parameter(torch.zeros(1))

        def forward(self, coords):
            row, column = (axis.index(c).round() for axis, c in zip(signal.spec.axes, coords.T))
            index = row * 20 + column
            return signal.spec.values.to_net(signal.stored(index.long()))

    assert signal.metrics(Truth())["psnr"] > 90
    assert signal.metrics(Truth())["ssim"] > 0.999


@pytest.mark.parametrize("kind, rows", [("image", 1), ("image", 5), ("image", 16), ("video", 1), ("video", 2)])
def test_bands_are_the_whole(kind, rows, monkeypatch):
    signal = small_signal(kind)
    field = build(Siren, signal.spec, {"hidden_features": 32}, seed=0)
    values, metrics = decode_all(field), signal.metrics(field)
    assert len(list(decode_bands(field))) == 1
    each = signal.spec.size // signal.spec.shape[0]
    monkeypatch.setattr(sys.modules[decode_bands.__module__], "BAND", rows * each + 1)
    bands = list(decode_bands(field))
    assert len(bands) == -(-signal.spec.shape[0] // rows)
    assert torch.equal(torch.cat([band for _, band in bands]), values)
    assert signal.metrics(field) == pytest.approx(metrics, rel=1e-6) and metrics["ssim"] < 0.99
