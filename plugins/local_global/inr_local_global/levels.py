"""The tensors of a Local-Global SIREN as its fused steps on the CPU take them, and the way back for derivatives."""

import torch
import torch.nn.functional as F
from torch import Tensor

from inr_scenes.kernels.native import LANES, SINES, call, library
from inr_scenes.kernels.products import over_rows, product

from .kernel import split

TWICE = ("A fused step of a Local-Global network keeps nothing for a second backward: compute its values anew, or by "
         "plain torch (inr_scenes.kernels.choice.choose('torch')).")


class Prepared:
    """The tensors of all levels in turns, padded and laid side by side."""

    def __init__(self, dtype: torch.dtype, turns: list[float], merge_turns: float, tensors: tuple[Tensor, ...]):
        self.dtype, self.turns, self.merge_turns = dtype, turns, merge_turns
        levels = len(turns)
        locals_, shared, merges = split(levels, tensors)
        self.width = locals_[0][0].shape[-1]
        self.h = -(-self.width // LANES) * LANES
        pad = self.h - self.width
        self.weight = [F.pad(w * t, (0, pad, 0, pad if i else 0)).contiguous()
                       for i, ((w, _), t) in enumerate(zip(locals_, turns))]
        self.weight_t = [w.mT.contiguous() if i else None for i, w in enumerate(self.weight)]
        self.bias = [F.pad(b * t, (0, pad)) for (_, b), t in zip(locals_, turns)]
        output, self.output_bias = locals_[levels][0], locals_[levels][1].contiguous()
        self.out = output.shape[-1]
        self.output_t = F.pad(output, (0, 0, 0, pad)).mT.contiguous()
        self.g = shared[0][0].shape[0] if shared else 0
        self.merge = self.merge_t = self.offset = [None] * levels
        self.shared_merge = len(merges) == 1
        self.additive = bool(shared) and merges[0][0].shape[1] == self.g
        if not shared:
            return
        self.first_t = (shared[0][0] * turns[0]).T.contiguous()
        self.global_bias = [b * t for (_, b), t in zip(shared, turns)]
        self.merge, self.merge_t, self.offset, self.wide, self.wide_t = [], [], [], [], []
        for i in range(levels):
            weight, offset = merges[0 if self.shared_merge else i]
            weight = F.pad(weight * self.merge_turns, (0, 0, 0, pad))
            if self.additive:                               # the local features are no operand of it
                self.merge_t.append(None)
                self.merge.append(None)
            else:
                mine = F.pad(weight[:, :self.width], (0, pad))
                self.merge_t.append(mine.contiguous())      # (out, in): what multiplies derivatives
                self.merge.append(mine.T.contiguous())
            self.offset.append(F.pad(offset * self.merge_turns, (0, pad)))
            rows = [shared[i + 1][0] * turns[i + 1]] if i + 1 < levels else []
            wide = torch.cat([*rows, weight[:, -self.g:]]).to(self.dtype)
            self.wide.append(wide)
            self.wide_t.append(wide.T.contiguous())


class Gradients:
    """Collects derivatives by what `Prepared` made and gives back those by the tensors it was made from."""

    def __init__(self, net: Prepared):
        self.net, levels = net, len(net.turns)
        self.locals = [None] * levels
        self.shared = [[None, None] for _ in range(levels)]
        self.merges = [None] * levels

    def local(self, i: int, d_weight: Tensor, d_bias: Tensor) -> None:
        """Take those of a local layer."""
        width, turns = self.net.width, self.net.turns[i]
        d_weight = d_weight[:, :width if i else None, :width] * turns
        self.locals[i] = d_weight, d_bias[:, :width] * turns

    def wide(self, i: int, product: Tensor, d_merge: Tensor | None, d_offset: Tensor) -> None:
        """Take those of [next global layer | merge], (g + h, g), and of the merge operator's local part, or none."""
        net = self.net
        if i + 1 < len(net.turns):
            self.shared[i + 1][0] = product[:net.g].float() * net.turns[i + 1]
            product = product[net.g:]
        parts = [] if d_merge is None else [d_merge.T[:net.width, :net.width]]
        weight = torch.cat([*parts, product[:net.width].float()], 1)
        self.merges[i] = weight * net.merge_turns, d_offset[:net.width] * net.merge_turns

    def shared_bias(self, i: int, sums: Tensor) -> None:
        """Take the sums of a global layer's derivatives; those of the first one come with its weights'."""
        self.shared[i][1] = sums[0] * self.net.turns[i]
        if i == 0:
            self.shared[0][0] = sums[1:].T * self.net.turns[0]

    def tensors(self, d_output_t: Tensor, d_output_bias: Tensor) -> list[Tensor]:
        """Return all in the order of `split`."""
        net = self.net
        pairs = [*self.locals, (d_output_t.mT[:, :net.width], d_output_bias)]
        if net.g:
            merges = self.merges
            if net.shared_merge:
                merges = [tuple(sum(parts) for parts in zip(*merges))]
            pairs += [*self.shared, *merges]
        return [tensor for pair in pairs for tensor in pair]


def global_backward(result: Gradients, i: int, work, dz: Tensor, x: Tensor, d_merge: Tensor | None,
                    d_offset: Tensor) -> None:
    """Undo level i of the global network: its derivatives go to `result`, those by what its sines see into dz.

    dz: derivatives by the pre-activations of [global layer i + 1 | merge i] · x: coords (blocks, rows, in) · d_merge,
    d_offset: those of the merge operator's local part, (h, h) or none, and (h,).
    """
    net, (blocks, rows, d) = result.net, x.shape
    first = 0 if i else d
    slopes = dz if i + 1 < len(net.turns) else dz[:, net.g:]                # the last level has no next global layer
    result.wide(i, over_rows(slopes, work.shared[i][0]), d_merge, d_offset)
    grad = product(slopes, net.wide[i].T, out=work.grad_shared)
    sums = torch.empty(blocks, 1 + first, net.g)
    call(library(SINES, net.dtype).sines_backward, blocks * rows, rows, net.g, first, grad,
         work.shared[i][1], dz, net.g + net.h, x, sums)
    result.shared_bias(i, sums.sum(0))
