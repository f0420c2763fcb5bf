"""Inverse problems in small: what is recovered, against the naive answer or the closed form; and real measurements."""

import importlib
import json
import math
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inr_scenes import geometry
from inr_scenes.derivatives import value_and_jacobian
from inr_scenes.device import ROWS
from inr_scenes.errors import InrError
from inr_scenes.field import build, decode_all
from inr_scenes.fit import FitConfig, fit, steps
from inr_scenes.kernels.choice import choose, chosen
from inr_scenes.mesh import mesh
from inr_scenes.metrics import psnr
from inr_scenes.plugins import find_problem
from inr_scenes.problems import Problem, ct
from inr_scenes.problems.ct import Tomography, project, view_angles
from inr_scenes.problems.denoise import Denoising
from inr_scenes.problems.inpaint import Inpainting
from inr_scenes.problems.pde import Helmholtz, Wave
from inr_scenes.problems.poisson import Poisson, differentiate
from inr_scenes.problems.priors import bending, default_weight, total_variation
from inr_scenes.problems.sdf import SignedDistance, read_points, side_of
from inr_scenes.problems.superres import SuperResolution
from inr_scenes.signals.image import ImageSignal
from inr_scenes.signals.shape import ShapeSignal
from inr_scenes.siren import Siren

trimesh = pytest.importorskip("trimesh")


def scene(height: int = 48, width: int = 48, channels: int = 3) -> ImageSignal:
    """A picture of waves, a fine texture and a disc with a sharp edge."""
    y, x = np.mgrid[0:height, 0:width] / 48
    shade = 0.45 + 0.2 * np.sin(7 * x + 3 * y) + 0.1 * np.sin(25 * y) + 0.2 * ((x - 0.5) ** 2 + (y - 0.45) ** 2 < 0.09)
    tints = np.stack([shade, 0.9 - 0.5 * shade, 0.3 + 0.4 * y * shade], -1)[..., :channels]
    return ImageSignal.from_array(tints.clip(0, 1).astype(np.float32))


def siren(problem: Problem, **config):
    config = {"hidden_features": 48, "hidden_layers": 2, "first_omega_0": 10.0} | config
    return build(Siren, problem.spec, config, seed=0)


def error(image, truth) -> float:
    return psnr(float(np.square(np.asarray(image) - np.asarray(truth)).mean()))


def test_superresolution_recovers_more_than_interpolation():
    from skimage.transform import resize

    gains = {}
    for prior in ("none", "hessian"):
        problem = SuperResolution.wrap(scene(channels=1), factor=4, prior=prior)
        assert len(problem) == 12 * 12 and problem.spec.shape == (48, 48) and problem.points == 16
        truth, small = problem.truth.array().numpy(), problem.array().numpy()
        np.testing.assert_allclose(small[2, 3], truth[8:12, 12:16].mean((0, 1)), atol=1e-6)
        result = fit(siren(problem, first_omega_0=5.0), problem, steps=150, lr=3e-3)
        gains[prior] = result.metrics["psnr"]
        assert problem.misfit(result.field)["psnr_fit"] > 45
    naive = error(resize(small, truth.shape, order=3, mode="edge").clip(0, 1), truth)
    assert gains["hessian"] > naive + 0.25 and gains["hessian"] > gains["none"] + 1


def test_superresolution_samples_lie_within_their_pixel_on_any_grid():
    for grid in ("centers", "ends"):
        problem = SuperResolution.wrap(scene(15, 22), factor=3).regrid(grid)      # a row and a column are left over
        assert problem.truth.spec.shape == (15, 21)
        (coords, _), values = problem.sample(torch.tensor([9]))                     # second row, third column of 5 × 7
        index = torch.tensor([[3, 6], [3, 7], [3, 8], [4, 6], [4, 7], [4, 8], [5, 6], [5, 7], [5, 8]])
        expected = problem.truth.coords(index[:, 0] * 21 + index[:, 1])
        torch.testing.assert_close(coords[0], expected)
        stored = problem.spec.values.to_stored(values)[0]
        torch.testing.assert_close(stored, problem.truth.array()[3:6, 6:9].mean((0, 1)))


def test_superresolution_keeps_the_grid_of_the_picture():
    picture = ImageSignal.from_array(scene(15, 22).array().numpy(), grid="ends")
    for pixels in ("area", "point"):
        problem = SuperResolution.wrap(picture, factor=3, pixels=pixels)
        moved = SuperResolution.wrap(scene(15, 22), factor=3, pixels=pixels).regrid("ends")
        index = torch.arange(len(problem))
        assert problem.spec.axes == moved.spec.axes
        assert torch.equal(problem.coords(index), moved.coords(index))


def test_point_superresolution_fits_the_small_image_at_its_own_pixels():
    problem = SuperResolution.wrap(scene(), factor=4, pixels="point").regrid("ends")
    (coords, _), _ = problem.sample(torch.arange(144))
    assert coords.shape == (144, 1, 2) and coords.min() == -1 and coords.max() == 1


def test_denoising_gains_over_the_noisy_image():
    problem = Denoising.wrap(scene())
    truth, noisy = problem.truth.array(), problem.array()
    assert error(noisy, truth) == pytest.approx(19.5, abs=1.5)         # 40 photons, 2 read out: as published
    expected = (truth.mean() / 40 + (2 / 40) ** 2).item()
    assert (noisy - truth).square().mean().item() == pytest.approx(expected, rel=0.05)
    result = fit(siren(problem), problem, steps=150, lr=2e-3, batch=0)
    assert result.metrics["psnr"] > error(noisy, truth) + 5
    again = Denoising.wrap(scene())
    assert torch.equal(again.values, problem.values)


def test_inpainting_beats_the_nearest_known_pixel_and_the_prior_helps():
    from scipy.interpolate import griddata

    gains = {}
    for prior in ("none", "tv"):
        problem = Inpainting.wrap(scene(channels=1), keep=0.1, prior=prior)
        assert len(problem) == round(0.1 * 48 * 48)
        result = fit(siren(problem), problem, steps=200, lr=3e-3)
        gains[prior] = result.metrics["psnr_hidden"]
    truth = problem.truth.array().numpy()[..., 0]
    at = np.stack(np.divmod(problem.known.numpy(), 48), -1)
    grid = np.stack(np.mgrid[0:48, 0:48], -1).reshape(-1, 2)
    nearest = griddata(at, truth[at[:, 0], at[:, 1]], grid, method="nearest").reshape(48, 48)
    assert gains["tv"] > error(nearest, truth) + 1 and gains["tv"] > gains["none"] + 2


def test_a_mask_file_says_what_is_known(tmp_path):
    mask = np.full((48, 48), 255, np.uint8)
    mask[10:20, 30:40] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    problem = Inpainting.wrap(scene(), mask=str(tmp_path / "mask.png"))
    assert len(problem) == 48 * 48 - 100 and problem.array()[15, 35].abs().max() == 0
    torch.testing.assert_close(problem.array()[:10], problem.truth.array()[:10])
    with pytest.raises(InrError, match="48×48 pixels, the image 20×30"):
        Inpainting.wrap(scene(20, 30), mask=str(tmp_path / "mask.png"))
    Image.fromarray(mask // 255).save(tmp_path / "ones.png")
    assert torch.equal(Inpainting.wrap(scene(), mask=str(tmp_path / "ones.png")).known, problem.known)
    Image.fromarray(0 * mask).save(tmp_path / "dark.png")
    for make in (Inpainting.wrap, Inpainting.load):
        with pytest.raises(InrError, match="No pixel is known"):
            make(scene() if make == Inpainting.wrap else tmp_path / "mask.png", mask=str(tmp_path / "dark.png"))


def test_priors_of_fields_whose_derivatives_are_known():
    coords = torch.rand(50, 2)
    plane = lambda x: torch.stack([3 * x[:, 0] + 4 * x[:, 1], x.sum(-1) * 0], -1)  # noqa: E731
    assert total_variation(plane, coords).item() == pytest.approx(5, rel=1e-5)
    assert bending(plane, coords).item() == 0
    bowl = lambda x: x.square().sum(-1, keepdim=True)  # noqa: E731
    assert bending(bowl, coords).item() == pytest.approx(math.sqrt(8), rel=1e-5)


@pytest.mark.parametrize("prior, of", [("tv", total_variation), ("hessian", bending)])
def test_a_prior_weighs_what_pixels_show_however_many_there_are(prior, of):
    pixels, weighed = torch.rand(50, 2) * 40, []
    for size in (48, 192):
        step = 2 / size
        waves = lambda x, step=step: torch.sin(x.sum(-1, keepdim=True) / step / 5)  # noqa: E731
        weighed.append(default_weight(prior, scene(size, size).spec) * of(waves, pixels * step).item())
    assert weighed[0] == pytest.approx(weighed[1], rel=1e-3) and weighed[0] > 0


def test_projector_agrees_with_scikit_image_and_its_gradient_is_right():
    from skimage.data import shepp_logan_phantom
    from skimage.transform import radon, resize

    phantom = resize(shepp_logan_phantom(), (63, 63)).astype(np.float32)
    angles = view_angles(20, 180)
    ours = project(torch.from_numpy(phantom)[..., None], angles, 63, 31.0)[..., 0].numpy()
    theirs = radon(phantom, theta=np.rad2deg(angles.numpy()), circle=True).T
    np.testing.assert_allclose(ours, theirs, atol=1e-3 * theirs.max())

    image = torch.rand(9, 12, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: project(x, view_angles(5, 180), 14, 6.2), image)


def test_tomography_recovers_an_image_from_views():
    signal = scene(channels=1)
    problem = Tomography.wrap(signal, angles=40)
    assert len(problem) == 40 and problem.values.shape == (40, 48, 1)
    result = fit(siren(problem), problem, steps=200, lr=3e-3, batch=0)
    assert result.metrics["psnr"] > 28
    query, values = problem.sample(torch.arange(40))
    assert (problem.predict(result.field, query) - values).square().mean() < 2e-3


def test_what_tomography_decodes_again_it_decodes_by_the_kernel_that_was_chosen():
    problem, kernels = Tomography.wrap(scene(channels=1), angles=4), []
    field = siren(problem)

    def decoded(coords):
        kernels.append(chosen())
        return field(coords)

    with choose("torch"):
        views = problem.predict(decoded, problem.angles)
    again = threading.Thread(target=views.sum().backward)       # an accelerator's backward has a thread of its own
    again.start()
    again.join()
    assert kernels == ["torch", "torch"] and all(p.grad is not None for p in field.parameters())


def test_a_sinogram_file_is_recovered_in_its_own_units(tmp_path):
    blob = torch.from_numpy(np.exp(-((np.mgrid[-1:1:49j, -1:1:49j] - [[[0.2]], [[-0.1]]]) ** 2).sum(0) / 0.1))
    sinogram = project(blob.float()[..., None] * 3.5, view_angles(30, 180), 49, 24.0)
    np.save(tmp_path / "views.npy", sinogram[..., 0].numpy())
    problem = Tomography.load(tmp_path / "views.npy")
    assert problem.spec.shape == (49, 49)
    assert 2.5 < problem.spec.meta["attenuation"] < 3.7             # about the peak: the image then lies in [0, 1]
    result = fit(siren(problem), problem, steps=150, lr=2e-3, batch=0)
    found = decode_all(result.field)[..., 0] * problem.spec.meta["attenuation"]
    assert (found - 3.5 * blob).square().mean().sqrt() < 0.03 * 3.5
    assert result.metrics["psnr_fit"] > 35


@pytest.mark.parametrize("name", ["angles.txt", "angles.npy"])
def test_views_may_be_taken_at_any_angles(tmp_path, name):
    degrees = np.random.default_rng(0).permutation(np.linspace(3, 176, 20).round(2))
    np.savetxt(tmp_path / name, degrees) if name.endswith("txt") else np.save(tmp_path / name, degrees)
    clean = Tomography.wrap(scene(), angles_file=str(tmp_path / name))
    np.testing.assert_allclose(np.rad2deg(clean.angles), degrees, atol=1e-9)
    np.save(tmp_path / "views.npy", clean.values * clean.size)
    problem = Tomography.load(tmp_path / "views.npy", angles_file=str(tmp_path / name))
    with torch.no_grad():
        image = scene().sample(torch.arange(48 * 48))[1] + 1
        again = problem.predict(lambda coords: image / problem.spec.meta["attenuation"] - 1, problem.angles)
    torch.testing.assert_close(again, problem.values, atol=1e-4, rtol=1e-4)
    np.save(tmp_path / "fewer.npy", clean.values[:19])
    with pytest.raises(InrError, match=f"{name} holds 20 angles, .*fewer.npy 19 views"):
        Tomography.load(tmp_path / "fewer.npy", angles_file=str(tmp_path / name))


def test_files_that_hold_no_angles_are_refused(tmp_path):
    (tmp_path / "words.txt").write_text("these are words")
    (tmp_path / "table.txt").write_text("1 2\n3 4\n")
    np.save(tmp_path / "nan.npy", np.full(4, np.nan))
    for name in ("words.txt", "table.txt", "nan.npy"):
        with pytest.raises(InrError, match=f"{name} does not hold angles"):
            Tomography.wrap(scene(12, 12), angles_file=str(tmp_path / name))


def test_a_sinogram_of_many_detectors_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(ct, "back_project", lambda sinogram, angles: torch.full((4097, 4097, 1), 2.0))
    np.save(tmp_path / "views.npy", np.ones((2, 4097), np.float32))
    assert Tomography.load(tmp_path / "views.npy").spec.meta["attenuation"] == 2


@pytest.mark.parametrize("stencil", ["corners", "sobel"])
def test_an_image_is_recovered_from_its_gradients(stencil):
    problem = Poisson.wrap(scene(40, 56), stencil=stencil)
    field = siren(problem, first_omega_0=15.0)
    flat = problem.metrics(field)["psnr"]
    result = fit(field, problem, steps=250, lr=3e-3, batch=0)
    assert result.metrics["psnr"] > max(25, flat + 10)
    # the constant that derivatives leave open is held at the picture's level
    shift = (decode_all(result.field) - problem.truth.array()).mean((0, 1)).abs().max()
    assert shift < 0.05


def test_derivatives_of_images_against_closed_forms():
    y, x = np.mgrid[0:9, 0:12].astype(np.float32)
    signal = ImageSignal.from_array((0.01 * y**2 + 0.02 * x)[..., None])
    for options, rows in ((Poisson.Options(), np.arange(8) + 0.5), (Poisson.Options(stencil="sobel"), np.arange(1, 8))):
        values, places = differentiate(signal.array(), signal.spec, options)
        at = signal.spec.axes[0].index(places[:, 0]).numpy()
        np.testing.assert_allclose(sorted(set(at.round(3))), rows, atol=1e-3)
        np.testing.assert_allclose(values[:, 0, 0], 0.02 * at, atol=1e-5)
        np.testing.assert_allclose(values[:, 0, 1], 0.02, atol=1e-5)
    values, _ = differentiate(signal.array(), signal.spec, Poisson.Options(derivative="laplacian"))
    np.testing.assert_allclose(values, 0.02, atol=1e-5)


def test_measured_derivatives_are_those_of_the_field_per_pixel():
    problem = Poisson.wrap(scene(40, 56))
    bands = lambda coords: torch.sin(4 * coords[:, :1] + 3 * coords[:, 1:]).expand(-1, 3)  # noqa: E731
    step, coords = problem.step, problem.places[:50].clone()
    expected = torch.cos(4 * coords[:, 0] + 3 * coords[:, 1])[:, None] * torch.tensor([4, 3]) * step / problem.size
    torch.testing.assert_close(problem.measure(bands, coords), expected[:, None].expand(-1, 3, -1))
    problem = Poisson.wrap(scene(40, 56), derivative="laplacian")
    waves = bands(problem.places[:50])
    curved = -(16 * step[0] ** 2 + 9 * step[1] ** 2) * waves / problem.size
    torch.testing.assert_close(problem.measure(bands, problem.places[:50]), curved, rtol=1e-3, atol=1e-5)


def test_laplacian_with_known_border_gives_the_picture():
    problem = Poisson.wrap(scene(24, 24, 1), derivative="laplacian", border=True)
    result = fit(siren(problem), problem, steps=300, lr=2e-3, batch=0)
    assert result.metrics["psnr"] > 22


def test_two_images_are_composed_in_the_gradient_domain(tmp_path):
    first, second = scene(32, 32), ImageSignal.from_array(np.ascontiguousarray(scene(32, 32).array().numpy()[:, ::-1]))
    Image.fromarray((second.array().numpy() * 255).round().astype(np.uint8)).save(tmp_path / "second.png")
    problem = Poisson.wrap(first, other=str(tmp_path / "second.png"))
    torch.testing.assert_close(problem.truth.array(), (first.array() + second.array()) / 2, atol=3e-3, rtol=0)
    result = fit(siren(problem), problem, steps=200, lr=3e-3, batch=0)
    assert result.metrics["psnr"] > 26
    ends = Poisson.wrap(ImageSignal.from_array(first.array().numpy(), grid="ends"), other=str(tmp_path / "second.png"))
    assert ends.truth.spec.axes == ends.spec.axes
    mixed = Poisson.wrap(first, other=str(tmp_path / "second.png"), mix="strongest")
    assert mixed.truth is None
    lengths = [Poisson.wrap(s).values.norm(dim=-1).norm(dim=-1) * Poisson.wrap(s).size for s in (first, second)]
    torch.testing.assert_close(mixed.values.norm(dim=-1).norm(dim=-1) * mixed.size, torch.maximum(*lengths),
                               atol=0.02, rtol=0)


def test_gradient_files_are_read(tmp_path):
    truth = scene(32, 40, 1)
    image = truth.array().numpy()[..., 0]
    np.save(tmp_path / "gradients.npy", np.stack(np.gradient(image), -1))
    problem = Poisson.load(tmp_path / "gradients.npy")
    assert problem.spec.shape == (32, 40) and problem.spec.out_features == 1
    result = fit(siren(problem, first_omega_0=15.0), problem, steps=200, lr=3e-3, batch=0)
    found = decode_all(result.field)[..., 0].numpy()
    assert error(found - found.mean(), image - image.mean()) > 25
    assert abs(found.mean() - 0.5) < 0.05


@pytest.fixture(scope="module")
def sphere():
    return trimesh.creation.icosphere(4, 2.5).apply_translation([10, -4, 3])


def test_distance_to_a_sphere_from_oriented_points(sphere):
    problem = SignedDistance.from_mesh(sphere, SignedDistance.Options(samples=20_000))
    result = fit(siren(problem, first_omega_0=5.0, omega_0=15.0), problem, steps=220, lr=2e-3, batch=512)
    points = torch.nn.functional.normalize(torch.randn(500, 3, generator=torch.Generator().manual_seed(1)), dim=-1)
    centre = torch.tensor([10.0, -4.0, 3.0])
    off = result.field.at(centre + 2.5 * points)[:, 0].abs()
    assert off.mean() < 0.01 * 2.5                                  # the zero set has the right radius to 1 %
    assert result.field.inside(centre[None])[0] and not result.field.inside(centre[None] + 2.58)[0]
    near = problem.spec.to_coords(centre + points * torch.linspace(2, 2.6, 500)[:, None])
    slope = value_and_jacobian(result.field, near)[1][:, 0].norm(dim=-1)
    assert (slope - 1).abs().mean() < 0.1
    surface = mesh(result.field, resolution=40)
    assert surface.is_watertight and surface.volume == pytest.approx(4 / 3 * math.pi * 2.5**3, rel=0.03)
    compared = geometry.compare_meshes(sphere, surface, samples=5000)
    assert compared["chamfer"] < 0.005


def test_the_points_tell_inside_from_outside():
    ring = trimesh.creation.torus(1.0, 0.4)
    places, faces = trimesh.sample.sample_surface(ring, 5000, seed=0)
    queries = torch.rand(2000, 3, generator=torch.Generator().manual_seed(0)) * 3 - 1.5
    side = side_of(queries, torch.tensor(places).float(), torch.from_numpy(ring.face_normals[faces].copy()).float())
    distance = (queries[:, :2].norm(dim=-1) - 1).square().add(queries[:, 2].square()).sqrt() - 0.4
    sure = side != 0
    assert sure.float().mean() > 0.75
    assert (torch.sign(distance[sure]) == side[sure]).all()


def test_point_clouds_are_read_with_their_normals(sphere, tmp_path):
    rows = np.concatenate([sphere.vertices, sphere.vertex_normals], 1)
    np.savetxt(tmp_path / "points.xyz", rows)
    head = "\n".join(["ply", "format ascii 1.0", f"element vertex {len(rows)}",
                      *(f"property float {name}" for name in ("x", "y", "z", "nx", "ny", "nz")), "end_header", ""])
    (tmp_path / "points.ply").write_text(head + "\n".join(" ".join(map(str, row)) for row in rows.tolist()) + "\n")
    for name in ("points.xyz", "points.ply"):
        problem = SignedDistance.load(tmp_path / name)
        assert len(problem) == len(rows) and problem.mesh is None
        places = problem.spec.to_world(problem.places)
        np.testing.assert_allclose(places, sphere.vertices, atol=1e-4)
        outwards = problem.spec.to_world(problem.places + 0.01 * problem.values) - places
        cosine = (outwards.numpy() * sphere.vertex_normals).sum(1) / np.linalg.norm(outwards, axis=1)
        assert cosine.min() > 0.999
    sphere.export(tmp_path / "mesh.ply")
    assert len(SignedDistance.load(tmp_path / "mesh.ply", samples=500)) == 500


def test_colours_of_points_are_not_taken_for_normals(sphere, tmp_path):
    plain = np.concatenate([sphere.vertices, sphere.vertex_normals], 1)
    np.savetxt(tmp_path / "plain.xyz", plain)
    for colours in (np.random.default_rng(0).integers(0, 256, sphere.vertices.shape),
                    np.random.default_rng(0).random(sphere.vertices.shape)):
        np.savetxt(tmp_path / "nine.xyz", np.insert(plain, [3] * 3, colours, 1))
        for found, expected in zip(read_points(tmp_path / "nine.xyz"), read_points(tmp_path / "plain.xyz")):
            assert torch.equal(found, expected)
        np.savetxt(tmp_path / "six.xyz", np.concatenate([sphere.vertices, colours], 1))
        with pytest.raises(InrError, match="six.xyz: columns 4 to 6 look like colours"):
            read_points(tmp_path / "six.xyz")


def test_a_shape_signal_is_simulated_from_its_mesh(sphere):
    signal = ShapeSignal.from_mesh(sphere, 16)
    problem = SignedDistance.wrap(signal, samples=1000)
    assert problem.spec.frame == signal.spec.frame and problem.spec.meta["quantity"] == "sdf"
    assert set(problem.metrics(siren(problem))) == {"surface_error", "eikonal_error", "chamfer", "normal_consistency"}


def test_helmholtz_residual_vanishes_for_plane_waves_in_the_layer_too():
    problem = Helmholtz.wrap(wavenumber=6.0)
    k, layer, damping = 6.0, problem.options.layer, problem.options.damping

    def wave(coords):
        """exp(-i k x̃) with the stretched coordinate x̃ = x - i damping depth³ / (3 layer²) sign(x)."""
        x = coords[..., 1]
        depth = (x.abs() - (1 - layer)).clamp_min(0)
        decay = torch.exp(-k * x.sign() * damping * depth**3 / (3 * layer**2))
        return torch.stack([torch.cos(k * x) * decay, -torch.sin(k * x) * decay], -1)

    coords = torch.rand(500, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    coords = coords[coords[:, 0].abs() < 0.5 - 1e-3]         # in the other layer the wave is stretched along y as well
    residual = problem.residual(wave, coords) + problem.source(coords)
    assert (residual.abs() < 2e-4 * k**2).all()


def test_helmholtz_closed_form_fulfils_the_equation_and_radiates():
    problem = Helmholtz.wrap(wavenumber=8.0, source_width=0.02)
    truth, valid = problem.solution()
    step = problem.spec.axes[0].step
    wave = torch.view_as_complex(truth.contiguous()).reshape(problem.spec.shape)
    second = (wave[2:, 1:-1] + wave[:-2, 1:-1] + wave[1:-1, 2:] + wave[1:-1, :-2] - 4 * wave[1:-1, 1:-1]) / step**2
    far = (problem.spec.coords(torch.arange(problem.spec.size)).norm(dim=-1) > 0.2) & valid
    far = far.reshape(problem.spec.shape)[1:-1, 1:-1]
    residual = (second + 64 * wave[1:-1, 1:-1])[far].abs().mean() / (64 * wave[1:-1, 1:-1][far]).abs().mean()
    assert residual < 0.01
    # outward: the phase falls with the distance, as exp(-i k r) of the convention of the layer
    row = wave[64, 84:96]
    phase = torch.angle(row[1:] / row[:-1])
    assert (phase < 0).all() and phase.mean().item() == pytest.approx(-8 * step, rel=0.1)


def test_helmholtz_solution_of_a_small_field():
    problem = Helmholtz.wrap(wavenumber=4.0, source_width=0.1)
    config = FitConfig(steps=300, lr=5e-3, batch=256, schedule="cosine")
    result = fit(siren(problem, omega_0=10.0), problem, config)
    assert result.metrics["relative_error"] < 0.25


def test_wave_closed_form_fulfils_the_equation():
    problem = Wave.wrap(source_width=0.2)
    truth, valid = problem.solution()
    u, valid = truth.reshape(problem.spec.shape).double(), valid.reshape(problem.spec.shape)
    assert torch.allclose(u[0].float().flatten(), problem.bump(problem.spec.coords(torch.arange(64 * 64))), atol=1e-3)
    time, length = problem.options.duration / 31, problem.spec.axes[1].step
    inner = u[1:-1, 1:-1, 1:-1]
    in_time = (u[2:, 1:-1, 1:-1] + u[:-2, 1:-1, 1:-1] - 2 * inner) / time**2
    in_space = (u[1:-1, 2:, 1:-1] + u[1:-1, :-2, 1:-1] + u[1:-1, 1:-1, 2:] + u[1:-1, 1:-1, :-2] - 4 * inner) / length**2
    inside = valid[1:-1, 1:-1, 1:-1]
    assert (in_time - in_space)[inside].norm() < 0.05 * in_space[inside].norm()


def test_wave_solution_of_a_small_field():
    problem = Wave.wrap(source_width=0.2)
    config = FitConfig(steps=250, lr=3e-3, batch=192, schedule="cosine")
    result = fit(siren(problem, first_omega_0=5.0, omega_0=10.0), problem, config)
    assert result.metrics["relative_error"] < 0.15


SIMULATED = [SuperResolution, Denoising, Inpainting, Tomography, Poisson]


@pytest.mark.parametrize("problem", SIMULATED, ids=lambda cls: cls.name)
def test_a_step_in_parts_has_the_gradient_of_the_whole(problem, monkeypatch):
    options = {"angles": 6} if problem is Tomography else {"weight": 0.0} if hasattr(problem.Options, "prior") else {}
    gradients = []
    for micro in (1 << 16, 200):
        monkeypatch.setitem(ROWS, "cpu", micro)
        wrapped = problem.wrap(scene(24, 24), **options)
        field = siren(wrapped)
        before = [p.detach().clone() for p in field.parameters()]
        step = next(steps(field, wrapped, FitConfig(steps=9, batch=0, optimizer="adam", lr=1e-3, device="cpu")))
        gradients.append((step.loss.item(), [p.detach() - b for p, b in zip(field.parameters(), before)]))
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-4)


@pytest.mark.parametrize("name", ["superres", "denoise", "inpaint", "ct", "poisson", "sdf", "helmholtz", "wave"])
def test_every_problem_is_found_and_takes_the_recipe_of_any_field(name):
    problem = find_problem(name)
    if name == "sdf":
        wrapped = problem.from_mesh(trimesh.creation.box(), problem.Options(samples=100))
    else:
        wrapped = problem.wrap(scene(24, 24) if problem.kinds else None)
    for preset in ("fast", "published"):
        recipe = wrapped.adapt(Siren.suggest(wrapped, preset), Siren, preset)
        field = build(Siren, wrapped.spec, {"hidden_features": 8, **recipe.config}, seed=0)
        FitConfig(**recipe.fit)
    assert wrapped.main_metric in wrapped.probe(field)
    assert wrapped.regrid("ends") is wrapped
    with pytest.raises(InrError, match="no setting"):
        problem.wrap(scene(24, 24) if problem.kinds else None, nonsense=1) if name != "sdf" else \
            problem.load("x.xyz", nonsense=1)


def test_without_truth_the_fit_to_the_measurements_is_reported(tmp_path):
    Image.fromarray((scene(16, 16).array().numpy() * 255).astype(np.uint8)).save(tmp_path / "small.png")
    problem = SuperResolution.load(tmp_path / "small.png", factor=2)
    assert problem.spec.shape == (32, 32) and problem.truth is None and problem.main_metric == "psnr_fit"
    result = fit(siren(problem), problem, steps=150, lr=3e-3)
    assert set(result.metrics) == {"psnr_fit"} and result.metrics["psnr_fit"] > 30
    noisy = Denoising.load(tmp_path / "small.png")
    torch.testing.assert_close(noisy.array(), ImageSignal.load(tmp_path / "small.png").array())


def test_transparent_pixels_are_the_holes_of_a_real_image(tmp_path):
    picture = np.zeros((16, 16, 4), np.uint8)
    picture[..., :3], picture[..., 3] = (scene(16, 16).array().numpy() * 255).astype(np.uint8), 255
    picture[4:9, 6:12, 3] = 0
    Image.fromarray(picture).save(tmp_path / "holes.png")
    problem = Inpainting.load(tmp_path / "holes.png")
    assert len(problem) == 16 * 16 - 30 and problem.spec.out_features == 3


BAD = [
    ("superres", {"factor": 1}, "--factor 1 must be"), ("superres", {"pixels": "line"}, "area or point"),
    ("superres", {"factor": 16}, "too small"), ("denoise", {"photons": 0.0}, "--photons"),
    ("denoise", {"prior": "tw"}, "Did you mean tv"), ("inpaint", {"keep": 0.0}, "--keep"),
    ("inpaint", {"weight": -1.0}, "--weight"), ("ct", {"angles": 0}, "--angles"),
    ("ct", {"detectors": -5}, "--detectors -5 must"), ("ct", {"detectors": 0}, "--detectors 0 must"),
    ("poisson", {"derivative": "third"}, "gradient or laplacian"), ("helmholtz", {"layer": 1.0}, "--layer"),
    ("wave", {"speed": 0.0}, "--speed"), ("superres", {"factor": "two"}, "should be int"),
]


@pytest.mark.parametrize("name, options, message", BAD, ids=lambda x: str(x))
def test_options_that_cannot_work_are_refused(name, options, message):
    problem = find_problem(name)
    with pytest.raises(InrError, match=message):
        problem.wrap(scene(12, 12) if problem.kinds else None, **options)


def test_files_that_hold_something_else_are_refused(tmp_path, sphere):
    (tmp_path / "words.npy").write_text("these are words")
    (tmp_path / "words.xyz").write_text("these are words")
    np.save(tmp_path / "nan.npy", np.full((4, 5), np.nan))
    np.save(tmp_path / "cube.npy", np.zeros((2, 3, 4, 5)))
    np.save(tmp_path / "pairs.npy", np.full((3, 4, 2), np.inf))
    np.savetxt(tmp_path / "bare.xyz", sphere.vertices)
    np.savetxt(tmp_path / "zero.xyz", np.concatenate([sphere.vertices, 0 * sphere.vertices], 1))
    opaque = tmp_path / "opaque.png"
    Image.new("RGB", (8, 8)).save(opaque)
    for name, file, message in (
            ("ct", "words.npy", "not a .npy array"), ("ct", "nan.npy", "not numbers"), ("ct", "cube.npy", "sinogram"),
            ("poisson", "words.npy", "not a .npy array"), ("poisson", "nan.npy", "does not hold a gradient"),
            ("poisson", "cube.npy", "does not hold a gradient"), ("poisson", "pairs.npy", "not numbers"),
            ("sdf", "words.xyz", "not a text file of points"), ("sdf", "bare.xyz", "without normals"),
            ("sdf", "zero.xyz", "normals are zero"), ("inpaint", "opaque.png", "--mask"),
            ("superres", "missing.png", "does not exist")):
        with pytest.raises(InrError, match=message):
            find_problem(name).load(tmp_path / file)
    with pytest.raises(InrError, match="takes no file"):
        Wave.load(tmp_path / "words.npy")
    with pytest.raises(InrError, match="not a signal of kind 'shape'"):
        Denoising.wrap(ShapeSignal.from_mesh(sphere, 12))


def test_solve_from_the_command_line(inr, tmp_path):
    Image.fromarray((scene(24, 24).array().numpy() * 255).astype(np.uint8)).save(tmp_path / "photo.png")
    small = ("--hidden-features", "24", "--hidden-layers", "1", "--steps", "30", "--json")
    status, out, err = inr("solve", "superres", "siren", "photo.png", "--factor", "2", "-o", "a", *small)
    assert status == 0, err
    result = json.loads(out)
    assert {"psnr", "ssim"} <= result["metrics"].keys() and "psnr" in result["best_over_run"]
    status, out, err = inr("solve", "superres", "siren", "photo.png", "--measured", "--factor", "2", "-o", "b", *small)
    assert status == 0, err
    assert json.loads(inr("info", "b", "--json")[1])["shape"] == [48, 48, 3]
    status, out, err = inr("solve", "helmholtz", "siren", "--wavenumber", "4.0", "-o", "c", *small)
    assert status == 0, err
    assert "relative_error" in json.loads(out)["metrics"]
    status, out, err = inr("solve", "helmholtz", "siren", "photo.png", "-o", "d", *small)
    assert status == 1 and "takes no signal: leave 'photo.png' away" in err


def test_the_best_over_a_run_is_not_below_its_end(inr, tmp_path, monkeypatch):
    monkeypatch.setattr(ImageSignal, "probe", lambda self, field, samples=0: {"psnr": 1.0})     # a look sees a sample
    Image.fromarray((scene(24, 24).array().numpy() * 255).astype(np.uint8)).save(tmp_path / "photo.png")
    status, out, err = inr("solve", "denoise", "siren", "photo.png", "-o", "run", "--hidden-features", "8",
                           "--hidden-layers", "1", "--steps", "3", "--json")
    assert status == 0, err
    result = json.loads(out)
    assert result["metrics"]["psnr"] > 2
    assert result["best_over_run"] == {"psnr": result["metrics"]["psnr"], "step": 3}
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    row = importlib.import_module("inverse_problems").solve(Denoising.wrap(scene(24, 24)), "siren", 8, steps=3)
    assert row["best psnr"] == row["psnr"] > 2


def test_a_flag_s_value_is_not_taken_for_the_problem(inr, tmp_path):
    Image.fromarray((scene(24, 24).array().numpy() * 255).astype(np.uint8)).save(tmp_path / "photo.png")
    small = ("--hidden-features", "16", "--hidden-layers", "1", "--steps", "2", "--json")
    status, _, err = inr("solve", "-o", "denoise", "superres", "siren", "photo.png", *small)
    assert status == 0, err
    assert (tmp_path / "denoise").is_dir() and not (tmp_path / "superres").exists()
    assert json.loads(inr("info", "denoise", "--json")[1])["fit"]["problem"] == "superres"
    status, _, err = inr("solve", "-o", "superres", "siren", "photo.png")
    assert status == 1 and "no problem 'siren'" in err
