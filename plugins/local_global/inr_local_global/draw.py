"""Training batches of a partitioned field: equally many samples of every block, so that nothing is padded."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from inr_scenes.signal import GridSignal
from inr_scenes.spec import Box

from .layers import Blocks


class Plan:
    """What to draw from a signal on a grid.

    Blocks of one shape make a group. A group's share of the loss is its share of the samples, so the loss stays the
    mean over the signal however unequal the blocks are. Permuted, every block gives a window of a random order of its
    samples: none twice in a step, each at most once in an epoch. By error, the window is of candidates, of which those
    that are wrong are the likelier. Uniform, a block gives any of its samples, as published.
    """

    def __init__(self, boxes: Sequence[Box], slots: Iterable[int], signal: GridSignal,
                 overlap: tuple[int, ...]):
        groups: dict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(list)
        whole = signal.spec.box
        strides = [1]
        for count in signal.spec.shape[:0:-1]:
            strides.insert(0, strides[0] * count)
        for slot in slots:
            box = _within(boxes[slot], whole, overlap)
            if box is not None:
                first = sum((low - start) * stride for (low, _), (start, _), stride in zip(box, whole, strides))
                groups[tuple(high - low for low, high in box)].append((slot, first))
        device = signal.device
        self.total = sum(_size(shape) * len(blocks) for shape, blocks in groups.items())
        self.groups = [_Group(shape, blocks, strides, device) for shape, blocks in groups.items()]

    def draw(self, signal: GridSignal, sampler, step: int, limit: int) -> Iterator[tuple[Any, Tensor, float]]:
        """Yield parts (points sorted by block, values, share of the loss) of at most `limit` rows."""
        generator = sampler.reseed(step)
        plain = sampler.batch - sampler.focus
        for group in self.groups if plain else ():
            everything = plain >= len(signal)
            rows = group.samples if everything else max(1, round(plain * group.samples / self.total))
            rows = min(rows, group.samples)
            weight = len(group.slots) * group.samples / self.total * plain / sampler.batch
            for slots, index in group.parts(rows, limit, sampler, step, generator):
                coords, values = signal.sample(sampler.taken(index.flatten()), generator)
                share = weight * index.numel() / (rows * len(group.slots))
                yield Blocks(coords.unflatten(0, index.shape), slots), values, share
        if sampler.focus:               # what the signal marks as important is drawn as it lies, not block by block
            chosen = torch.randint(len(signal.focus), (sampler.focus,), generator=generator, device=signal.device)
            for part in signal.focus[chosen].split(limit):
                yield *signal.sample(sampler.taken(part), generator), len(part) / sampler.batch


class _Group:
    """Blocks of one shape."""

    def __init__(self, shape: tuple[int, ...], blocks: list[tuple[int, int]], strides: list[int], device):
        self.samples = _size(shape)
        self.slots = torch.tensor([slot for slot, _ in blocks], device=device)
        self.first = torch.tensor([first for _, first in blocks], device=device)
        offsets = torch.zeros(1, dtype=torch.long, device=device)
        for count, stride in zip(shape, strides):
            offsets = (offsets[:, None] + torch.arange(count, device=device) * stride).flatten()
        self.offsets = offsets
        self.drawn = None

    def parts(self, rows: int, limit: int, sampler, step: int,
              generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (slots (blocks,), sample indices (blocks, rows)) of at most `limit` rows together."""
        uniform = not sampler.permuted and rows < self.samples
        count = sampler.pool(rows, self.samples)
        order, shift = (self.offsets, None) if uniform else self._order(count, sampler, step)
        many = max(1, limit // rows)
        for low in range(0, len(self.slots), many):
            slots, first = self.slots[low:low + many, None], self.first[low:low + many, None]
            if uniform:
                place = torch.randint(self.samples, (len(slots), count), generator=generator, device=first.device)
            else:
                place = (torch.arange(count, device=first.device) + shift[low:low + many, None]) % self.samples
            index = first + order[place]
            for part in (sampler.worst(index, rows) if rows < count else index).split(limit, 1):
                yield slots[:, 0], part

    def _order(self, rows: int, sampler, step: int) -> tuple[Tensor, Tensor]:
        """Return an order of a block's samples, and where in it each block's part of this step begins."""
        if rows == self.samples:
            return self.offsets, torch.zeros_like(self.first)
        epoch, window = divmod(step, self.samples // rows)
        if self.drawn != (sampler.seed, epoch):
            device = self.first.device
            shuffle = torch.Generator(device).manual_seed(sampler.seed * 1_000_003 + epoch + (1 << 41))
            self.order = self.offsets[torch.randperm(self.samples, generator=shuffle, device=device)]
            self.start = torch.randint(self.samples, self.first.shape, generator=shuffle, device=device)
            self.drawn = sampler.seed, epoch
        return self.order, self.start + window * rows


def _within(box: Box, whole: Box, overlap: tuple[int, ...]) -> Box | None:
    """Return what of a block lies in a signal, grown by the overlap and shifted inwards at the signal's ends."""
    found = []
    for d, ((low, high), (start, stop)) in enumerate(zip(box, whole)):
        low, high = max(low, start), min(high, stop)
        if low >= high:
            return None
        if overlap:
            length = min(high - low + 2 * overlap[d], stop - start)
            low = min(max(low - overlap[d], start), stop - length)
            high = low + length
        found.append((low, high))
    return tuple(found)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for count in shape:
        size *= count
    return size
