import numpy as np
import pytest

from inr_scenes.bricks import SIDE, Bricks

COUNTS = (2 * SIDE + 1, SIDE, 3 * SIDE - 5)


@pytest.fixture
def values():
    return np.random.default_rng(0).normal(size=COUNTS).astype(np.float32)


def spots(where):
    """Return what is true in an array as a set of places."""
    return set(map(tuple, np.argwhere(where).tolist()))


def test_places_lead_to_samples_and_back(values):
    bricks = Bricks.of(values)
    assert len(bricks) == 3 * 1 * 3
    grid = np.argwhere(values > 1)
    index = bricks.find(grid)
    assert np.array_equal(bricks.values.reshape(-1)[index], values[values > 1])
    assert np.array_equal(bricks.grid(index), grid)
    everything = bricks.grid(bricks.all())
    assert len(everything) == values.size and np.array_equal(values[tuple(everything.T)],
                                                             bricks.values.reshape(-1)[bricks.all()])


def test_blocks_are_parts_of_the_array_and_repeat_its_border(values):
    bricks = Bricks.of(values)
    padded = np.pad(values, [(1, 2 + -count % SIDE) for count in COUNTS], mode="edge")
    for slot, (z, y, x) in enumerate(bricks.places * SIDE):
        part = padded[z:z + SIDE + 3, y:y + SIDE + 3, x:x + SIDE + 3]
        assert np.array_equal(bricks.blocks(np.array([slot]), 1, 2)[0], part)
        assert np.array_equal(bricks.blocks(np.array([slot]))[0], part[1:-1, 1:-1, 1:-1])


def test_finer_bricks_are_interpolated_and_know_what_their_parent_knew(values):
    coarse = Bricks.of(values)
    coarse.known[:] = 2
    fine = Bricks([2 * count - 1 for count in COUNTS], parent=coarse)
    assert len(fine) == 0
    wanted = np.array([[0, 0, 0], [40, 20, 61], [SIDE, 1, 1]])
    slots = fine.ensure(fine.cubes(wanted))
    assert sorted(slots) == [0, 1, 2] and len(fine) == 3
    assert np.array_equal(fine.ensure(fine.cubes(wanted)), slots) and len(fine) == 3
    exact = values.astype(np.float64)
    for axis in (2, 1, 0):
        moved = np.moveaxis(exact, axis, 0)
        between = np.empty((2 * len(moved) - 1, *moved.shape[1:]))
        between[::2], between[1::2] = moved, (moved[1:] + moved[:-1]) / 2
        exact = np.moveaxis(between, 0, axis)
    for place, inner, known in zip(fine.places * SIDE, fine.values, fine.known):
        part = exact[tuple(slice(low, low + SIDE) for low in place)]
        there = tuple(map(slice, part.shape))
        assert np.allclose(inner[there], part, atol=1e-6)
        assert (known[::2, ::2, ::2][tuple(slice(-(-n // 2)) for n in part.shape)] == 2).all()
        assert not known[1::2].any() and not known[:, 1::2].any() and not known[:, :, 1::2].any()


def test_crossings_are_both_ends_of_edges(values):
    bricks = Bricks.of(values)
    found = np.zeros(COUNTS, bool)
    found[tuple(bricks.grid(bricks.crossings(np.arange(len(bricks)))).T)] = True
    expected, inside = np.zeros(COUNTS, bool), values > 0
    for axis in range(3):
        here, there = (np.moveaxis(a, axis, 0) for a in (inside, expected))
        crossing = here[1:] != here[:-1]
        there[1:] |= crossing
        there[:-1] |= crossing
    assert spots(found) == spots(expected)


def test_what_is_around_samples_reaches_into_the_next_cubes():
    coarse = Bricks.of(np.zeros((3 * SIDE,) * 3, np.float32))
    fine = Bricks((5 * SIDE,) * 3, parent=coarse)
    fine.ensure(fine.cubes(np.array([[40, 40, 40]])))
    assert len(fine.around(fine.find(np.array([[40, 40, 40]])))) == 1 == len(fine)
    assert len(fine.around(fine.find(np.array([[40, 40, 47]])))) == 2 == len(fine)
    assert len(fine.around(fine.find(np.array([[32, 47, 47]])))) == 8
    assert len(fine) == 8


def test_the_rim_is_what_is_inside_at_the_border(values):
    bricks = Bricks.of(values)
    border = np.ones(COUNTS, bool)
    border[1:-1, 1:-1, 1:-1] = False
    rim = bricks.rim(np.arange(len(bricks)))
    assert set(map(tuple, rim.tolist())) == spots(border & (values > 0))
