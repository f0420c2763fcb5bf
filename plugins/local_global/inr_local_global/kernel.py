"""A Local-Global SIREN on a GPU as one operation: the fused kernel and its reference in plain torch."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from inr_scenes.kernels.choice import agree
from inr_scenes.kernels.mlp import chunk_of, gradient_scale, weight_gradients

WIDEST_LOCAL, WIDEST_GLOBAL, MOST_LEVELS = 128, 256, 9
MOST_BLOCKS = 65_535                # programs along a launch's second and third side


@dataclass(frozen=True)
class Omegas:
    """Frequency factors of the first level and of the others; merges have the others'."""

    first: float = 30.0
    hidden: float = 30.0
    levels: int = 4

    @property
    def of_levels(self) -> list[float]:
        """One factor a level."""
        return [self.first] + [self.hidden] * (self.levels - 1)


def reference(omegas: Omegas, coords: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Return values (blocks · rows, out) of coords (blocks, rows, in) in plain torch.

    tensors: weight (blocks, in, out) and bias (blocks, out) of each local layer and the output, then weight (out, in)
    and bias (out) of each global layer, then of one merge operator or one a level; no global layers, no merges. A merge
    that sees global features alone adds them.
    """
    (*locals_, output), shared, merges = split(omegas.levels, tensors)
    local = common = coords
    for i, ((weight, bias), omega) in enumerate(zip(locals_, omegas.of_levels)):
        local = torch.sin(omega * torch.baddbmm(bias[:, None], local, weight))
        if shared:
            common = torch.sin(omega * functional.linear(common, *shared[i]))
            weight, bias = merges[i % len(merges)]
            adds = weight.shape[1] == common.shape[-1]
            seen = common if adds else torch.cat([local, common], -1)
            merged = torch.sin(omegas.hidden * functional.linear(seen, weight, bias))
            local = local + merged if adds else merged
    return torch.baddbmm(output[1][:, None], local, output[0]).flatten(0, 1)


def split(levels: int, tensors: Sequence[Tensor]) -> tuple[list, list, list]:
    """Return (weight, bias) pairs of local layers with the output, of global layers, and of merge operators."""
    pairs = list(zip(tensors[::2], tensors[1::2]))
    return pairs[:levels + 1], pairs[levels + 1:2 * levels + 1], pairs[2 * levels + 1:]


def obstacle(local: int, shared: int, levels: int) -> str | None:
    """Say why the kernel does not serve widths and levels; none if it does."""
    if not local <= WIDEST_LOCAL or not shared <= WIDEST_GLOBAL or not levels <= MOST_LEVELS:
        return (f"the fused kernel takes local widths up to {WIDEST_LOCAL}, global ones up to {WIDEST_GLOBAL} and "
                f"{MOST_LEVELS} levels, not {local}, {shared} and {levels}")
    return None


def local_global(omegas: Omegas, dtype: torch.dtype, coords: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Return values (blocks · rows, out), float32, by the fused kernel.

    dtype: what products are rounded to; coordinates, sums and gradients are float32. Coordinates get no gradient.
    tensors: as for `reference`, which makes second derivatives.
    """
    with torch.autocast(coords.device.type, enabled=False), torch.cuda.device_of(coords):
        return _Fused.apply(omegas, dtype, torch.is_grad_enabled(), coords, *tensors)


def self_check(compute: Callable, omegas: Omegas, dtype: torch.dtype, shapes: Sequence[tuple[int, ...]], inputs: int,
               device: torch.device) -> None:
    """Compare compute(omegas, dtype, coords, tensors) with float64 plain torch on 129 rows of each of two blocks.

    shapes: of the tensors of `reference`, whose first dimension, blocks, may be more than two. Raises where values or
    gradients differ.
    """
    generator = torch.Generator().manual_seed(0)
    omegas = Omegas(min(omegas.first, 100.0), omegas.hidden, omegas.levels)
    local = 2 * omegas.levels + 2

    def uniform(shape: Sequence[int], bound: float) -> Tensor:
        return ((torch.rand(*shape, generator=generator) * 2 - 1) * bound).to(device).requires_grad_()

    tensors = []
    for i, shape in enumerate(shapes):
        shape = (2, *shape[1:]) if i < local else shape
        fan = shape[-2] if i < local else shape[-1]
        first = i == 0 or i == local
        # weights as SIREN's, biases within a tenth
        tensors.append(uniform(shape, 0.1 if i % 2 else 1 / fan if first else math.sqrt(6 / fan) / omegas.hidden))
    coords = (torch.rand(2, 129, inputs, generator=generator) * 2 - 1).to(device)
    agree(lambda ts: compute(omegas, dtype, coords, ts), lambda ts: reference(omegas, coords.double(), ts),
          tensors, dtype)


class _Fused(torch.autograd.Function):
    """Gradients go to the tensors, once or, by the reference, again; not to the coordinates."""

    @staticmethod
    def forward(ctx, omegas: Omegas, dtype: torch.dtype, recording: bool, coords: Tensor, *tensors: Tensor) -> Tensor:
        """Run the forward kernel; what backward needs is kept if there is to be one."""
        from .kernel_triton import forward

        net, keeps = _Packed(omegas, dtype, tensors, coords.shape[1]), recording and any(ctx.needs_input_grad)
        coords = coords.contiguous()
        blocks, rows, _ = coords.shape
        y = coords.new_empty(blocks * rows, net.out_features)
        kept_type = torch.float32 if dtype is torch.float32 else torch.int16
        kept = net.memory(coords, blocks * rows if keeps else 0, kept_type)
        if blocks * rows:
            forward[(net.tiles(rows), blocks)](
                coords, net.first, net.local, net.local_bias, net.output, net.output_bias, net.first_shared, net.shared,
                net.shared_bias, net.merge_local, net.merge_shared, net.merge_bias, y, *kept, rows, net.out_features,
                KEEP=keeps, **net.constants, num_warps=net.warps, num_stages=1)
        if keeps:
            ctx.save_for_backward(coords, *kept, *tensors)
            ctx.omegas, ctx.dtype, ctx.net = omegas, dtype, net
        return y

    @staticmethod
    def backward(ctx, dy: Tensor):
        """Run the backward kernels; a gradient that is to be differentiated again comes from the reference."""
        coords, *kept = ctx.saved_tensors[:4]
        tensors = ctx.saved_tensors[4:]
        if not torch.is_grad_enabled():
            with torch.cuda.device_of(coords):
                return None, None, None, None, *_gradients(ctx.net, ctx.dtype, coords, kept, dy.contiguous())
        with torch.autocast(coords.device.type, enabled=False):
            y = reference(ctx.omegas, coords, tensors)
            needs = ctx.needs_input_grad[4:]
            wanted = [tensor for tensor, need in zip(tensors, needs) if need]
            found = iter(torch.autograd.grad(y, wanted, dy, create_graph=True))
        return None, None, None, None, *(next(found) if need else None for need in needs)


class _Packed:
    """A network's tensors in turns, padded and laid side by side as the kernels read them."""

    def __init__(self, omegas: Omegas, dtype: torch.dtype, tensors: Sequence[Tensor], rows: int):
        levels = omegas.levels
        (*locals_, output), shared, merges = split(levels, [t.detach() for t in tensors])
        _, in_features, width = locals_[0][0].shape
        self.turns, self.merge_turns = [o / (2 * math.pi) for o in omegas.of_levels], omegas.hidden / (2 * math.pi)
        self.levels, self.h, self.g, self.merges = levels, width, len(shared[0][1]) if shared else 0, len(merges)
        self.out_features, self.in_features = output[1].shape[-1], in_features
        self.local_width, out = _power(width), _power(self.out_features)
        chunk = chunk_of(self.g) if self.g else 16
        self.global_width = -(-self.g // chunk) * chunk
        pad, wide = self.local_width - width, self.global_width - self.g
        self.first = functional.pad(locals_[0][0] * self.turns[0], (0, pad)).contiguous()
        self.local_bias = functional.pad(torch.stack([b * t for (_, b), t in zip(locals_, self.turns)]), (0, pad))
        self.local = self._stack([w for w, _ in locals_[1:]], self.merge_turns, (0, pad, 0, pad), dtype, output[0])
        self.output = functional.pad(output[0].to(dtype), (0, out - self.out_features, 0, pad)).contiguous()
        self.output_bias = functional.pad(output[1], (0, out - self.out_features)).contiguous()
        # what nobody reads unless there is a global network
        self.first_shared = self.shared = self.shared_bias = self.output_bias
        self.merge_local = self.merge_shared = self.merge_bias = self.output_bias
        if shared:
            self.first_shared = functional.pad((shared[0][0] * self.turns[0]).T, (0, wide)).contiguous()
            self.shared_bias = functional.pad(torch.stack([b * t for (_, b), t in zip(shared, self.turns)]), (0, wide))
            hidden = [w for w, _ in shared[1:]]
            self.shared = self._stack(hidden, self.merge_turns, (0, wide, 0, wide), dtype, output[0])
            both = torch.stack([w for w, _ in merges]) * self.merge_turns
            self.merge_local = functional.pad(both[..., :width], (0, pad, 0, pad)).to(dtype).contiguous()
            self.merge_shared = functional.pad(both[..., width:], (0, wide, 0, pad)).to(dtype).contiguous()
            self.merge_bias = functional.pad(torch.stack([b for _, b in merges]) * self.merge_turns, (0, pad))
        self.rows = 64 if rows <= 64 or dtype is torch.float32 or self.global_width > 128 else 128
        self.warps = 8 if self.global_width > 64 else 4
        self.precision = "tf32x3" if dtype is torch.float32 else "ieee"
        self.constants = {"IN": in_features, "LEVELS": levels, "LOCAL": self.local_width, "GLOBAL": self.global_width,
                          "CHUNK": chunk, "OUT": out, "ROWS": self.rows, "MERGES": max(1, self.merges),
                          "PRECISION": self.precision}

    @staticmethod
    def _stack(weights: list[Tensor], turns: float, pad: tuple[int, ...], dtype: torch.dtype, like: Tensor) -> Tensor:
        """Return hidden layers' weights in one tensor; a network of one level has none."""
        if not weights:
            return like.new_zeros(1, dtype=dtype)
        return functional.pad(torch.stack(weights) * turns, pad).to(dtype).contiguous()

    def tiles(self, rows: int) -> int:
        """Return the number of row tiles of a block."""
        return -(-rows // self.rows)

    def memory(self, like: Tensor, total: int, dtype: torch.dtype) -> list[Tensor]:
        """Return unwritten memory for u, l and g of all levels."""
        merged = total if self.g else 0
        shapes = (total, self.local_width), (merged, self.local_width), (merged, self.global_width)
        return [like.new_empty(self.levels, *shape, dtype=dtype) for shape in shapes]


def _gradients(net: _Packed, dtype: torch.dtype, coords: Tensor, kept: list[Tensor], dy: Tensor) -> list[Tensor]:
    """Return the gradients of all tensors."""
    from .kernel_triton import backward

    blocks, rows, _ = coords.shape
    h, g, levels, tiles = net.h, net.g, net.levels, net.tiles(rows)
    scale = gradient_scale(dy, dtype)
    u, l, shared = net.memory(coords, blocks * rows, dtype)
    local_sums = coords.new_empty(blocks, tiles, 2 * levels + net.in_features, net.local_width)
    shared_sums = coords.new_empty(blocks, tiles, levels + net.in_features, net.global_width)
    output_sums = coords.new_empty(blocks, tiles, net.local_width, net.constants["OUT"])
    if blocks * rows:
        backward[(tiles, blocks)](coords, net.local, net.output, net.shared, net.merge_local, net.merge_shared, dy,
                                  scale, *kept, u, l, shared, local_sums, shared_sums, output_sums, rows,
                                  net.out_features, **net.constants, num_warps=net.warps, num_stages=1)
    back = 1 / scale
    per_block = local_sums.sum(1)[..., :h] * back
    local = weight_gradients(u[1:], kept[1 if g else 0][:-1], True, net.precision, splits=blocks)
    local = local[..., :h, :h].mT * (back * net.merge_turns)                # (blocks, levels - 1, in, out)
    pairs = [(per_block[:, 2 * levels:] * net.turns[0], per_block[:, 0] * net.turns[0])]
    pairs += [(local[:, i - 1], per_block[:, i] * net.turns[i]) for i in range(1, levels)]
    output = output_sums.sum(1)[:, :h, :net.out_features] * back
    pairs.append((output, dy.unflatten(0, (blocks, rows)).sum(1)))
    if g:
        sums = shared_sums.sum((0, 1))[:, :g] * back
        hidden = weight_gradients(shared[1:], kept[2][:-1], True, net.precision)[:, :g, :g] * (back * net.merge_turns)
        pairs.append((sums[levels:].T * net.turns[0], sums[0] * net.turns[0]))
        pairs += [(hidden[i - 1], sums[i] * net.turns[i]) for i in range(1, levels)]
        mine = weight_gradients(l, kept[0], True, net.precision)[:, :h, :h]
        common = weight_gradients(l, kept[2], True, net.precision)[:, :h, :g]
        merge = torch.cat([mine, common], -1) * (back * net.merge_turns)
        offset = per_block[:, levels:2 * levels].sum(0) * net.merge_turns
        if net.merges == 1:
            merge, offset = merge.sum(0, keepdim=True), offset.sum(0, keepdim=True)
        pairs += list(zip(merge, offset))
    return [tensor for pair in pairs for tensor in pair]


def _power(width: int) -> int:
    """Return the least power of two of at least 16 that is no smaller."""
    return max(16, 1 << (width - 1).bit_length())
