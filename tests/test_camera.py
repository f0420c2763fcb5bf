import json
import math

import pytest
import torch

from inr_scenes import InrError
from inr_scenes.camera import (
    Cameras,
    average_pose,
    focus,
    is_around,
    look_at,
    orbit,
    pluecker,
    read_path,
    spiral,
    up_axis,
)

UP = torch.tensor([0.0, 0.0, 1.0])


def ring(n=12, radius=3.0, height=1.0, target=(0.0, 0.0, 0.0), up=UP):
    """Cameras on a circle about `up`, looking at `target`."""
    angle = torch.arange(n) * (2 * math.pi / n)
    across = torch.tensor([1.0, 0.0, 0.0])
    origins = radius * (torch.cos(angle)[:, None] * across + torch.sin(angle)[:, None] * torch.linalg.cross(up, across))
    return shot(look_at(torch.tensor(target) + origins + height * up, torch.tensor(target), up))


def shot(poses, size=(20, 30)):
    n = len(poses)
    return Cameras(poses, torch.full((n, 2), 25.0), torch.tensor([[size[1] / 2, size[0] / 2]]).repeat(n, 1),
                   torch.tensor([size]).repeat(n, 1))


def side_by_side(n=3, spacing=0.5):
    poses = torch.eye(4)[None, :3].repeat(n * n, 1, 1)
    poses[:, :2, 3] = spacing * torch.cartesian_prod(torch.arange(n), torch.arange(n)).float()
    return shot(poses)


def test_rays_leave_the_centre_of_pixels():
    camera = shot(torch.eye(4)[None, :3])
    origins, directions = camera.rays(0)
    assert directions.norm(dim=-1).allclose(torch.ones(600))
    assert not origins.any()
    middle = directions.reshape(20, 30, 3)[9:11, 14:16].mean((0, 1))
    assert torch.nn.functional.normalize(middle, dim=0).allclose(torch.tensor([0.0, 0.0, -1.0]), atol=1e-6)
    first = directions[0]                       # the first pixel is up and to the left
    assert (first / -first[2]).allclose(torch.tensor([-14.5 / 25, 9.5 / 25, -1.0]))


def test_pluecker_coordinates_do_not_depend_on_the_origin_along_the_ray():
    origins, directions = ring().rays(3)
    slid = origins + torch.linspace(-5, 5, len(origins))[:, None] * directions
    assert pluecker(slid, directions).allclose(pluecker(origins, directions), atol=1e-5)


def test_resizing_keeps_the_field_of_view():
    camera = shot(torch.eye(4)[None, :3])
    large = camera.resized(40, 60).directions(0).reshape(20, 2, 30, 2, 3).mean((1, 3))
    assert large.reshape(-1, 3).allclose(camera.directions(0), atol=1e-6)


def test_another_shape_shows_the_middle_undistorted():
    camera = shot(torch.eye(4)[None, :3])                           # 20 high, 30 wide
    square = camera.framed(40, 40)
    assert square.size.tolist() == [[40, 40]]
    shown = camera.directions(0).reshape(20, 30, 3)[:, 5:25]
    averaged = square.directions(0).reshape(20, 2, 20, 2, 3).mean((1, 3))
    assert averaged.allclose(shown, atol=1e-6)


@pytest.mark.parametrize("origin", [(3.0, 0.0, 1.0), (0.0, 0.0, 4.0), (0.0, 0.0, -4.0), (-2.0, 1.0, 0.5)])
@pytest.mark.parametrize("up", [(0.0, 0.0, 1.0), (1.0, 0.0, 0.0)])
def test_look_at_looks_there_even_straight_along_up(origin, up):
    pose = look_at(torch.tensor([origin]), torch.zeros(3), torch.tensor(up))[0]
    assert (pose[:, :3].T @ pose[:, :3]).allclose(torch.eye(3), atol=1e-5)
    assert torch.linalg.det(pose[:, :3]) > 0
    assert (-pose[:, 2]).allclose(torch.nn.functional.normalize(-torch.tensor(origin), dim=0), atol=1e-6)


def test_focus_is_what_cameras_look_at():
    target = (0.3, -0.2, 0.7)
    assert focus(ring(target=target)).allclose(torch.tensor(target), atol=1e-4)
    assert torch.isfinite(focus(side_by_side())).all()


def test_around_or_side_by_side():
    assert is_around(ring())
    assert not is_around(side_by_side())


def test_average_pose_is_a_rotation_in_the_middle():
    pose = average_pose(ring().poses)
    assert (pose[:, :3].T @ pose[:, :3]).allclose(torch.eye(3), atol=1e-5)
    assert pose[:, 3].allclose(torch.tensor([0.0, 0.0, 1.0]), atol=1e-6)


@pytest.mark.parametrize("up", [(0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (0.0, -1.0, 0.0)])
def test_orbit_is_level_and_keeps_distance(up):
    up = torch.tensor(up)
    given = ring(up=up, target=(0.5, 0.0, 0.2))
    assert up_axis(given).equal(up)
    target = torch.tensor([0.5, 0.0, 0.2])
    cameras = orbit(given, target, frames=16)
    offset = cameras.poses[:, :, 3] - target
    assert offset.norm(dim=-1).allclose(torch.tensor(10.0).sqrt(), atol=1e-4)
    assert (offset @ up).allclose(torch.ones(16), atol=1e-4)
    assert (cameras.poses[:, :, 0] @ up).abs().max() < 1e-5         # the horizon is level
    assert (cameras.poses[:, :, 1] @ up > 0).all()                  # and not upside down
    assert torch.nn.functional.normalize(offset, dim=-1).allclose(cameras.poses[:, :, 2], atol=1e-5)
    raised = orbit(given, target, frames=4, elevation=60.0)
    heights = (raised.poses[:, :, 3] - target) @ up
    assert heights.allclose(torch.full((4,), math.sqrt(10) * math.sin(math.pi / 3)), atol=1e-4)


def test_paths_of_cameras_side_by_side_stay_among_them():
    given = side_by_side()
    for path in (orbit, spiral):
        cameras = path(given, torch.tensor([0.5, 0.5, -4.0]), 40)
        assert len(cameras) == 40
        assert cameras.poses[:, :2, 3].min() > 0 and cameras.poses[:, :2, 3].max() < 1
        assert cameras.poses[:, :2, 3].std(0).min() > 0.1
        assert cameras.poses[:, :, :3].allclose(torch.eye(3))        # parallel cameras stay parallel


def test_spiral_around_a_scene_rises_and_returns():
    low, high = ring(height=0.5), ring(height=3.0)
    given = shot(torch.cat([low.poses, high.poses]))
    heights = spiral(given, torch.zeros(3), 32).poses[:, 2, 3]
    assert heights[0] == heights.min() and heights[16] > 2 * heights[0]
    assert heights[1:16].diff().min() > 0 and heights[17:].diff().max() < 0


def test_camera_path_of_nerfstudio(tmp_path):
    pose = look_at(torch.tensor([[0.0, -2.0, 1.0]]), torch.zeros(3), UP)[0]
    matrix = [*pose.flatten().tolist(), 0.0, 0.0, 0.0, 1.0]
    file = tmp_path / "path.json"
    file.write_text(json.dumps({"render_height": 20, "render_width": 40, "fps": 10, "seconds": 2.0, "camera_path": [
        {"camera_to_world": matrix, "fov": 90.0, "aspect": 2.0} for _ in range(20)]}))
    cameras, fps = read_path(file)
    assert fps == 10 and len(cameras) == 20
    assert cameras.poses[0].allclose(pose)
    assert cameras.focal[0].tolist() == pytest.approx([10.0, 10.0], rel=1e-6)       # 90° over 20 rows
    assert cameras.size[0].tolist() == [20, 40]
    turn = look_at(torch.tensor([[1.0, 2.0, 3.0]]), torch.zeros(3), UP)[0]         # any rotation and translation
    (tmp_path / "t.json").write_text(json.dumps({"transform": turn.tolist(), "scale": 0.25}))
    moved = torch.cat([turn[:, :3] @ pose[:, :3], 0.25 * (turn[:, :3] @ pose[:, 3:] + turn[:, 3:])], 1)
    matrix = [*moved.flatten().tolist(), 0.0, 0.0, 0.0, 1.0]
    file.write_text(json.dumps({"render_height": 20, "render_width": 40, "camera_path": [
        {"camera_to_world": matrix, "fov": 90.0}]}))
    assert read_path(file, tmp_path / "t.json")[0].poses[0].allclose(pose, atol=1e-5)
    (tmp_path / "t.json").write_text('{"scale": 1}')
    with pytest.raises(InrError, match="no dataparser_transforms"):
        read_path(file, tmp_path / "t.json")
    file.write_text('{"camera_path": []}')
    with pytest.raises(InrError, match="not a nerfstudio camera path"):
        read_path(file)
    with pytest.raises(InrError, match="does not exist"):
        read_path(tmp_path / "none.json")


def test_pinhole_rays_equal_nerfstudio_s():
    theirs = pytest.importorskip("nerfstudio.cameras.cameras")
    ours = ring(4)
    bundle = theirs.Cameras(ours.poses, 25.0, 25.0, 15.0, 10.0, 30, 20).generate_rays(2)
    origins, directions = ours.rays(2)
    assert bundle.directions.reshape(-1, 3).allclose(directions, atol=1e-6)
    assert bundle.origins.reshape(-1, 3).allclose(origins, atol=1e-6)
