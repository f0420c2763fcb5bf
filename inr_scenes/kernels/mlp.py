"""A whole sine or ReLU network as one operation on a GPU, in Triton."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .network import Net, differentiable

WIDEST, MOST_LAYERS, MOST_INPUTS, MOST_OUTPUTS = 256, 8, 32, 64
PROGRAMS = 264                      # that weights' gradients are split among: two for each SM of the largest GPUs


def obstacle(in_features: int, width: int, hidden_layers: int, out_features: int) -> str | None:
    """Say why the kernel does not serve a network of this size; none if it does."""
    for what, value, least, most in (("a width", width, 16, WIDEST), ("hidden layers", hidden_layers, 1, MOST_LAYERS),
                                     ("inputs", in_features, 1, MOST_INPUTS),
                                     ("outputs", out_features, 1, MOST_OUTPUTS)):
        if not least <= value <= most:
            return f"the fused kernel takes {what} of {least} to {most}, not {value}"
    return None


def chunk_of(width: int) -> int:
    """Return the columns a kernel works on at a time: what pads a width least, and the larger of equals."""
    return min((64, 32, 16), key=lambda chunk: (-(-width // chunk) * chunk, -chunk))


def mlp(net: Net, dtype: torch.dtype, x: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Return values (rows, out), float32, of x (rows, in) by the fused kernel.

    dtype: what products are rounded to (float16, bfloat16 or float32); sums, the first layer and gradients of weights
    are float32. tensors: as for `reference`. Second derivatives are plain torch's.
    """
    with torch.autocast(x.device.type, enabled=False), torch.cuda.device_of(x):     # Triton launches on the current one
        return _Fused.apply(net, dtype, torch.is_grad_enabled(), x, *tensors)


class _Fused(torch.autograd.Function):
    """Gradients go to x and all tensors."""

    @staticmethod
    def forward(ctx, net: Net, dtype: torch.dtype, recording: bool, x: Tensor, *tensors: Tensor) -> Tensor:
        """Run the forward kernel; what backward needs is kept if there is to be one."""
        from .mlp_triton import forward

        packed = _Packed(net, dtype, tensors)
        x = x.contiguous()
        rows, keeps = len(x), recording and any(ctx.needs_input_grad)
        y = x.new_empty(rows, packed.out_features)
        kept = x.new_empty(packed.layers + 1, rows if keeps else 0, packed.width, dtype=kept_type(net, dtype))
        if rows:
            forward[(packed.tiles(rows),)](
                x, packed.first, packed.bias, packed.hidden, packed.output, packed.output_bias, y, kept, rows,
                packed.layers, packed.out_features, KEEP=keeps, **packed.constants, **packed.launch)
        if keeps:
            ctx.save_for_backward(x, kept, *tensors)
            ctx.net, ctx.dtype, ctx.packed = net, dtype, packed
        return y

    @staticmethod
    def backward(ctx, dy: Tensor):
        """Run the backward kernels; a gradient that is to be differentiated again comes from the reference."""
        needs = ctx.needs_input_grad[3:]
        if torch.is_grad_enabled():
            x, _, *tensors = ctx.saved_tensors
            return None, None, None, *differentiable(ctx.net, [x, *tensors], dy, needs)
        x, kept, *_ = ctx.saved_tensors
        with torch.cuda.device_of(x):
            return None, None, None, *_gradients(ctx.packed, ctx.dtype, x, kept, dy.contiguous(), needs[0])


class _Packed:
    """A network's tensors in turns, padded and laid side by side as the kernels read them."""

    def __init__(self, net: Net, dtype: torch.dtype, tensors: Sequence[Tensor]):
        weights, biases = [w.detach() for w in tensors[::2]], [b.detach() for b in tensors[1::2]]
        width, self.in_features = weights[0].shape
        self.net, self.layers, self.out_features = net, len(weights) - 2, len(weights[-1])
        chunk = chunk_of(width)
        self.features, self.width = width, -(-width // chunk) * chunk
        pad, out = self.width - width, max(16, 1 << (self.out_features - 1).bit_length())
        self.turns = net.turns(self.layers)
        self.first = _padded((weights[0] * self.turns[0]).T, 0, pad)
        self.bias = _padded(torch.stack([b * t for b, t in zip(biases, self.turns)]), 0, pad)
        self.hidden = _padded((torch.stack(weights[1:-1]) * self.turns[1]).to(dtype), pad, pad)
        self.output = _padded(weights[-1].to(dtype), out - self.out_features, pad)
        self.output_bias = _padded(biases[-1], out - self.out_features)
        # tf32x3 keeps float32's digits on tensor cores; where there are none it is plain float32
        self.precision = "tf32x3" if dtype is torch.float32 else "ieee"
        self.rows, warps = _tile(self.width, dtype, weights[0].device)
        self.launch = {"num_warps": warps, "num_stages": 1}
        self.constants = {"IN": self.in_features, "WIDTH": self.width, "CHUNK": chunk, "OUT": out, "ROWS": self.rows,
                          "SINE": net.sine, "PRECISION": self.precision}

    def tiles(self, rows: int) -> int:
        """Return the number of row tiles."""
        return -(-rows // self.rows)


def _tile(width: int, dtype: torch.dtype, device: torch.device) -> tuple[int, int]:
    """Return the rows and the warps of a program: as many rows as registers hold, since each tile reads all weights."""
    if width <= 64:
        return 64, 4
    if dtype is torch.float32:
        return 64, 8
    # tensor cores of Hopper and later multiply from registers; earlier ones keep 256 columns of 64 rows at most
    roomy = device.type != "cuda" or torch.cuda.get_device_capability(device) >= (9, 0)
    return 128 if roomy or width <= 128 else 64, 8


def _gradients(packed: _Packed, dtype: torch.dtype, x: Tensor, kept: Tensor, dy: Tensor,
               wants_x: bool) -> list[Tensor | None]:
    """Return the gradients of x, if wanted, and of all tensors."""
    from .mlp_triton import backward

    rows, layers, width, inputs = len(x), packed.layers, packed.width, packed.in_features
    scale = gradient_scale(dy, dtype)
    grads = x.new_empty(layers + 1, rows, width, dtype=dtype)
    sums = x.new_empty(packed.tiles(rows), layers + 1 + inputs + packed.out_features, width)
    dx = torch.empty_like(x) if wants_x else x
    if rows:
        backward[(packed.tiles(rows),)](x, packed.first, packed.hidden, packed.output, dy, scale, kept, grads, sums, dx,
                                        rows, layers, packed.out_features, INPUT=wants_x, **packed.constants,
                                        **packed.launch)
    d_hidden = weight_gradients(grads[1:], kept[:-1], packed.net.sine, packed.precision)
    features, back = packed.features, 1 / scale
    sums = sums.sum(0)[:, :features] * back
    d_hidden = d_hidden[:, :features, :features] * (back * packed.turns[1])
    found = [sums[layers + 1:layers + 1 + inputs].T * packed.turns[0], sums[0] * packed.turns[0]]
    for i in range(layers):
        found += [d_hidden[i], sums[i + 1] * packed.turns[1]]
    return [dx * back if wants_x else None, *found, sums[layers + 1 + inputs:], dy.sum(0)]


def weight_gradients(grads: Tensor, kept: Tensor, sine: bool, precision: str, splits: int | None = None) -> Tensor:
    """Return sums over rows of grads × values, (layers, out, in), of grads (layers, rows, out) and kept.

    splits: into how many equal parts the rows are cut, each with sums of its own: (splits, layers, out, in).
    """
    from .sines_triton import products

    (layers, rows, out), width = grads.shape, kept.shape[-1]
    if not layers * rows:
        sums = grads.new_zeros(splits or 1, layers, out, width, dtype=torch.float32)
        return sums if splits else sums[0]
    # every value a tile reads is made from what was kept of it: tall tiles, so that few tiles read the same
    tall, narrow = min(256, out & -out), min(64, width & -width)
    tiles = (out // tall) * (width // narrow)
    count = splits or max(1, min(-(-rows // 512), PROGRAMS // (tiles * layers)))
    parts = grads.new_empty(count, layers, out, width, dtype=torch.float32)
    products[(tiles, layers, count)](
        grads, kept, parts, rows, -(-rows // count), grads.stride(0), kept.stride(0), OUT_WIDTH=out, IN_WIDTH=width,
        OUT_TILE=tall, IN_TILE=narrow, ROWS=32 if grads.dtype is torch.float32 else 64, SINE=sine, PRECISION=precision,
        num_warps=8 if tall * narrow >= 8192 else 4, num_stages=2)
    return parts if splits else parts.sum(0)


def gradient_scale(dy: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the power of two, (1,), that brings derivatives into float16's range; 1 for types that need none.

    It is found on the device: nothing waits. The largest derivative becomes about 64, which leaves a thousandfold
    to either side of what a well-behaved network makes of it.
    """
    if dtype is not torch.float16 or not len(dy):
        return dy.new_ones(1)
    largest = dy.abs().amax().clamp(1e-30, 1e30).nan_to_num(1.0)
    return torch.exp2(6 - torch.log2(largest).floor()).reshape(1)


def kept_type(net: Net, dtype: torch.dtype) -> torch.dtype:
    """Return the type in which an activation is kept for backward."""
    return dtype if dtype is torch.float32 or not net.sine else torch.int16


def _padded(x: Tensor, rows: int, columns: int | None = None) -> Tensor:
    """Return x contiguous, with so many zeros behind its last two dimensions, or its only one."""
    pad = (0, rows) if columns is None else (0, columns, 0, rows)
    return (functional.pad(x, pad) if any(pad) else x).contiguous()
