"""The training step of a Local-Global SIREN of few, wide blocks on the CPU: products by libraries, sines by sines.c.

In bfloat16 (under autocast) sines, their derivatives and products are rounded, those of local layers too; coordinates,
first layers, the output and sums stay in float32.
"""

import torch
from torch import Tensor

from inr_scenes.kernels.native import SINES, Pool, call, library
from inr_scenes.kernels.products import over_rows, product

from .levels import TWICE, Gradients, Prepared, global_backward

EACH = 64                           # rows that one thread sums by itself


class WideLevels(torch.autograd.Function):
    """Values (blocks · rows, out) of coords (blocks, rows, in); arguments and gradients as those of FusedLevels."""

    @staticmethod
    def forward(ctx, coords: Tensor, dtype: torch.dtype, turns: list[float], merge_turns: float, keep: bool,
                *tensors: Tensor) -> Tensor:
        """Run all levels; sines and their derivatives stay in the workspace if there is to be a backward."""
        blocks, rows, d = coords.shape
        net, sines = Prepared(dtype, turns, merge_turns, tensors), library(SINES, dtype)
        h, g, levels, total = net.h, net.g, len(turns), blocks * rows
        x = coords.contiguous()
        work = _POOL.take(blocks, rows, g, h, levels, dtype)
        if g:
            call(sines.first_sines, total, d, g, x, net.first_t, net.global_bias[0], *work.shared[0])
        for i in range(levels):
            u, du, merged, d_merged = work.local[i]
            last = i + 1 == levels
            if i:
                below = work.local[i - 1][2 if g else 0]
                torch.bmm(below, net.weight[i].to(dtype), out=work.product)
            for b in range(blocks):
                if i:
                    call(sines.next_sines, rows, h, work.product[b], h, net.bias[i][b], u[b], du[b])
                else:
                    call(sines.first_sines, rows, d, h, x[b], net.weight[0][b], net.bias[0][b], u[b], du[b])
            if g:
                z = work.wide[:total * h].view(total, h) if last else work.wide.view(total, g + h)
                z = product(work.shared[i][0], net.wide_t[i].T, out=z)      # [next global layer | merge]
                mine = z[:, -h:]
                mine.addmm_(u.view(total, h), net.merge[i].to(dtype))
                call(sines.next_sines, total, h, mine, z.shape[1], net.offset[i], merged, d_merged)
                if not last:
                    call(sines.next_sines, total, g, z, g + h, net.global_bias[i + 1], *work.shared[i + 1])
        top, y = work.local[-1][2 if g else 0], torch.empty(blocks, rows, net.out)
        for b in range(blocks):
            call(sines.output, rows, h, net.out, top[b], net.output_t[b], net.output_bias[b], y[b])
        if keep:
            ctx.net, ctx.work, ctx.x = net, work, x
        else:
            _POOL.give(work, *work.key)
        return y.view(total, net.out)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy: Tensor):
        """Run all levels backwards."""
        net, work, x, dy, ctx.work = ctx.net, ctx.work, ctx.x, dy.contiguous(), None
        if work is None:
            raise RuntimeError(TWICE)
        blocks, rows, d = x.shape
        sines, h, g, levels, total = library(SINES, net.dtype), net.h, net.g, len(net.turns), blocks * rows
        result, grad, dy = Gradients(net), work.product, dy.view(blocks, rows, net.out)
        top, parts = work.local[-1][2 if g else 0], torch.empty(blocks, -(-rows // EACH), net.out, h)
        for b in range(blocks):
            call(sines.output_backward, rows, EACH, h, net.out, dy[b], top[b], net.output_t[b], grad[b], parts[b])
        d_output_t = parts.sum(1)
        dz = work.wide.view(total, g + h) if g else None                    # [global layer i + 1 | merge i]
        for i in reversed(range(levels)):
            u, du, _, d_merged = work.local[i]
            if g:
                mine, sums = dz[:, g:], torch.empty(-(-total // EACH), h)
                call(sines.sines_backward, total, EACH, h, 0, grad, d_merged, mine, g + h, x, sums)
                d_merge, d_offset = over_rows(u.view(total, h), mine), sums.sum(0)
                grad = product(mine, net.merge_t[i].to(net.dtype).T, out=grad.view(total, h)).view(blocks, rows, h)
            first = 0 if i else d
            sums = torch.empty(blocks, 1 + first, h)
            call(sines.sines_backward, total, rows, h, first, grad, du, du, h, x, sums)     # du becomes the derivatives
            if i:
                below = work.local[i - 1][2 if g else 0]
                result.local(i, torch.bmm(below.mT, du).float(), sums[:, 0])
                torch.bmm(du, net.weight_t[i].to(net.dtype), out=grad)
            else:
                result.local(0, sums[:, 1:], sums[:, 0])
            if g:
                global_backward(result, i, work, dz, x, d_merge.float(), d_offset)
        _POOL.give(work, *work.key)
        return None, None, None, None, None, *result.tensors(d_output_t, dy.sum(1))


class _Workspace:
    """Memory of one step's part."""

    def __init__(self, blocks: int, rows: int, g: int, h: int, levels: int, dtype: torch.dtype):
        self.key, total = (blocks, rows, g, h, levels, dtype), blocks * rows
        self.shared = torch.empty(levels, 2, total, g, dtype=dtype)         # sines of the global layers, derivatives
        self.local = torch.empty(levels, 4, blocks, rows, h, dtype=dtype)   # of local layers, then of merges
        self.wide = torch.empty(total * (g + h), dtype=dtype)
        self.grad_shared = torch.empty(total, g, dtype=dtype)
        self.product = torch.empty(blocks, rows, h, dtype=dtype)            # of local layers; then derivatives


_POOL = Pool(_Workspace)
