"""The geometry of a partition: where blocks begin along each axis, and which blocks have a network of their own."""

import bisect
import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inr_scenes.errors import InrError
from inr_scenes.spec import Axis, Box


@dataclass(frozen=True)
class Layout:
    """Blocks of a domain, in original sample indices.

    borders: for each axis the first sample of every block, and one past the last sample of the last block
    kept: flat, row-major indices of the blocks that have a network, increasing; None: all of them
    """

    borders: tuple[tuple[int, ...], ...]
    kept: tuple[int, ...] | None = None

    @classmethod
    def even(cls, axes: Sequence[Axis], partitions: Sequence[int]) -> "Layout":
        """Cut every axis into blocks as equal as whole samples allow: border i lies at round(i·count/partitions)."""
        return cls(tuple(tuple(axis.first + (2 * i * axis.count + c) // (2 * c) for i in range(c + 1))
                         for axis, c in zip(axes, partitions)))

    @classmethod
    def unflat(cls, counts: Sequence[int], borders: Sequence[int], kept: Sequence[int] | None) -> "Layout":
        """Rebuild a layout from what a Config holds: blocks per axis and all borders in one list."""
        ends = list(itertools.accumulate((c + 1 for c in counts), initial=0))
        if ends[-1] != len(borders):
            raise InrError(f"The layout has {len(borders)} borders; {ends[-1]} belong to {tuple(counts)} partitions.")
        layout = cls(tuple(tuple(borders[a:b]) for a, b in itertools.pairwise(ends)),
                     None if kept is None else tuple(kept))
        layout.check()
        return layout

    def check(self) -> None:
        """Raise InrError unless borders and kept blocks increase and lie within the grid of blocks."""
        kept = (0,) if self.kept is None else self.kept
        increasing = all(a < b for line in (*self.borders, kept) for a, b in itertools.pairwise(line))
        if not increasing or not kept or kept[0] < 0 or kept[-1] >= self.total:
            raise InrError("The layout of blocks does not make sense: its borders or kept blocks do not increase.")

    @property
    def flat(self) -> tuple[int, ...]:
        """All borders in one list."""
        return tuple(itertools.chain(*self.borders))

    @property
    def counts(self) -> tuple[int, ...]:
        """Blocks along each axis."""
        return tuple(len(line) - 1 for line in self.borders)

    @property
    def total(self) -> int:
        """Blocks of the whole grid, with and without a network."""
        return math.prod(self.counts)

    @property
    def blocks(self) -> Sequence[int]:
        """Flat indices of the blocks that have a network; the position in it is a block's slot."""
        return range(self.total) if self.kept is None else self.kept

    @property
    def box(self) -> Box:
        """The samples all blocks cover."""
        return tuple((line[0], line[-1]) for line in self.borders)

    def position(self, block: int) -> tuple[int, ...]:
        """Return a block's index along each axis."""
        places = []
        for count in reversed(self.counts):
            block, place = divmod(block, count)
            places.append(place)
        return tuple(reversed(places))

    def box_of(self, block: int) -> Box:
        """Return the samples of one block."""
        return tuple((line[i], line[i + 1]) for line, i in zip(self.borders, self.position(block)))

    def boxes(self) -> list[Box]:
        """Return the samples of every block that has a network, by slot."""
        return [self.box_of(block) for block in self.blocks]

    def keeping(self, blocks) -> "Layout":
        """Return the layout with networks for these blocks alone."""
        blocks = tuple(sorted(set(blocks)))
        return dataclasses.replace(self, kept=None if len(blocks) == self.total else blocks)

    def cropped(self, box: Box) -> "Layout":
        """Return the layout of the blocks that hold a sample of `box`."""
        ranges = [(bisect.bisect_right(line, low) - 1, bisect.bisect_left(line, high))
                  for line, (low, high) in zip(self.borders, box)]
        borders = tuple(line[a:b + 1] for line, (a, b) in zip(self.borders, ranges))
        inside = Layout(borders)
        there = set(self.blocks)
        return inside.keeping(i for i in range(inside.total) if self.flat_index(
            [place + a for place, (a, _) in zip(inside.position(i), ranges)]) in there)

    def flat_index(self, position: Sequence[int]) -> int:
        """Return the flat index of the block at `position`."""
        index = 0
        for place, count in zip(position, self.counts):
            index = index * count + place
        return index

    def slots_of(self, other: "Layout") -> list[int]:
        """Return for every slot of `other` the slot here of the block with the same first sample."""
        corners = {tuple(low for low, _ in box): slot for slot, box in enumerate(self.boxes())}
        return [corners[tuple(low for low, _ in box)] for box in other.boxes()]

    def bounds(self) -> Box:
        """Return the smallest box around all blocks that have a network."""
        boxes = self.boxes()
        return tuple((min(box[d][0] for box in boxes), max(box[d][1] for box in boxes))
                     for d in range(len(self.borders)))


class Locator(nn.Module):
    """Finds the slot of a point: the block's network, or -1 where a block has none.

    A border lies half a sample before the block's first sample. Points beyond the outermost borders belong to the
    nearest block.
    """

    def __init__(self, layout: Layout, axes: Sequence[Axis]):
        super().__init__()
        self.layout = layout
        for d, (line, axis) in enumerate(zip(layout.borders, axes)):
            edges = [axis.start + (border - 0.5) * axis.step for border in line[1:-1]]
            self.register_buffer(f"edges{d}", torch.tensor(edges, dtype=torch.float32), persistent=False)
        if layout.kept is not None:
            slots = [-1] * layout.total
            for slot, block in enumerate(layout.kept):
                slots[block] = slot
            self.register_buffer("slots", torch.tensor(slots), persistent=False)

    def forward(self, coords: Tensor) -> Tensor:
        """Map coords (n, in) to slots (n,)."""
        block = torch.zeros(len(coords), dtype=torch.long, device=coords.device)
        for d, count in enumerate(self.layout.counts):
            place = torch.bucketize(coords[:, d].detach().float().contiguous(), getattr(self, f"edges{d}"), right=True)
            block = block * count + place
        return block if self.layout.kept is None else self.slots[block]
