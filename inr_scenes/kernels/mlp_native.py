"""A whole sine network on the CPU, forward and backward by hand: products by a library, all else by sines.c.

In bfloat16 (under autocast) sines, their derivatives and products are rounded; coordinates, the first layer, the output
and sums stay in float32. A layer's product, its sines and what backward needs of them are each written once, into
memory that the next part takes again.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .native import LANES, SINES, TYPES, Pool, call, library
from .network import Net, differentiable
from .products import laid_out, over_rows, product

EACH = 64                           # rows that one thread sums by itself
PART = 4096                         # rows that go through all layers together where nothing is kept
SHAPES = 128                        # that as many or more are a multiple of: oneDNN compiles a product for each


def obstacle(net: Net, width: int, dtype: torch.dtype) -> str | None:
    """Say why this path does not serve; none if it does."""
    if not net.sine:
        return "the C kernel is for sine networks"
    if width < LANES:
        return f"the C kernel takes a width of {LANES} at least, not {width}"
    if library(SINES, dtype) is None:
        return "there is no C compiler, or it was switched off" if dtype in TYPES else f"the C kernel has no {dtype}"
    return None


def sines(net: Net, dtype: torch.dtype, x: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Return values (rows, out), float32, of x (rows, in).

    dtype: what products are rounded to, bfloat16 or float32. tensors: weight (out, in) and bias (out,) of the first
    layer, of each hidden one and of the linear output. Derivatives to be differentiated again are plain torch's.
    """
    with torch.autocast("cpu", enabled=False):
        return _Sines.apply(net, dtype, torch.is_grad_enabled(), x, *tensors)


class _Sines(torch.autograd.Function):
    """Gradients go to x and all tensors."""

    @staticmethod
    def forward(ctx, net: Net, dtype: torch.dtype, recording: bool, x: Tensor, *tensors: Tensor) -> Tensor:
        """Run all layers; sines and their derivatives stay in the workspace if there is to be a backward."""
        x, packed = x.contiguous(), _Packed(net, dtype, tensors)
        y = torch.empty(len(x), packed.out)
        if not (recording and any(ctx.needs_input_grad)):
            packed.hidden = [laid_out(weight, PART) for weight in packed.hidden]
            for part, values in zip(x.split(PART), y.split(PART)):
                rows = len(part) if len(part) < SHAPES else -(-len(part) // SHAPES) * SHAPES
                whole = part if rows == len(part) else functional.pad(part, (0, 0, 0, rows - len(part)))
                work, found = _POOL.take(rows, packed.width, 0, False, dtype), y.new_empty(rows, packed.out)
                _run(packed, work, whole, found)
                values.copy_(found[:len(part)])
                _POOL.give(work, *work.key)
            return y
        work = _POOL.take(len(x), packed.width, packed.layers, True, dtype)
        _run(packed, work, x, y)
        ctx.save_for_backward(x, *tensors, work.product, work.sines)
        ctx.net, ctx.packed, ctx.taken = net, packed, False
        return y

    @staticmethod
    def backward(ctx, dy: Tensor):
        """Run all layers backwards; a gradient that is to be differentiated again comes from plain torch."""
        needs = ctx.needs_input_grad[3:]
        *inputs, product, kept = ctx.saved_tensors
        if torch.is_grad_enabled() or ctx.taken:            # a second backward finds its memory taken
            return None, None, None, *differentiable(ctx.net, inputs, dy, needs)
        ctx.taken, work = True, _Workspace(product.data, kept, keeps=True)      # what is written here counts no version
        found = _gradients(ctx.packed, work, inputs[0], dy.contiguous(), needs)
        _POOL.give(work, *work.key)
        return None, None, None, *found


class _Packed:
    """A network's tensors in turns, as the kernels and the products read them."""

    def __init__(self, net: Net, dtype: torch.dtype, tensors: Sequence[Tensor]):
        weights, biases = [w.detach() for w in tensors[::2]], [b.detach() for b in tensors[1::2]]
        self.layers, self.dtype = len(weights) - 2, dtype
        self.width, self.out = weights[0].shape[0], len(weights[-1])
        self.turns = net.turns(self.layers)
        self.first = (weights[0] * self.turns[0]).T.contiguous()
        self.bias = [b * t for b, t in zip(biases, self.turns)]
        self.hidden = [(w * t).to(dtype) for w, t in zip(weights[1:-1], self.turns[1:])]
        self.output, self.output_bias = weights[-1].contiguous(), biases[-1].contiguous()


class _Workspace:
    """Memory of one part: a product (rows, width), and the sines and their derivatives of all layers if backward is to
    have them (layers + 1, 2, rows, width), else the sines of one (1, 1, rows, width)."""

    def __init__(self, product: Tensor, sines: Tensor, keeps: bool):
        self.product, self.sines, self.keeps = product, sines, keeps
        self.key = *product.shape, len(sines) - 1 if keeps else 0, keeps, product.dtype

    @classmethod
    def made(cls, rows: int, width: int, layers: int, keeps: bool, dtype: torch.dtype) -> "_Workspace":
        """Return memory for so many layers after the first."""
        shape = (layers + 1, 2) if keeps else (1, 1)
        return cls(torch.empty(rows, width, dtype=dtype), torch.empty(*shape, rows, width, dtype=dtype), keeps)

    def layer(self, i: int) -> tuple[Tensor, Tensor | None]:
        """Return where a layer's sines are, and their derivatives if they are kept."""
        return tuple(self.sines[i]) if self.keeps else (self.sines[0, 0], None)


_POOL = Pool(_Workspace.made)


def _run(packed: _Packed, work: _Workspace, x: Tensor, y: Tensor) -> None:
    """Write the values of x (rows, in) to y (rows, out), and to the workspace what backward is to have."""
    native, rows, width = library(SINES, packed.dtype), len(x), packed.width
    call(native.first_sines, rows, x.shape[1], width, x, packed.first, packed.bias[0], *work.layer(0))
    for i, weight in enumerate(packed.hidden, 1):
        z = product(work.layer(i - 1)[0], weight, out=work.product)
        call(native.next_sines, rows, width, z, width, packed.bias[i], *work.layer(i))
    call(native.output, rows, width, packed.out, work.layer(packed.layers)[0], packed.output, packed.output_bias, y)


def _gradients(packed: _Packed, work: _Workspace, x: Tensor, dy: Tensor, needs: Sequence[bool]) -> list[Tensor | None]:
    """Return the gradients of x, if wanted, and of all tensors, unless none is wanted."""
    native, (rows, d), width, blocks = library(SINES, packed.dtype), x.shape, packed.width, -(-len(x) // EACH)
    grad, weights = work.product, any(needs[1:])
    sums = torch.empty(blocks, packed.out, width)
    call(native.output_backward, rows, EACH, width, packed.out, dy, work.layer(packed.layers)[0], packed.output, grad,
         sums)
    found = [dy.sum(0), sums.sum(0)]
    for i in range(packed.layers, -1, -1):
        slope = work.layer(i)[1]                            # becomes the derivatives by the layer's arguments
        coordinates = 0 if i else d
        sums = torch.empty(blocks, 1 + coordinates, width)
        call(native.sines_backward, rows, EACH, width, coordinates, grad, slope, slope, width, x, sums)
        sums = sums.sum(0) * packed.turns[i]
        found.append(sums[0])
        if i and weights:
            found.append(over_rows(slope, work.layer(i - 1)[0]).float() * packed.turns[i])
        if i:
            grad = product(slope, packed.hidden[i - 1].T, out=grad)
    found.append(sums[1:].T)
    dx = slope.float() @ packed.first.T if needs[0] else None
    return [dx, *(reversed(found) if weights else [None] * (len(needs) - 1))]
