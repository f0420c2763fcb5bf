"""From signals to tokens: patches of a grid or of posed views, read into learnable tokens by a transformer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from inr_scenes.generalizable import grids, posed_views
from inr_scenes.signal import Signal
from inr_scenes.spec import Spec


def split_patches(grid: Tensor, patch: int) -> Tensor:
    """Cut (B, *shape, C) into non-overlapping patches (B, *counts, patch^d · C), zero padded alike on both sides."""
    shape = grid.shape[1:-1]
    padding = [0, 0]                                    # functional.pad counts from the last dimension: the channels
    for size in reversed(shape):
        missing = -size % patch
        padding += [missing // 2, missing - missing // 2]
    grid = functional.pad(grid, padding)
    counts = [size // patch for size in grid.shape[1:-1]]
    d = len(shape)
    grid = grid.reshape(len(grid), *(n for count in counts for n in (count, patch)), grid.shape[-1])
    order = [0, *range(1, 2 * d, 2), *range(2, 2 * d + 1, 2), 2 * d + 1]
    return grid.permute(order).reshape(len(grid), *counts, -1)


class PatchTokens(nn.Module):
    """Patches → linear → plus a learned embedding of their place, resampled for signals of another size.

    Light fields append each pixel's ray to its colour; the place is that within a view, shared by all views.
    """

    def __init__(self, spec: Spec, patch: int, width: int):
        super().__init__()
        self.patch, self.kind = patch, spec.kind
        views = spec.kind == "lightfield"
        shape = spec.meta["view_shape"] if views else spec.shape
        channels = spec.out_features + (spec.in_features if views else 0)
        self.linear = nn.Linear(patch ** len(shape) * channels, width)
        self.places = nn.Parameter(torch.randn(*(-(-size // patch) for size in shape), width))

    def forward(self, grid: Tensor) -> Tensor:
        """Map (B, *shape, C), or (B, views, *shape, C), to tokens (B, n, width)."""
        batch = len(grid)
        grid = grid.flatten(0, 1) if self.kind == "lightfield" else grid
        patches = split_patches(grid, self.patch)
        tokens = self.linear(patches) + self._places(patches.shape[1:-1])
        return tokens.reshape(batch, -1, tokens.shape[-1])

    def _places(self, counts: Sequence[int]) -> Tensor:
        if tuple(counts) == tuple(self.places.shape[:-1]):
            return self.places
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(counts)]
        places = functional.interpolate(self.places.movedim(-1, 0)[None], size=tuple(counts), mode=mode)
        return places[0].movedim(0, -1)


class Block(nn.Module):
    """A pre-norm transformer block: self-attention, then a GELU network four times as wide."""

    def __init__(self, width: int, heads: int, head_features: int):
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_network = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * heads * head_features)
        self.output = nn.Linear(heads * head_features, width)
        self.network = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, kept: int | None = None) -> Tensor:
        """Map (B, n, width) to the same shape, or to what only the first `kept` tokens become: they still see all."""
        seen = self.norm_attention(x)
        if kept is None:
            parts = self.query_key_value(seen).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        else:
            inner = self.output.in_features
            (ask, answer), (b, c) = (p.split([inner, 2 * inner]) for p in self.query_key_value.parameters())
            parts = (functional.linear(seen[:, :kept], ask, b).unflatten(-1, (self.heads, -1)),
                     *functional.linear(seen, answer, c).unflatten(-1, (2, self.heads, -1)).unbind(-3))
        attended = functional.scaled_dot_product_attention(*(t.transpose(1, 2) for t in parts))
        x = x[:, :kept] + self.output(attended.transpose(1, 2).flatten(-2))
        return x + self.network(self.norm_network(x))


class TokenEncoder(nn.Module):
    """Learnable tokens joined to a signal's patches, through a transformer; what they became is read off.

    tokens: how many learnable tokens · returns (B, tokens, width) · config: see `EncoderConfig`.
    """

    def __init__(self, config, spec: Spec, tokens: int):
        super().__init__()
        self.patches = PatchTokens(spec, config.patch, config.width)
        self.tokens = nn.Parameter(torch.randn(tokens, config.width))
        self.blocks = nn.Sequential(*(Block(config.width, config.heads, config.head_features)
                                      for _ in range(config.blocks)))

    def forward(self, signals: Sequence[Signal]) -> Tensor:
        """Read signals of one shape into tokens."""
        grid = (posed_views if self.patches.kind == "lightfield" else grids)(signals).to(self.tokens.device)
        data = self.patches(grid)
        tokens = self.tokens.expand(len(data), -1, -1).to(data.dtype)
        *inner, last = self.blocks
        x = torch.cat([tokens, data], 1)
        for block in inner:
            x = block(x)
        return last(x, len(self.tokens))        # what the patches become in the last block, nobody reads


class Heads(nn.Module):
    """Layer norm and a linear map for each group of tokens: what turns encoder outputs into latents."""

    def __init__(self, width: int, shapes: dict[str, tuple[int, int]]):
        super().__init__()
        self.counts = [count for count, _ in shapes.values()]
        self.maps = nn.ModuleDict({name: nn.Sequential(nn.LayerNorm(width), nn.Linear(width, features))
                                   for name, (_, features) in shapes.items()})

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """Map (B, all tokens, width) to {name: (B, count, features)}."""
        parts = tokens.split(self.counts, 1)
        return {name: head(part).float() for (name, head), part in zip(self.maps.items(), parts)}
