"""The ceiling of sines: how many a GPU takes a second where nothing else is in the way."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from inr_scenes.kernels.sines_triton import reduced, sine


@triton.jit
def _many(x, y, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    t = tl.load(x + i)
    total = tl.zeros((BLOCK,), tl.float32)
    for k in range(COUNT):
        total += sine(reduced(t + total * k))       # each on the last, so that none is left out
    tl.store(y + i, total)


def many(x: Tensor, count: int) -> Tensor:
    """Take `count` sines of every number of x, whose length is a multiple of 1024."""
    y = torch.empty_like(x)
    _many[(len(x) // 1024,)](x, y, COUNT=count, BLOCK=1024)
    return y
