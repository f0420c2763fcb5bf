"""The training step of a Local-Global SIREN on the CPU, forward and backward by hand.

Wide products of the global network go to a library, one per level: the next global layer and the merge operator see the
same features, so their matrices stand side by side. Its sines are the host's sines.c, all else is blocks.c. In bfloat16
(under autocast) the global stream alone is rounded; coordinates, local layers and sums stay in float32. Where blocks
are wide, wide.py gives it their products too.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from inr_scenes.kernels import choice
from inr_scenes.kernels.native import LANES, SINES, Pool, call, library
from inr_scenes.kernels.products import product
from inr_scenes.siren import SineLayer

from . import kernel
from .layers import Blocks
from .levels import TWICE, Gradients, Prepared, global_backward
from .wide import WideLevels

BLOCKS = Path(__file__).with_name("blocks.c")
WIDE = {torch.bfloat16: 36, torch.float32: 96}      # local width from which a library is quicker than blocks.c


class FusedLevels(torch.autograd.Function):
    """Values (blocks · rows, out) of coords (blocks, rows, in).

    tensors: weight (blocks, in, out) and bias (blocks, out) of each local layer and the output, then weight (out, in)
    and bias (out) of each global layer, then of one merge operator or one a level. turns: omega / 2π of each level;
    merge_turns: of merges. Gradients go to the tensors, once; not to the coordinates.
    """

    @staticmethod
    def forward(ctx, coords: Tensor, dtype: torch.dtype, turns: list[float], merge_turns: float, keep: bool,
                *tensors: Tensor) -> Tensor:
        """Run all levels; sines and their derivatives stay in the workspace if there is to be a backward."""
        blocks, rows, d = coords.shape
        net = Prepared(dtype, turns, merge_turns, tensors)
        native, sines, h, g, levels, total = *_libraries(dtype), net.h, net.g, len(turns), blocks * rows
        x = coords.contiguous()
        work = _POOL.take(total, g, h, levels, dtype)
        if g:
            call(sines.first_sines, total, d, g, x, net.first_t, net.global_bias[0], *work.shared[0])
        local = x
        for i in range(levels):
            u, du, merged, d_merged = work.local[i]
            z, last = None, i + 1 == levels
            if g:
                z = work.wide[:total * h].view(total, h) if last else work.wide.view(total, g + h)
                z = product(work.shared[i][0], net.wide_t[i].T, out=z)      # [next global layer | merge]
            call(native.local_forward, blocks, rows, local.shape[-1], h, local, net.weight[i], net.bias[i],
                 net.merge[i], net.offset[i], z[:, -h:] if g else None, z.shape[1] if g else 0,
                 u, du, merged, d_merged)
            if g and not last:
                call(sines.next_sines, total, g, z, g + h, net.global_bias[i + 1], *work.shared[i + 1])
            local = merged if g else u
        y = torch.empty(total, net.out)
        call(native.output_forward, blocks, rows, h, net.out, local, net.output_t, net.output_bias, y)
        if keep:
            ctx.net, ctx.work, ctx.x = net, work, x
        else:
            _POOL.give(work, *work.key)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy: Tensor):
        """Run all levels backwards."""
        net, work, x, dy, ctx.work = ctx.net, ctx.work, ctx.x, dy.contiguous(), None
        if work is None:
            raise RuntimeError(TWICE)
        blocks, rows, _ = x.shape
        native, h, g, levels, total = library(BLOCKS, net.dtype), net.h, net.g, len(net.turns), blocks * rows
        result = Gradients(net)
        grad, grad_u, grad_in = work.grad
        top = work.local[-1][2 if g else 0]
        d_output_t = torch.empty(blocks, net.out, h)
        call(native.output_backward, blocks, rows, h, net.out, dy, top, net.output_t, grad, d_output_t)
        dz = work.wide.view(total, g + h) if g else None                    # [global layer i + 1 | merge i]
        for i in reversed(range(levels)):
            u, du, _, d_merged = work.local[i]
            local = work.local[i - 1][2 if g else 0] if i else x
            k = local.shape[-1]
            d_weight, d_bias, d_offset = torch.empty(blocks, k, h), torch.empty(blocks, h), torch.empty(blocks, h)
            d_merge = torch.empty(blocks, h, h) if g and not net.additive else None
            call(native.local_backward, blocks, rows, k, h, grad, local, net.weight_t[i], net.merge_t[i], u, du,
                 d_merged, dz[:, g:] if g else None, g + h, grad_u, grad_in, d_weight, d_bias, d_merge, d_offset)
            result.local(i, d_weight, d_bias)
            grad, grad_in = grad_in, grad
            if g:
                global_backward(result, i, work, dz, x, None if d_merge is None else d_merge.sum(0), d_offset.sum(0))
        _POOL.give(work, *work.key)
        return None, None, None, None, None, *result.tensors(d_output_t, dy.view(blocks, rows, net.out).sum(1))


class _Workspace:
    """Memory of one step's part."""

    def __init__(self, total: int, g: int, h: int, levels: int, dtype: torch.dtype):
        self.key = total, g, h, levels, dtype
        self.shared = torch.empty(levels, 2, total, g, dtype=dtype)         # sines of the global layers, derivatives
        self.local = torch.empty(levels, 4, total, h)                       # of local layers, then of merges
        self.wide = torch.empty(total * (g + h), dtype=dtype)
        self.grad_shared = torch.empty(total, g, dtype=dtype)
        self.grad = list(torch.empty(3, total, h))


_POOL = Pool(_Workspace)


def _libraries(dtype: torch.dtype):
    """Return blocks.c and the host's sines.c, compiled for wide tensors of a type."""
    return library(BLOCKS, dtype), library(SINES, dtype)


def values(field, points: Blocks, shared: Iterable[SineLayer]) -> Tensor:
    """Return a partitioned SIREN's values (blocks · rows, out), by a fused path where one is chosen and serves.

    blocks.c does on the CPU in float32, and in bfloat16 under autocast, unless the coordinates want derivatives; the
    Triton kernel on CUDA. shared: the global layers, then the merge operators.
    """
    coords, slots = points.coords, points.slots
    if not choice.serves(coords) or field.fill.dtype is not torch.float32:
        return field.evaluate(coords, slots).flatten(0, 1)
    if coords.device.type != "cpu" or choice.interpreted():
        values = _on_chip(field, coords, slots, shared)
        if values is not None:
            return values
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
    narrow = getattr(field.config, "global_features", LANES) < LANES
    if coords.device.type != "cpu" or narrow or None in _libraries(dtype):
        return field.evaluate(coords, slots).flatten(0, 1)
    while len(slots) < torch.get_num_threads() and coords.shape[1] % 2 == 0:        # work for every thread
        coords, slots = coords.unflatten(1, (2, -1)).flatten(0, 1), slots.repeat_interleave(2)
    layers, omegas = list(shared), _omegas(field)
    compute = _in_wide_c if field.config.local_features >= WIDE[dtype] and not _adds(field) else _in_c
    shapes = _shapes(field, layers)

    def check() -> None:
        kernel.self_check(compute, omegas, dtype, shapes, coords.shape[-1], coords.device)

    if not choice.proved((compute, dtype, omegas, coords.shape[-1], *shapes), check):
        return field.evaluate(coords, slots).flatten(0, 1)
    own, common = _tensors(field, slots, layers)
    return compute(omegas, dtype, coords, [*own, *common])


def _in_c(omegas: kernel.Omegas, dtype: torch.dtype, coords: Tensor, tensors: Sequence[Tensor],
          levels: type[torch.autograd.Function] = FusedLevels) -> Tensor:
    """Return values as `kernel.reference` does, by blocks.c."""
    turns = [omega / (2 * math.pi) for omega in omegas.of_levels]
    with torch.autocast("cpu", enabled=False):
        return levels.apply(coords, dtype, turns, omegas.hidden / (2 * math.pi), torch.is_grad_enabled(), *tensors)


_in_wide_c = functools.partial(_in_c, levels=WideLevels)


def obstacle(field, device: torch.device) -> str | None:
    """Say why neither fused path serves a partitioned SIREN on a device; none if one does."""
    config = field.config
    if device.type == "cpu" and None not in _libraries(torch.float32):
        wide = getattr(config, "global_features", LANES)
        return f"blocks.c takes global widths of at least {LANES}, not {wide}" if wide < LANES else None
    if _adds(field):
        return f"--merge add has no fused kernel on {device.type}"
    return choice.triton_obstacle(device) or kernel.obstacle(
        config.local_features, getattr(config, "global_features", 0), config.hidden_layers + 1)


def fast_path(device: torch.device) -> str | None:
    """Return the fused path that a Local-Global SIREN in half precision takes on a device, once it is proved."""
    in_c = device.type == "cpu" and not (choice.interpreted() and choice.chosen() == "fused")
    if None in _libraries(torch.bfloat16) if in_c else choice.triton_obstacle(device):
        return None
    compute, dtype, name = (_in_c, torch.bfloat16, "fused (C)") if in_c else \
        (kernel.local_global, torch.float16, "fused (Triton)")
    h, g, levels = 14, 84, 4                # the published image's widths
    shapes = [(2, 2, h), (2, h), *[(2, h, h), (2, h)] * (levels - 1), (2, h, 3), (2, 3), (g, 2), (g,),
              *[(g, g), (g,)] * (levels - 1), (h, h + g), (h,)]

    def check() -> None:
        kernel.self_check(compute, kernel.Omegas(), dtype, shapes, 2, device)

    return name if choice.proved(("local-global", device), check) else None


def _adds(field) -> bool:
    """Say whether a field adds its global features to the local ones; such merges are known to blocks.c alone."""
    return getattr(field.config, "merge", None) == "add"


def _on_chip(field, coords: Tensor, slots: Tensor, shared: Iterable[SineLayer]) -> Tensor | None:
    """Return the values by the Triton kernel where it is chosen and serves, else none."""
    config = field.config
    widths = config.local_features, getattr(config, "global_features", 0)
    if len(slots) > kernel.MOST_BLOCKS or _adds(field) or kernel.obstacle(*widths, config.hidden_layers + 1):
        return None
    omegas = _omegas(field)
    layers = list(shared)
    shapes = _shapes(field, layers)

    def check(dtype: torch.dtype, device: torch.device) -> None:
        kernel.self_check(kernel.local_global, omegas, dtype, shapes, coords.shape[-1], device)

    if not choice.triton_serves(coords, (omegas, *shapes), check):
        return None
    own, common = _tensors(field, slots, layers)
    return kernel.local_global(omegas, choice.product_type(coords), coords, [*own, *common])


def _omegas(field) -> kernel.Omegas:
    """Return a field's frequency factors."""
    config = field.config
    return kernel.Omegas(config.first_omega_0, config.omega_0, config.hidden_layers + 1)


def _shapes(field, shared: Iterable[SineLayer]) -> list[tuple[int, ...]]:
    """Return the shapes of the tensors of two blocks, layer by layer, and of the shared layers."""
    return [*((2, *tensor.shape[1:]) for layer in field.local for tensor in (layer.weight, layer.bias)),
            *(tuple(tensor.shape) for layer in shared for tensor in (layer.linear.weight, layer.linear.bias))]


def _tensors(field, slots: Tensor, shared: Iterable[SineLayer]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the tensors of the blocks in `slots`, layer by layer, and those of the shared layers, for plain sines."""
    local = [tensor.index_select(0, slots) for layer in field.local for tensor in layer.tensors()]
    return field.as_sines(local, [tensor for layer in shared for tensor in (layer.linear.weight, layer.linear.bias)])
