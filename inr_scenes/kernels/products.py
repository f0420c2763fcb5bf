"""Matrix products of float32 on the CPU, by oneDNN where that is quicker.

torch multiplies float32 by MKL, which leaves half of AVX-512 unused on processors of other makers than its own. oneDNN,
which torch brings along too but asks for half precision alone, takes all of it: on an AMD EPYC twice as quick on wide
matrices, four times on narrow ones.
"""

import functools
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from .choice import chosen

WORTH = 1 << 22                     # multiplications from which oneDNN makes up for its start
WIDE = 128                          # widths from which its products that sum over rows are quicker too


def product(a: Tensor, weight: Tensor, out: Tensor) -> Tensor:
    """Return a @ weight.T of a (rows, k) and weight (columns, k), which may be laid out, in `out` or anew.

    On the CPU, without a graph.
    """
    return _onednn(a, weight) if weight.is_mkldnn or _suits(a, weight) else torch.mm(a, weight.T, out=out)


def laid_out(weight: Tensor, rows: int) -> Tensor:
    """Return a weight for `product` of so many rows alone, laid out once where else each would do so."""
    if weight.dtype is torch.float32 and available():
        return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
    return weight


def over_rows(a: Tensor, b: Tensor) -> Tensor:
    """Return a.T @ b of a (rows, m) and b (rows, n), on the CPU and without a graph."""
    if a.dtype is torch.float32 and min(a.shape[1], b.shape[1]) >= WIDE and available():
        like = a.new_empty(a.shape[1], b.shape[1])
        return torch.ops.aten.mkldnn_linear_backward_weights(a.to_mkldnn(), b.to_mkldnn(), like, False)[0]
    return a.T @ b


def quick(device: torch.device) -> AbstractContextManager:
    """Return a context in which any network's linear layers take oneDNN's products, and so do their derivatives.

    It changes nothing on other devices than the CPU, under autocast, nor where `choose("torch")` or `choose("compile")`
    is in force.
    """
    serves = device.type == "cpu" and chosen() in ("auto", "fused") and not torch.is_autocast_enabled("cpu")
    return _Quick() if serves and available() else nullcontext()


class _Quick(TorchFunctionMode):
    def __torch_function__(self, function, types, arguments=(), keywords=None):
        """Take what torch calls instead of a function of its own."""
        if function is linear and not keywords and _suits(*arguments[:2]) and not _watched():
            return _linear(*arguments)
        return function(*arguments, **(keywords or {}))


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x (..., k) @ weight.T (k, columns) + bias, with derivatives of any order."""
    return _Linear.apply(x, weight, bias) if _suits(x, weight) else linear(x, weight, bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply, and keep both sides."""
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight, bias)

    @staticmethod
    def backward(ctx, dy: Tensor):
        """Multiply with either side, as something that can be differentiated again."""
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        dy, rows = dy.contiguous(), dy.flatten(0, -2)
        return (_linear(dy, weight.T) if wants_x else None,
                _OverRows.apply(rows, x.flatten(0, -2)) if wants_weight else None, rows.sum(0) if wants_bias else None)


class _OverRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor) -> Tensor:
        """Multiply, and keep both sides."""
        ctx.save_for_backward(a, b)
        return over_rows(a, b)

    @staticmethod
    def backward(ctx, dy: Tensor):
        """Multiply with either side, as something that can be differentiated again."""
        a, b = ctx.saved_tensors
        return (_linear(b, dy) if ctx.needs_input_grad[0] else None,
                _linear(a, dy.T) if ctx.needs_input_grad[1] else None)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x (..., k) @ weight.T (k, columns) + bias."""
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), _dense(weight), bias, "none", [], "")


def _dense(weight: Tensor) -> Tensor:
    """Return a weight whose numbers lie side by side: cut from a larger one it would take a thousand times as long."""
    return weight if weight.is_mkldnn or weight.is_contiguous() or weight.T.is_contiguous() else weight.contiguous()


def _suits(x: Tensor, weight: Tensor) -> bool:
    """Say whether a product is one that oneDNN is quicker at."""
    return (x.dtype is weight.dtype is torch.float32 and x.device.type == "cpu" and x.numel() * len(weight) >= WORTH
            and available())


def _watched() -> bool:
    """Say whether torch is to see the operation itself: to round it, or to make something else of it."""
    return (torch.is_autocast_enabled("cpu") or forward_ad._current_level >= 0 or torch.compiler.is_compiling()
            or torch._C._are_functorch_transforms_active()
            # torch.utils.checkpoint does everything again outside the mode, and wants it done alike
            or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None)


@functools.cache
def available() -> bool:
    """Say whether oneDNN is the quicker one here, and does as it should: what reaches it is torch's own affair."""
    if not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(64, WIDE, generator=generator) for _ in range(2))
    try:
        _watched()
        with torch.no_grad(), torch.autocast("cpu", enabled=False):         # whatever asks first
            laid = torch.ops.mkldnn._reorder_linear_weight(b, len(a))
            sums = torch.ops.aten.mkldnn_linear_backward_weights(a.to_mkldnn(), b.to_mkldnn(), a.T @ b, False)[0]
            return all(torch.allclose(found, true, atol=1e-4) for found, true in
                       ((_onednn(a, b), a @ b.T), (_onednn(a, laid), a @ b.T), (sums, a.T @ b)))
    except (AttributeError, RuntimeError):      # a torch that calls them otherwise
        return False
