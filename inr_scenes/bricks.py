"""Bricks: samples of part of a large regular grid, kept in small cubes where they are wanted."""

import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

Seen = TypeVar("Seen")

SIDE = 16                           # samples along a cube's side
AT_ONCE = 256                       # cubes that are looked at together: some MiB
THREADS = 4                         # that look at so many each


class Bricks:
    """Samples (z, y, x) of a grid of `counts`, one in `stride` of the finest grid's, in cubes of SIDE³ where wanted.

    A cube has a slot. places (n, 3): where the cubes are, counted in cubes · values (n, SIDE, SIDE, SIDE) float32 ·
    known, uint8: how well, 0 where a value is only interpolated. A sample is told by its index into the flat values;
    `grid` and `find` lead from there to its place on the grid and back. Cubes that turn out to be wanted are added by
    `ensure`, interpolated from `parent`, the same on twice the stride; one without a parent has them all.
    """

    def __init__(self, counts: np.ndarray, stride: int = 1, parent: "Bricks | None" = None):
        self.counts, self.stride, self.parent = np.array(counts), stride, parent
        self.table = np.full(-(-self.counts // SIDE), -1, np.int32)
        self.places = np.empty((0, 3), int)
        self.values = np.empty((0, SIDE, SIDE, SIDE), np.float32)
        self.known = np.empty((0, SIDE, SIDE, SIDE), np.uint8)
        if parent is None:
            places = np.stack(np.unravel_index(np.arange(self.table.size), self.table.shape), 1)
            empty = np.zeros((len(places), SIDE, SIDE, SIDE), np.uint8)
            self._add(places, empty.astype(np.float32), empty)

    @classmethod
    def of(cls, values: np.ndarray) -> "Bricks":
        """Return all of an array (z, y, x)."""
        bricks = cls(values.shape)
        whole = np.pad(values.astype(np.float32), [(0, -count % SIDE) for count in values.shape])
        parts = whole.reshape([part for count in bricks.table.shape for part in (count, SIDE)])
        bricks.values = np.ascontiguousarray(parts.transpose(0, 2, 4, 1, 3, 5)).reshape(bricks.values.shape)
        return bricks

    def __len__(self) -> int:
        """Number of cubes."""
        return len(self.places)

    def find(self, grid: np.ndarray) -> np.ndarray:
        """Return the flat indices of samples (n, 3) of the grid; their cubes must be there."""
        places, inner = np.divmod(grid, SIDE)
        slots = self.table[tuple(places.T)].astype(np.int64)
        return ((slots * SIDE + inner[:, 0]) * SIDE + inner[:, 1]) * SIDE + inner[:, 2]

    def grid(self, index: np.ndarray) -> np.ndarray:
        """Return where on the grid samples of flat indices (n,) are, (n, 3)."""
        slots, inner = np.divmod(index, SIDE**3)
        return self.places[slots] * SIDE + np.stack(np.unravel_index(inner, (SIDE, SIDE, SIDE)), 1)

    def all(self) -> np.ndarray:
        """Return the flat indices of all samples that lie on the grid."""
        z, y, x = ((self.places[:, axis, None] * SIDE + np.arange(SIDE)) < self.counts[axis] for axis in range(3))
        return np.flatnonzero(z[:, :, None, None] & y[:, None, :, None] & x[:, None, None, :])

    def lacking(self, index: np.ndarray, least: int) -> np.ndarray:
        """Return those of flat indices that are not known so well yet, each once, in order."""
        return np.unique(index[self.known.reshape(-1)[index] < least])

    def blocks(self, slots: np.ndarray, low: int = 0, high: int = 1) -> np.ndarray:
        """Return cubes with the next samples on their sides, (n, low + SIDE + high, …, …).

        Where there is no next cube, and beyond the grid, the last sample stands again.
        """
        out = np.pad(self.values[slots], ((0, 0), *[(low, high)] * 3), mode="edge")
        to = {-1: slice(low), 0: slice(low, low + SIDE), 1: slice(low + SIDE, None)}
        source = {-1: slice(SIDE - low, None), 0: slice(None), 1: slice(high)}
        for step in itertools.product((-1, 0, 1) if low else (0, 1), repeat=3):
            if any(step):
                beside = self._slots(self.places[slots] + step)
                there = beside >= 0
                out[(there, *(to[s] for s in step))] = self.values[(beside[there], *(source[s] for s in step))]
        for axis in range(3):
            places, along = self.places[slots, axis], np.moveaxis(out, 1 + axis, 1)
            along[places == 0, :low] = along[places == 0, low:low + 1]
            stops = self.counts[axis] - places * SIDE + low
            for stop in np.unique(stops[stops < along.shape[1]]):
                ending = stops == stop
                along[ending, stop:] = along[ending, stop - 1:stop]
        return out

    def chunks(self, slots: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """Yield slots, of all cubes by default, few enough to be looked at together."""
        slots = np.arange(len(self)) if slots is None else slots
        yield from (slots[low:low + AT_ONCE] for low in range(0, len(slots), AT_ONCE))

    def looked_at(self, look: Callable[[np.ndarray], Seen]) -> list[Seen]:
        """Return what `look` says of the slots of each of `chunks`, in order; numpy lets several threads compute."""
        with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
            return list(pool.map(look, self.chunks()))

    def cubes(self, grid: np.ndarray) -> np.ndarray:
        """Return the places of the cubes that hold samples (n, 3), as flat indices into `table`, each once."""
        grid = grid[((grid >= 0) & (grid < self.counts)).all(1)]
        return np.unique(np.ravel_multi_index(tuple((grid // SIDE).T), self.table.shape))

    def ensure(self, cubes: np.ndarray) -> np.ndarray:
        """Add those cubes at flat places that are not there yet; return the slots of all."""
        table = self.table.reshape(-1)
        if len(new := cubes[table[cubes] < 0]):
            places = np.stack(np.unravel_index(new, self.table.shape), 1)
            self.parent.ensure(self.parent.cubes(places // 2 * SIDE))
            parts = [self._interpolated(places[low:low + AT_ONCE]) for low in range(0, len(new), AT_ONCE)]
            self._add(places, *map(np.concatenate, zip(*parts)))
        return table[cubes]

    def around(self, index: np.ndarray) -> np.ndarray:
        """Ensure the cubes of samples of flat indices and of all next to them, diagonally too; return their slots."""
        grid = self.grid(index)
        last = ((grid % SIDE == 0) | (grid % SIDE == SIDE - 1)).any(1)          # others have no neighbours elsewhere
        steps = np.array(list(itertools.product((-1, 0, 1), repeat=3)))
        return self.ensure(self.cubes(np.concatenate([grid, (grid[last, None] + steps).reshape(-1, 3)])))

    def rim(self, slots: np.ndarray) -> np.ndarray:
        """Return the samples (n, 3) of some cubes that are above zero at the border: there a surface is closed."""
        cube, *inner = np.nonzero(self.values[slots] > 0)
        grid = self.places[slots[cube]] * SIDE + np.stack(inner, 1)
        return grid[((grid == 0) | (grid == self.counts - 1)).any(1) & (grid < self.counts).all(1)]

    def crossings(self, slots: np.ndarray) -> np.ndarray:
        """Return both ends of every edge along an axis that begins in some cubes and has one end alone above zero."""
        found = []
        for part in self.chunks(slots):
            inside = self.blocks(part) > 0
            for axis in range(3):
                ahead = [slice(None), *[slice(SIDE)] * 3]
                here = inside[tuple(ahead)]
                ahead[1 + axis] = slice(1, None)
                cube, *inner = np.nonzero(here != inside[tuple(ahead)])
                start = self.places[part[cube]] * SIDE + np.stack(inner, 1)
                start = start[(start < self.counts).all(1)]
                end = start + np.eye(3, dtype=int)[axis]
                found += [self.find(start), self.find(end)]
        return np.concatenate(found)

    def _slots(self, places: np.ndarray) -> np.ndarray:
        there = ((places >= 0) & (places < self.table.shape)).all(1)
        slots = np.full(len(places), -1)
        slots[there] = self.table[tuple(places[there].T)]
        return slots

    def _add(self, places: np.ndarray, values: np.ndarray, known: np.ndarray) -> None:
        self.table[tuple(places.T)] = np.arange(len(self), len(self) + len(places))
        self.places = np.concatenate([self.places, places])
        self.values = np.concatenate([self.values, values])
        self.known = np.concatenate([self.known, known])

    def _interpolated(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values and how they are known of cubes that are eighths of the parent's."""
        self.parent.ensure(places // 2)
        slots = self.parent.table[tuple((places // 2).T)]
        values = np.empty((len(places), SIDE, SIDE, SIDE), np.float32)
        known = np.zeros(values.shape, np.uint8)
        blocks = self.parent.blocks(slots)
        half = SIDE // 2
        for octant in itertools.product((0, 1), repeat=3):
            mine = (places % 2 == octant).all(1)
            part = blocks[(mine, *(slice(half * o, half * (o + 1) + 1) for o in octant))]
            for axis in (3, 2, 1):
                part = _doubled(part, axis)
            values[mine] = part[:, :-1, :-1, :-1]
            eighth = self.parent.known[(slots[mine], *(slice(half * o, half * (o + 1)) for o in octant))]
            spread = np.zeros((len(eighth), SIDE, SIDE, SIDE), np.uint8)
            spread[:, ::2, ::2, ::2] = eighth
            known[mine] = spread
        return values, known


def _doubled(values: np.ndarray, axis: int) -> np.ndarray:
    """Return samples with those halfway between them along an axis, interpolated."""
    shape = list(values.shape)
    shape[axis] = 2 * shape[axis] - 1
    out = np.empty(shape, values.dtype)
    old, new = np.moveaxis(values, axis, 0), np.moveaxis(out, axis, 0)
    new[::2] = old
    np.add(old[:-1], old[1:], out=new[1::2])
    new[1::2] *= 0.5
    return out
