"""The seam metric: is a field worse along the borders between its blocks than elsewhere?"""

import torch
from torch import Tensor

from inr_scenes.device import rows_at_once
from inr_scenes.metrics import psnr
from inr_scenes.signal import GridSignal, Signal

REACH = 2                           # samples on either side of a border that count as its seam
MOST = 1 << 22                      # samples looked at; larger signals are judged by as many drawn at random


@torch.inference_mode()
def seam(field, signal: Signal) -> dict[str, float]:
    """Return the PSNR within two samples of a border between blocks, and elsewhere: "psnr_seam", "psnr_elsewhere".

    Empty for signals that are not on a grid, and for fields of one block; where all samples are near a border there is
    no "psnr_elsewhere".
    """
    if not isinstance(signal, GridSignal):
        return {}
    near = [_near(line, axis.first, axis.count) for line, axis in zip(field.layout.borders, signal.spec.axes)]
    if not any(mask.any() for mask in near):
        return {}
    error, count = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for index in _samples(len(signal), rows_at_once(signal.device)):
        query, values = signal.sample(index.to(signal.device))
        squares = (field(query).float() - values).square().mean(-1).cpu().double()
        at_seam = torch.zeros(len(index), dtype=torch.bool)
        rest = index
        for mask in reversed(near):
            at_seam |= mask[rest % len(mask)]
            rest = rest // len(mask)
        for i, chosen in enumerate((at_seam, ~at_seam)):
            error[i] += squares[chosen].sum()
            count[i] += chosen.sum()
    mse = (error / count * signal.spec.values.scale**2).tolist()
    return {name: psnr(error, signal.peak) for name, error, n in zip(("psnr_seam", "psnr_elsewhere"), mse, count) if n}


def _near(borders: tuple[int, ...], first: int, count: int) -> Tensor:
    """Say for each sample of an axis whether it is within `REACH` samples of a border between blocks."""
    mask = torch.zeros(count, dtype=torch.bool)
    for border in borders[1:-1]:
        mask[max(0, border - REACH - first):max(0, border + REACH - first)] = True
    return mask


def _samples(total: int, rows: int):
    if total > MOST:
        index = torch.randint(total, (MOST,), generator=torch.Generator().manual_seed(0)).sort().values
        yield from index.split(rows)
        return
    for low in range(0, total, rows):
        yield torch.arange(low, min(low + rows, total))
