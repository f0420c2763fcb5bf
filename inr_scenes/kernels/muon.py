"""Muon's steps on a GPU, in Triton: one launch for all matrices of a tensor where plain torch makes some twenty."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# greatest side, padded to a power of two, of matrices that stay on chip: 128 of float32, which only tests and GPUs
# without bfloat16 ask for, would take 256 KB of shared memory. Larger ones have enough to do in plain torch's launches.
MOST = {torch.bfloat16: 128, torch.float32: 64}


def serves(rows: int, columns: int, dtype: torch.dtype) -> bool:
    """Say whether matrices of a shape stay on chip, their products rounded to a type."""
    return padded(max(rows, columns)) <= MOST.get(dtype, 0)


def padded(side: int) -> int:
    """Return the power of two, 16 or more, that holds a side."""
    return max(16, 1 << (side - 1).bit_length())


def step(parameters: Sequence[Tensor], gradients: Sequence[Tensor], averages: Sequence[Tensor], rate: Tensor,
         scale: float, momentum: float, weight_decay: float, safety: float,
         polynomials: Sequence[tuple[float, float, float]], dtype: torch.dtype) -> None:
    """Take one step of Muon on contiguous float32 tensors of one shape, (rows, columns) or (n, rows, columns).

    In place: averages, then parameters. rate: (), on the device · scale: of the step, beside the rate · safety: how
    much smaller than 1 norms begin · polynomials: three · dtype: what products are rounded to.
    """
    from .muon_triton import step as kernel
    from .muon_triton import tl

    *_, rows, columns = parameters[0].shape
    (short, short_step), (long, long_step) = sorted(((rows, columns), (columns, 1)), key=lambda side: side[0])
    n, wide = parameters[0].numel() // (rows * columns), padded(long)
    constants = {"SHORT": padded(short), "LONG": wide, "TYPE": tl.float32 if dtype is torch.float32 else tl.bfloat16,
                 "PRECISION": "tf32x3" if dtype is torch.float32 else "ieee"}
    with torch.cuda.device_of(rate):
        for parameter, gradient, average in zip(parameters, gradients, averages):
            kernel[(n,)](parameter, gradient.contiguous(), average, rate, scale, momentum, weight_decay, safety,
                         math.sqrt(short), *(number for numbers in polynomials for number in numbers), short, long,
                         short_step, long_step, **constants, num_warps=8 if wide > 64 else 4 if wide > 16 else 1)
