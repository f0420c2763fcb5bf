"""Linear layers with one matrix a block, and the sorting of points into blocks."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Blocks(NamedTuple):
    """Points already sorted by block: coords (blocks, rows, in), and the slot of each block (blocks,)."""

    coords: Tensor
    slots: Tensor


class LocalLinear(nn.Module):
    """x W_k + b_k with a matrix W_k (in, out) and a bias b_k (out) for every slot k.

    Weights start uniform within `bound`, biases within 1/√in: a block is initialised as a network of its own.
    """

    def __init__(self, slots: int, in_features: int, out_features: int, bound: float):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(slots, in_features, out_features).uniform_(-bound, bound))
        limit = 1 / math.sqrt(in_features)
        self.bias = nn.Parameter(torch.empty(slots, out_features).uniform_(-limit, limit))

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Return weights (slots, in, out) and biases (slots, out)."""
        return self.weight, self.bias

    def forward(self, x: Tensor, slots: Tensor) -> Tensor:
        """Map points (blocks, rows, in) of the blocks in `slots` (blocks,) to (blocks, rows, out)."""
        weight, bias = self.tensors()
        return torch.baddbmm(bias[slots][:, None], x, weight[slots])


class GrownLinear(LocalLinear):
    """A LocalLinear that has been extended: old slots are frozen, new ones train.

    order: for every slot its place among the old ones followed by the new ones.
    """

    def __init__(self, old: LocalLinear, new: LocalLinear, order: Tensor):
        nn.Module.__init__(self)
        self.old_weight = nn.Parameter(old.weight.detach().clone(), requires_grad=False)
        self.old_bias = nn.Parameter(old.bias.detach().clone(), requires_grad=False)
        self.weight, self.bias = new.weight, new.bias
        self.register_buffer("order", order, persistent=False)

    @property
    def new_slots(self) -> list[int]:
        """Slots that train."""
        return torch.nonzero(self.order >= len(self.old_weight)).flatten().tolist()

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Return the weights and biases of all slots in their order."""
        weight, bias = torch.cat([self.old_weight, self.weight]), torch.cat([self.old_bias, self.bias])
        return weight[self.order], bias[self.order]


def sine_local(slots: int, in_features: int, out_features: int, omega_0: float) -> LocalLinear:
    """Return a LocalLinear with SIREN's initialisation for hidden and last layers."""
    return LocalLinear(slots, in_features, out_features, math.sqrt(6 / in_features) / omega_0)


class Tiles:
    """Points sorted by slot and cut into tiles of equal length, so that one batched product serves every block.

    Where all blocks hold equally many points a tile is a block and nothing is padded; else tiles are about half the
    average block, and the rest of a block's last tile repeats its last point.
    blocks: how many slots there are, where nothing may wait for a device that alone knows the points; there are then as
    many tiles as there could be, some of which no point is in.
    """

    def __init__(self, slots: Tensor, blocks: int | None = None):
        self.inside = slots >= 0
        if blocks is not None:
            self._bounded(slots, blocks)
            return
        order = torch.argsort(slots, stable=True)
        order = order[len(order) - int(self.inside.sum()):]
        blocks, counts = torch.unique_consecutive(slots[order], return_counts=True)
        self.empty = not len(blocks)
        if self.empty:
            return
        largest = int(counts.max())
        even = largest * len(blocks) == len(order)
        length = largest if even else max(1, 1 << int(math.log2(max(1.0, len(order) / len(blocks) / 2))))
        tiles = (counts + length - 1) // length
        first_tile, first_row = tiles.cumsum(0) - tiles, counts.cumsum(0) - counts
        self.slots = blocks.repeat_interleave(tiles)
        block = torch.arange(len(blocks), device=slots.device).repeat_interleave(tiles)
        rows = torch.arange(len(block), device=slots.device)[:, None] - first_tile[block][:, None]
        rows = rows * length + torch.arange(length, device=slots.device)
        rows = torch.minimum(rows, counts[block][:, None] - 1) + first_row[block][:, None]
        self.index = order[rows]                                            # (tiles, length): which point fills a row
        block = torch.arange(len(blocks), device=slots.device).repeat_interleave(counts)
        place = torch.arange(len(order), device=slots.device) - first_row[block] + first_tile[block] * length
        self.place = torch.zeros_like(slots).scatter(0, order, place)       # (points,): where a point's row is

    def _bounded(self, slots: Tensor, blocks: int) -> None:
        n, self.empty = len(slots), not len(slots)
        if self.empty:
            return
        length = max(1, 1 << int(math.log2(max(1.0, n / blocks / 2))))
        counts = slots.new_zeros(blocks).scatter_add(0, slots.clamp_min(0), self.inside.to(slots.dtype))
        tiles = (counts + length - 1) // length
        first_tile, first_row = tiles.cumsum(0) - tiles, n - counts.sum() + counts.cumsum(0) - counts
        tile = torch.arange(n // length + blocks, device=slots.device)
        self.slots = torch.searchsorted(tiles.cumsum(0), tile, right=True).clamp_max(blocks - 1)
        rows = (tile - first_tile[self.slots])[:, None] * length + torch.arange(length, device=slots.device)
        rows = torch.minimum(rows, counts[self.slots][:, None] - 1) + first_row[self.slots][:, None]
        order = torch.argsort(slots, stable=True)           # those outside come first
        self.index = order[rows.clamp(0, n - 1)]
        block = slots[order].clamp_min(0)
        place = torch.arange(n, device=slots.device) - first_row[block] + first_tile[block] * length
        self.place = torch.zeros_like(slots).scatter(0, order, place.clamp_min(0))

    def gather(self, points: Tensor) -> Tensor:
        """Bring points (n, in) into tiles (tiles, length, in)."""
        return points[self.index]

    def scatter(self, values: Tensor, fill: Tensor) -> Tensor:
        """Bring values (tiles · length, out) back to the order of the points, (n, out); `fill` where no block is."""
        return torch.where(self.inside[:, None], values[self.place], fill)
