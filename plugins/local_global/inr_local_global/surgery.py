"""Crop, extend and merge: partitioned fields with blocks taken out, added, or joined. Nothing old is retrained."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from inr_scenes.errors import InrError
from inr_scenes.signal import GridSignal
from inr_scenes.spec import Box, Spec

from .layers import GrownLinear, LocalLinear
from .layout import Layout
from .partitioned import Partitioned, reaches_into, rebuilt


class Picked(LocalLinear):
    """Some slots of a LocalLinear, in another order."""

    def __init__(self, source: LocalLinear, slots: Sequence[int]):
        torch.nn.Module.__init__(self)
        index = torch.tensor(slots, dtype=torch.long, device=source.weight.device)
        self.weight, self.bias = (torch.nn.Parameter(t.detach()[index]) for t in source.tensors())


def crop(field: Partitioned, box: Box | None = None, *, keep: Iterable[int] | None = None,
         drop: Iterable[int] | None = None) -> Partitioned:
    """Return the field of the samples in `box`, and of the blocks in `keep` or not in `drop` (row-major indices).

    Blocks that hold a sample of the box stay whole; the box itself is the new spec. Without a box the spec shrinks to
    the blocks that are left. Weights and coordinates of what stays are those of the field.
    """
    field = field.baked()
    layout = field.layout
    if keep is not None or drop is not None:
        layout = layout.keeping(_chosen(layout, keep, drop))
    if box is None:
        box = layout.bounds()
    box = tuple((max(low, first), min(high, stop)) for (low, high), (first, stop) in zip(box, field.spec.box))
    if any(low >= high for low, high in box):
        raise InrError(f"The box holds no sample of this {field.spec.kind}: its samples are "
                       f"{' × '.join(f'{low}–{high - 1}' for low, high in field.spec.box)}.")
    layout = layout.cropped(box)
    if not layout.blocks:
        raise InrError("No block in the box has a network: there is nothing to keep.")
    slots = field.layout.slots_of(layout)
    local = {name: Picked(layer, slots) for name, layer in field.local_linears().items()}
    return rebuilt(field, field.config.laid_out(layout), field.spec.cropped(box), local)


def extend(field: Partitioned, spec: Spec, start: str = "neighbour", part: GridSignal | None = None) -> Partitioned:
    """Return the field covering the larger `spec`: new blocks train, all that is old is frozen.

    start: how new networks begin: "neighbour" (a copy of the nearest block's) or "fresh" · part: the new part's signal;
    blocks that a shape in it does not reach into take no network, unless none does. New blocks are as large as the old
    ones, as nearly as whole samples allow, and learn at rates by their width; `baked()` puts all into one piece.
    """
    if start not in ("neighbour", "fresh"):
        raise InrError(f"New networks begin as a copy of their neighbour or fresh, not {start!r}.")
    field = field.baked()
    layout = field.layout.cropped(field.spec.box)
    old = Layout(tuple(_cut(line, box) for line, box in zip(layout.borders, field.spec.box)), layout.kept)
    lattice = [(axis.start, axis.step) for axis in field.spec.axes]
    if [(axis.start, axis.step) for axis in spec.axes] != lattice or spec.out_features != field.spec.out_features:
        raise InrError("An extension must go on with the coordinates and the channels of what it extends.")
    if any(low > first or high < stop for (low, high), (first, stop) in zip(spec.box, field.spec.box)):
        raise InrError("An extension must cover all of what it extends.")
    grid = Layout(tuple(_longer(line, box) for line, box in zip(old.borders, spec.box)))
    blocks = {grid.box_of(block): block for block in grid.blocks}
    had = [blocks[old.box_of(block)] for block in range(old.total)]     # old blocks, in the new grid
    known = set(had)
    fresh = [block for block in grid.blocks if block not in known]
    if part is not None and field.config.occupied_only and spec.kind == "shape":
        fresh = [block for block in fresh if reaches_into(part, grid.box_of(block))] or fresh
    layout = grid.keeping(fresh + [had[block] for block in old.blocks])
    new = {block: slot for slot, block in enumerate(layout.blocks) if block not in known}
    if not new:
        raise InrError("The extension adds no sample.")
    old_slots = field.layout.slots_of(field.layout.cropped(field.spec.box))
    place = {had[block]: slot for slot, block in enumerate(old.blocks)}
    order = torch.tensor([place.get(block, -1) for block in layout.blocks])
    order[order < 0] = torch.arange(len(new)) + len(old_slots)
    nearest = [old_slots[_nearest(grid.box_of(block), old.boxes())] for block in new]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        grown = type(field)(replace(field.config.laid_out(layout), local_rate=None), spec).to(field.fill)
    grown.load_state_dict({**grown.state_dict(), **_shared(field)})
    grown.requires_grad_(False)
    for name, layer in field.local_linears().items():
        begun = Picked(layer, nearest) if start == "neighbour" else \
            Picked(grown.get_submodule(name), list(new.values()))
        parent, _, attribute = name.rpartition(".")
        setattr(grown.get_submodule(parent), attribute,
                GrownLinear(Picked(layer, old_slots), begun, order.to(field.fill.device)))
    return grown.train(field.training)


def join(first: Partitioned, second: Partitioned) -> Partitioned:
    """Return one field of two neighbouring regions that share their global network and merge operator."""
    if type(first) is not type(second):
        raise InrError(f"A {first.name} cannot be joined with a {second.name}.")
    first, second = first.baked(), second.baked()
    _check_alike(first, second)
    borders = tuple(tuple(sorted({*a, *b})) for a, b in zip(first.layout.borders, second.layout.borders))
    grid = Layout(borders)
    blocks = {grid.box_of(block): block for block in grid.blocks}
    slots: dict[int, tuple[Partitioned, int]] = {}
    for field in (second, first):                       # where both know a block, the first one's network stays
        for slot, box in enumerate(field.layout.boxes()):
            if box not in blocks:
                raise InrError("The blocks of the two fields cut across each other, so they cannot be merged.")
            if blocks[box] in slots and not _same_block(slots[blocks[box]], (field, slot)):
                raise InrError("The two fields hold different networks for the same block; crop one of them first.")
            slots[blocks[box]] = field, slot
    layout = grid.keeping(slots)
    mine, theirs = ([slots[block][1] for block in layout.blocks if slots[block][0] is field]
                    for field in (first, second))
    order = sorted(range(len(layout.blocks)), key=lambda i: (slots[layout.blocks[i]][0] is second, i))
    inverse = sorted(range(len(order)), key=order.__getitem__)
    local = {}
    for name, layer in first.local_linears().items():
        joined = GrownLinear(Picked(layer, mine), Picked(second.get_submodule(name), theirs), torch.tensor(inverse))
        local[name] = joined.to(first.fill.device)
    spec = first.spec.cropped(_around(first.spec.box, second.spec.box))
    if "whole" in {*first.spec.meta, *second.spec.meta}:        # an extension is in it
        spec = spec.replace(meta={**spec.meta, "whole": [*map(list, _around(first.spec.whole, second.spec.whole))]})
    return rebuilt(first, first.config.laid_out(layout), spec, local)


def _around(first: Box, second: Box) -> Box:
    """Return the smallest box that holds two."""
    return tuple((min(a, c), max(b, d)) for (a, b), (c, d) in zip(first, second))


def _chosen(layout: Layout, keep: Iterable[int] | None, drop: Iterable[int] | None) -> list[int]:
    """Return the blocks that stay."""
    keep = list(layout.blocks) if keep is None else list(keep)
    drop = [] if drop is None else list(drop)
    wrong = [block for block in (*keep, *drop) if not 0 <= block < layout.total]
    if wrong:
        raise InrError(f"There is no block {wrong[0]}: the {' × '.join(map(str, layout.counts))} blocks are numbered "
                       f"0 to {layout.total - 1}, row by row.")
    there = set(layout.blocks)
    chosen = sorted((set(keep) & there) - set(drop))
    if not chosen:
        raise InrError("No block would be left.")
    return chosen


def _cut(line: tuple[int, ...], ends: tuple[int, int]) -> tuple[int, ...]:
    """Return borders whose first and last blocks end where the samples do."""
    return (ends[0], *line[1:-1], ends[1])


def _longer(line: tuple[int, ...], ends: tuple[int, int]) -> tuple[int, ...]:
    """Return borders that go on to `ends` in blocks of the usual length."""
    lengths = sorted(b - a for a, b in itertools.pairwise(line))
    usual = lengths[len(lengths) // 2]

    def blocks(low: int, high: int) -> list[int]:
        count = max(1, round((high - low) / usual))
        return [low + (2 * i * (high - low) + count) // (2 * count) for i in range(count + 1)] if low < high else [low]

    return (*blocks(ends[0], line[0])[:-1], *line, *blocks(line[-1], ends[1])[1:])


def _nearest(box: Box, boxes: Sequence[Box]) -> int:
    """Return which of `boxes` has its centre nearest to that of `box`."""
    centres = torch.tensor(boxes, dtype=torch.float64).sum(-1)
    return int((centres - torch.tensor(box, dtype=torch.float64).sum(-1)).square().sum(-1).argmin())


def _check_alike(first: Partitioned, second: Partitioned) -> None:
    same_axes = [(a.start, a.step) for a in first.spec.axes] == [(a.start, a.step) for a in second.spec.axes]
    same_values = (first.spec.kind, first.spec.values, first.spec.frame) == \
        (second.spec.kind, second.spec.values, second.spec.frame)
    if not (same_axes and same_values):
        raise InrError("The two archives hold signals of different kinds or frames, so they cannot be merged.")
    a, b = (_shared(field) for field in (first, second))
    if a.keys() != b.keys() or any(not torch.equal(a[name], b[name]) for name in a):
        raise InrError("The two fields do not share one global network. Parts that were cropped from, or extended, one "
                       "archive do.")


def _shared(field: Partitioned) -> dict[str, Tensor]:
    return {name: value for name, value in field.state_dict().items()
            if not any(name.startswith(f"{layer}.") for layer in field.local_linears())}


def _same_block(first: tuple[Partitioned, int], second: tuple[Partitioned, int]) -> bool:
    (a, i), (b, j) = first, second
    return all(torch.equal(x[i], y[j]) for name, layer in a.local_linears().items()
               for x, y in zip(layer.tensors(), b.get_submodule(name).tensors()))
