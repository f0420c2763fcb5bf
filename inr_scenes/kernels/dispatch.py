"""Which fused kernel computes a whole network: Triton's on a GPU, C on the CPU, each proved right before it serves."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from . import mlp, mlp_native
from .choice import (
    agree,
    chosen,
    interpreted,
    only_once,
    product_type,
    proved,
    serves,
    triton_obstacle,
    triton_serves,
)
from .network import Net, reference

Size = tuple[int, int, int, int]                # inputs, width, hidden layers, outputs


def served(net: Net, x: Tensor, tensors: Sequence[Tensor]) -> Tensor | None:
    """Return values (..., out), float32, of x (..., in) by a fused kernel where one is chosen and serves; else none.

    tensors: weight (out, in) and bias (out,) of the first layer, of each hidden one and of the linear output.
    """
    (width, inputs), hidden, outputs = tensors[0].shape, len(tensors) // 2 - 2, len(tensors[-1])
    size = inputs, width, hidden, outputs
    if any(tensor.dtype is not torch.float32 or tensor.device != x.device for tensor in tensors):
        return None
    compute = _native(net, x, size) if _in_c(x.device) else _triton(net, x, size)
    if compute is None:
        return None
    if x.requires_grad and only_once():         # derivatives by coordinates are wanted, none by weights
        tensors = [tensor.detach() for tensor in tensors]
    return compute(net, product_type(x), x.reshape(-1, inputs), tensors).reshape(*x.shape[:-1], outputs)


def obstacle(net: Net, size: Size, device: torch.device) -> str | None:
    """Say why no fused kernel computes networks of this size on a device; none if one does."""
    if device.type == "cpu" and not interpreted():
        return mlp_native.obstacle(net, size[1], torch.float32)
    return triton_obstacle(device) or mlp.obstacle(*size)


def fast_path(device: torch.device) -> str | None:
    """Return which kernel computes a SIREN as published, in half precision, on a device, once it is proved."""
    net, size = Net(), (2, 256, 3, 3)
    if obstacle(net, size, device):
        return None
    compute, dtype, name = (mlp_native.sines, torch.bfloat16, "fused (C)") if _in_c(device) else \
        (mlp.mlp, torch.float16, "fused (Triton)")
    return name if proved((name, device), lambda: self_check(compute, net, dtype, device, size)) else None


def _in_c(device: torch.device) -> bool:
    """Say whether C is what a device would take: on the CPU, unless Triton's interpreter was asked for."""
    return device.type == "cpu" and not (interpreted() and chosen() == "fused")


def _native(net: Net, x: Tensor, size: Size) -> Callable | None:
    dtype = product_type(x)
    # C gives first derivatives by coordinates, of one channel: those of others would be computed by plain torch anyway
    if not serves(x, derivatives=size[-1] == 1) or mlp_native.obstacle(net, size[1], dtype):
        return None
    sure = proved(("C", net, *size, dtype), lambda: self_check(mlp_native.sines, net, dtype, x.device, size))
    return mlp_native.sines if sure else None


def _triton(net: Net, x: Tensor, size: Size) -> Callable | None:
    if mlp.obstacle(*size):
        return None
    proof = triton_serves(x, (net, *size), lambda dtype, device: self_check(mlp.mlp, net, dtype, device, size))
    return mlp.mlp if proof else None


def self_check(compute: Callable, net: Net, dtype: torch.dtype, device: torch.device, size: Size) -> None:
    """Compare a kernel with float64 plain torch on a few rows; raise where they differ."""
    inputs, width, hidden, outputs = size
    generator = torch.Generator().manual_seed(0)

    def uniform(bound: float, *shape: int) -> Tensor:
        return ((torch.rand(*shape, generator=generator) * 2 - 1) * bound).to(device)

    x = uniform(1.0, 129, inputs)
    # a first omega of thousands leaves float32 four digits: what is checked is the kernel, not that
    net = Net(min(net.first_omega, 100.0), net.omega) if net.sine else net
    tensors = [uniform(1 / inputs, width, inputs), uniform(inputs**-0.5, width)]
    for rows in [width] * hidden + [outputs]:
        tensors += [uniform(math.sqrt(6 / width) / (net.omega or 1.0), rows, width), uniform(width**-0.5, rows)]
    tensors = [tensor.requires_grad_() for tensor in tensors]
    slack = 1.0 if net.sine or dtype is torch.float32 else 5.0      # rounding moves a ReLU's arguments across zero
    agree(lambda ts: compute(net, dtype, x, ts), lambda ts: reference(net, x.double(), ts), tensors, dtype, slack)
