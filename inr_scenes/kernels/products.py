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

LEAST = 64                          # rows from which oneDNN's start is made up for
WIDE = 128                          # widths from which its products that sum over rows are quicker too


def product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """Return a (rows, k) @ b (k, columns), on the CPU and without a graph, in `out` or anew where it has to be."""
    return _onednn(a, b.T) if a.dtype is torch.float32 and _serves() else torch.mm(a, b, out=out)


def over_rows(a: Tensor, b: Tensor) -> Tensor:
    """Return a.T @ b of a (rows, m) and b (rows, n), on the CPU and without a graph."""
    if a.dtype is torch.float32 and min(a.shape[1], b.shape[1]) >= WIDE and _serves():
        like = a.new_empty(a.shape[1], b.shape[1])
        return torch.ops.aten.mkldnn_linear_backward_weights(a.to_mkldnn(), b.to_mkldnn(), like, False)[0]
    return a.T @ b


def quick(device: torch.device) -> AbstractContextManager:
    """Return a context in which any network's linear layers take oneDNN's products where no gradient is wanted.

    It changes nothing on other devices than the CPU, nor where `choose("torch")` or `choose("compile")` is in force.
    """
    return _Quick() if device.type == "cpu" and chosen() in ("auto", "fused") and _serves() else nullcontext()


class _Quick(TorchFunctionMode):
    def __torch_function__(self, function, types, arguments=(), keywords=None):
        """Take what torch calls instead of a function of its own."""
        if function is linear and not keywords and _suits(*arguments):
            return _onednn(*arguments)
        return function(*arguments, **(keywords or {}))


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x (..., k) @ weight.T (k, columns) + bias."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _suits(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Say whether a linear layer is one that oneDNN is to compute."""
    return (x.device.type == "cpu" and x.dtype is weight.dtype is torch.float32 and x.numel() >= LEAST * x.shape[-1] > 0
            and not torch.is_autocast_enabled("cpu") and not torch.is_grad_enabled()
            and not torch.compiler.is_compiling() and not torch._C._are_functorch_transforms_active()
            and forward_ad._current_level < 0)


@functools.cache
def _serves() -> bool:
    """Say whether oneDNN is quicker here, and does as it should: its operations are torch's own affair."""
    if not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    a, b = (torch.rand(LEAST, WIDE, generator=torch.Generator().manual_seed(0)) for _ in range(2))
    try:
        return torch.allclose(_onednn(a, b), a @ b.T, atol=1e-4) and torch.allclose(
            torch.ops.aten.mkldnn_linear_backward_weights(a.to_mkldnn(), b.to_mkldnn(), a.T @ b, False)[0], a.T @ b,
            atol=1e-4)
    except (AttributeError, RuntimeError):      # a torch that calls them otherwise
        return False
