"""Muon's steps on a GPU, in Triton: a launch where plain torch makes many small ones, each as long as its work."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# sides, padded to powers of two, of matrices that stay on chip: 128 of float32 would take 256 KB of shared memory
MOST = {torch.bfloat16: 128, torch.float32: 64}
TILE = 4096                         # numbers of a matrix that a program looks at together


def step(parameters: Sequence[Tensor], gradients: Sequence[Tensor], averages: Sequence[Tensor], rate: Tensor,
         scale: float, momentum: float, weight_decay: float, safety: float,
         polynomials: Sequence[tuple[float, float, float]], dtype: torch.dtype) -> None:
    """Take one step of Muon on contiguous float32 tensors of one shape, (rows, columns) or (n, rows, columns).

    In place: averages, then parameters. rate: (), on the device · scale: of the step, beside the rate · safety: how
    much smaller than 1 norms begin · dtype: what products are rounded to.
    """
    from .muon_triton import ahead, follow

    *_, rows, columns = parameters[0].shape
    wide = 1 << (columns - 1).bit_length()
    tile = {"COLUMNS": wide, "ROWS": max(1, min(TILE // wide, 1 << (rows - 1).bit_length())), "num_warps": 8}
    n, norm = parameters[0].numel() // (rows * columns), math.sqrt(min(rows, columns))
    x = parameters[0].new_empty(len(parameters) * n, rows, columns, dtype=dtype)
    parts = x.split(n)
    with torch.cuda.device_of(x):
        for gradient, average, part in zip(gradients, averages, parts):
            ahead[(n,)](gradient.contiguous(), average, part, momentum, safety, rows, columns, **tile)
        x = orthogonal(x, polynomials)
        for parameter, part in zip(parameters, x.split(n)):
            follow[(n,)](parameter, part, rate, scale, weight_decay, norm, rows, columns, **tile)


def orthogonal(x: Tensor, polynomials: Sequence[tuple[float, float, float]]) -> Tensor:
    """Apply polynomials to matrices (n, rows, columns) of a norm below 1; contiguous, as they came."""
    from .muon_triton import polar

    n, rows, columns = x.shape
    tall = rows > columns
    short, long = sorted((rows, columns))
    padded = [max(16, 1 << (side - 1).bit_length()) for side in (short, long)]
    if max(padded) > MOST[x.dtype] or len(polynomials) != 3:
        y = x.mT if tall else x
        for a, b, c in polynomials:
            square = y @ y.mT
            y = torch.baddbmm(y, torch.baddbmm(square, square, square, beta=b, alpha=c), y, beta=a)
        return (y.mT if tall else y).contiguous()
    polar[(n,)](x, *(number for numbers in polynomials for number in numbers), short, long,
                *((1, columns) if tall else (columns, 1)), SHORT=padded[0], LONG=padded[1],
                PRECISION="tf32x3" if x.dtype is torch.float32 else "ieee",
                num_warps=8 if max(padded) > 64 else 4 if max(padded) > 16 else 1)
    return x
