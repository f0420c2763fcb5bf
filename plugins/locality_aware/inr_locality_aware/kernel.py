"""The locality-aware decoder as one operation where no gradients are asked for: rendering and export on a GPU."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from inr_scenes.kernels.choice import TOLERANCE, Disagreement

if TYPE_CHECKING:
    from .decoder import LocalityAwareDecoder

ROWS, CHUNK = 128, 64               # coordinates of a tile; columns, and tokens, that the kernel takes together


def obstacle(decoder: "LocalityAwareDecoder") -> str | None:
    """Say why the kernel does not serve a decoder; none if it does."""
    config = decoder.config
    if not (config.token_aggregation and config.multi_band and config.linear_maps):
        return "the paper's ablations have no fused kernel"
    hidden, width = config.hidden_features, config.hidden_features // config.decoder_heads
    if config.frequency_features > 512 or not 16 <= width <= 128 or hidden & (hidden - 1) or width & (width - 1):
        return ("the fused decoder takes powers of two of hidden features whose heads are 16 to 128 wide, and up to "
                "512 frequency features")
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
        self.hidden, self.scale = config.hidden_features, width ** -0.5
        self.constants = {"WAVES": turns.shape[1], "FEATURES": self.features, "HIDDEN": self.hidden,
                          "HEADS": config.decoder_heads, "TOKENS": min(CHUNK, _power(self.tokens)),
                          "LEVELS": len(bands.outputs), "OUT": out, "CHUNK": CHUNK, "ROWS": ROWS}

    def __call__(self, coords: Tensor) -> Tensor:
        """Map coords (B or 1, n, in) to values (B, n, out), float32."""
        from .kernel_triton import decode

        coords = coords.float().contiguous()
        (given, rows, inputs), signals = coords.shape, len(self.tensors[5])
        y = coords.new_empty(signals, rows, self.out_features)
        if tiles := -(-rows // ROWS) * signals:
            programs = min(tiles, _programs(coords.device))
            place = coords.new_empty(programs, ROWS, self.features + 3 * self.hidden, dtype=self.tensors[1].dtype)
            with torch.cuda.device_of(coords):
                decode[(programs,)](
                    coords, *self.tensors, place, y, rows, self.tokens, tiles, 0 if given == 1 else rows * inputs,
                    self.out_features, self.scale, IN=inputs, **self.constants, num_warps=8)
        return y


def _programs(device: torch.device) -> int:
    """Return how many programs a device runs at once; its interpreter is given a few, which take turns."""
    if device.type != "cuda":
        return 3
    return 2 * torch.cuda.get_device_properties(device).multi_processor_count


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
