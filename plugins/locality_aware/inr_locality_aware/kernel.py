"""The locality-aware decoder as one operation where no gradients are asked for: rendering and export on a GPU."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from inr_scenes.kernels.choice import TOLERANCE, Disagreement

if TYPE_CHECKING:
    from .decoder import LocalityAwareDecoder


def obstacle(decoder: "LocalityAwareDecoder") -> str | None:
    """Say why the kernel does not serve a decoder; none if it does."""
    config = decoder.config
    if not (config.token_aggregation and config.multi_band and config.linear_maps):
        return "the paper's ablations have no fused kernel"
    hidden, width = config.hidden_features, config.hidden_features // config.decoder_heads
    # a tile of wider layers does not fit the registers: built for width 256, most of it was moving them to memory
    wide = max(hidden, config.tokens, config.frequency_features) > 128
    if wide or width < 16 or hidden & (hidden - 1) or width & (width - 1):
        return ("the fused decoder takes up to 128 hidden features, tokens and frequency features, the first and the "
                "width of a head powers of two from 16 on")
    return None


class Packed:
    """A decoder's weights, and the keys and values of tokens, laid out as the kernel reads them."""

    def __init__(self, decoder: "LocalityAwareDecoder", key: Tensor, value: Tensor, dtype: torch.dtype):
        config, bands, attention = decoder.config, decoder.bands, decoder.modulation
        encodings = [decoder.query.encoding, *(level.encoding for level in bands.frequencies)]
        used = encodings[0].out_features
        self.features, self.out_features = _power(used), bands.outputs[0].out_features
        pad, out = self.features - used, _power(self.out_features)
        turns = torch.stack([encoding.turns for encoding in encodings]) / (2 * math.pi)

        def weights(layers, columns: int = 0, rows: int = 0) -> Tensor:
            stacked = torch.stack([layer.weight.detach() for layer in layers]).to(dtype)
            return functional.pad(stacked, (0, columns, 0, rows)).contiguous()

        def biases(layers, columns: int = 0) -> Tensor:
            stacked = torch.stack([layer.bias.detach().float() for layer in layers])
            return functional.pad(stacked, (0, columns)).contiguous()

        frequencies = [level.linear for level in bands.frequencies]
        layers = list(bands.layers) or [bands.modulations[0]]       # one level has none: whatever is not read
        self.tensors = [
            turns.contiguous(), weights([decoder.query.linear], pad), biases([decoder.query.linear]),
            weights([attention.query]), biases([attention.query]), key.detach().to(dtype).contiguous(),
            value.detach().to(dtype).contiguous(), weights([attention.output]), biases([attention.output]),
            weights(frequencies, pad), biases(frequencies), weights(bands.modulations), biases(bands.modulations),
            weights(layers), biases(layers), weights(bands.outputs, rows=out - self.out_features),
            biases(bands.outputs, out - self.out_features)]
        self.tokens, width = key.shape[2:]
        hidden = config.hidden_features
        self.scale = width ** -0.5
        self.rows = 64
        self.constants = {"WAVES": turns.shape[1], "FEATURES": self.features, "HIDDEN": hidden,
                          "HEADS": config.decoder_heads, "TOKENS": _power(self.tokens), "LEVELS": len(bands.outputs),
                          "OUT": out, "ROWS": self.rows}

    def __call__(self, coords: Tensor) -> Tensor:
        """Map coords (B or 1, n, in) to values (B, n, out), float32."""
        from .kernel_triton import decode

        coords = coords.float().contiguous()
        (given, rows, inputs), signals = coords.shape, len(self.tensors[5])
        y = coords.new_empty(signals, rows, self.out_features)
        if rows * signals:
            with torch.cuda.device_of(coords):
                decode[(-(-rows // self.rows), signals)](
                    coords, *self.tensors, y, rows, self.tokens, 0 if given == 1 else rows * inputs, self.out_features,
                    self.scale, IN=inputs, **self.constants, num_warps=8, num_stages=1)
        return y


def self_check(decoder: "LocalityAwareDecoder", packed: Packed, context: dict, dtype: torch.dtype) -> None:
    """Compare the kernel with plain torch at 129 places; raise where they differ."""
    first = decoder.query.encoding
    inputs = first.out_features // (2 * len(first.turns))
    generator = torch.Generator().manual_seed(0)
    coords = (torch.rand(1, 129, inputs, generator=generator) * 2 - 1).to(first.turns.device)
    with torch.no_grad(), torch.autocast(coords.device.type, enabled=False):
        whole = {name: tensor.float() for name, tensor in context.items() if isinstance(tensor, Tensor)}
        plain, mine = decoder.plain(coords, whole), packed(coords)
    error = float((mine - plain).norm() / plain.norm().clamp_min(1e-12))
    if not error <= TOLERANCE[dtype][0]:
        raise Disagreement(f"its values differ from plain torch's by {error:.1e}")


def _power(width: int) -> int:
    """Return the least power of two of at least 16 that is no smaller."""
    return max(16, 1 << (width - 1).bit_length())
