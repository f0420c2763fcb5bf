"""The locality-aware decoder, Eqs. (2)–(9) of Lee, Kim, Cho, Han (NeurIPS 2023), and its ablations."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from inr_scenes.errors import InrError
from inr_scenes.generalizable import Decoder, Latents
from inr_scenes.kernels import choice

from . import kernel
from .features import FrequencyFeatures, LogFourier


class TokenAttention(nn.Module):
    """Eq. (5): m = MultiHeadAttention(q, Z, Z), all four projections with biases.

    Keys and values are projected once per signal by `keys_values`, not once per coordinate or chunk.
    """

    def __init__(self, hidden: int, token_features: int, heads: int):
        super().__init__()
        if hidden % heads:
            raise InrError(f"--decoder-heads {heads} does not divide --hidden-features {hidden}.")
        self.heads = heads
        self.query = nn.Linear(hidden, hidden)
        self.key, self.value = nn.Linear(token_features, hidden), nn.Linear(token_features, hidden)
        self.output = nn.Linear(hidden, hidden)

    def keys_values(self, tokens: Tensor) -> Latents:
        """Project tokens (B, R, token_features) to keys and values (B, heads, R, hidden / heads)."""
        return {"key": self._split(self.key(tokens)), "value": self._split(self.value(tokens))}

    def forward(self, query: Tensor, context: Latents) -> Tensor:
        """Map queries (B or 1, n, hidden) to modulation vectors (B, n, hidden)."""
        key, value = context["key"], context["value"]
        query = self._split(self.query(query)).expand(len(key), -1, -1, -1).to(key.dtype)
        attended = functional.scaled_dot_product_attention(query, key, value)
        return self.output(attended.transpose(1, 2).flatten(-2))

    def folded(self, tokens: Tensor, maps: Sequence[nn.Linear]) -> Latents:
        """Return keys that have already met the query's projection, values that have passed the output's and `maps`.

        What precedes the softmax and what follows the weighted sum is linear, so it may as well be done to the R tokens
        as to every coordinate. "key": (B, hidden, heads · R) and "offset" (B, heads · R), scale included · "values":
        (B, heads · R, maps · hidden), the biases in the first head's, whose weights sum to one.
        """
        key = self._split(self.key(tokens)) * (self.key.out_features // self.heads) ** -0.5
        ask = self.query.weight.unflatten(0, (self.heads, -1)).transpose(1, 2).to(key.dtype)
        offset = key @ self.query.bias.unflatten(0, (self.heads, -1))[..., None].to(key.dtype)
        weight = torch.cat([linear.weight for linear in maps]) @ self.output.weight
        bias = torch.cat([linear.bias + linear.weight @ self.output.bias for linear in maps])
        value = self._split(self.value(tokens))
        values = value @ weight.unflatten(-1, (self.heads, -1)).permute(1, 2, 0).to(value.dtype)
        first = torch.zeros(self.heads, 1, 1, dtype=value.dtype, device=value.device)
        first[0] = 1
        return {"key": (ask @ key.transpose(-1, -2)).transpose(1, 2).flatten(-2), "offset": offset.flatten(1),
                "values": (values + first * bias.to(value.dtype)).flatten(1, 2)}

    def weigh(self, features: Tensor, context: Latents) -> Tensor:
        """Map the query's features (B or 1, n, hidden) to sums of folded values (B, n, maps · hidden)."""
        key, offset = context["key"], context["offset"]
        features = features.to(key.dtype)
        if len(features) == 1:      # asked of all signals at once: one product, nothing repeated for each of them
            scores = torch.addmm(offset.flatten(), features[0], key.transpose(0, 1).flatten(1))
            scores = scores.unflatten(-1, (len(key), -1)).transpose(0, 1)
        else:
            scores = torch.baddbmm(offset[:, None], features, key)
        weights = torch.softmax(scores.unflatten(-1, (self.heads, -1)), -1).to(key.dtype).flatten(-2)
        return weights @ context["values"]

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class PatternLayer(nn.Module):
    """Instance pattern composer (Kim et al., CVPR 2023): a layer whose weight is V U, V a signal's tokens.

    The bias and the factor U (rank, out) are shared by all signals; columns of V U have unit norm over the inputs.
    """

    def __init__(self, in_features: int, out_features: int, rank: int):
        super().__init__()
        self.factor = nn.Parameter(torch.randn(rank, out_features) / (rank * in_features) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(out_features))

    def weights(self, tokens: Tensor) -> Latents:
        """Compose (B, rank, in) tokens into weights (B, in, out)."""
        return {"weight": functional.normalize(tokens.transpose(1, 2) @ self.factor, dim=1)}

    def forward(self, x: Tensor, context: Latents) -> Tensor:
        """Map (B or 1, n, in) to (B, n, out)."""
        return torch.relu(x @ context["weight"].to(x.dtype) + self.bias.to(x.dtype))


class MultiBand(nn.Module):
    """Eqs. (6)–(9): modulation vectors through L bands, the highest frequencies first and deepest.

    linear_maps=False drops the W of Eqs. (6) and (7): ReLU(γ + m), the features being as wide as the hidden layers.
    """

    def __init__(self, in_features: int, out_features: int, hidden: int, features: int, bandwidths: Sequence[float],
                 linear_maps: bool = True):
        super().__init__()
        self.linear_maps, levels = linear_maps, len(bandwidths)
        if linear_maps:
            self.frequencies = nn.ModuleList(FrequencyFeatures(in_features, features, hidden, s) for s in bandwidths)
            self.modulations = nn.ModuleList(nn.Linear(hidden, hidden) for _ in bandwidths)
        else:
            self.frequencies = nn.ModuleList(LogFourier(in_features, hidden, s) for s in bandwidths)
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(levels - 1))
        self.outputs = nn.ModuleList(nn.Linear(hidden, out_features) for _ in range(levels))

    def forward(self, coords: Tensor, modulation: Tensor) -> Tensor:
        """Map coords (B or 1, n, in) and modulation vectors (B, n, hidden) to values (B, n, out)."""
        mapped = [linear(modulation) for linear in self.modulations] if self.linear_maps else \
            [modulation] * len(self.frequencies)
        return self.compose(coords, mapped)

    def compose(self, coords: Tensor, mapped: Sequence[Tensor]) -> Tensor:
        """Go on from what the linear maps of Eq. (7) make of the modulation vectors, (B, n, hidden) a level."""
        h, total = None, 0.0
        for level, (frequency, modulation) in enumerate(zip(self.frequencies, mapped)):
            features = frequency(coords)
            if not self.linear_maps:
                features = torch.relu(functional.pad(features, (0, modulation.shape[-1] - features.shape[-1])))
            m = torch.relu(features + modulation)
            h = m if h is None else torch.relu(self.layers[level - 1](m + h))
            total = total + self.outputs[level](h)
        return total


class PlainStack(nn.Module):
    """The ablation without multi-band modulation: the modulation vector through as many layers, one output."""

    def __init__(self, out_features: int, hidden: int, layers: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers))
        self.output = nn.Linear(hidden, out_features)

    def forward(self, coords: Tensor, modulation: Tensor) -> Tensor:
        """Map modulation vectors (B, n, hidden) to values (B, n, out); coords are not looked at."""
        for layer in self.layers:
            modulation = torch.relu(layer(modulation))
        return self.output(modulation)


class LocalityAwareDecoder(Decoder):
    """Selective token aggregation (Eqs. 2–5), then multi-band feature modulation (Eqs. 6–9).

    Without token aggregation the modulation vector is that of an instance pattern composer on features of the highest
    bandwidth; without multi-band modulation it passes a plain stack of as many layers as the bands have.
    """

    def __init__(self, config, in_features: int, out_features: int):
        super().__init__()
        self.config = config
        hidden, features, bands = config.hidden_features, config.frequency_features, config.bandwidths
        self.aggregates, levels = config.token_aggregation, len(bands)
        # multiplications per coordinate and feature, folded into keys and values or one by one
        folded = config.decoder_heads * config.tokens * (1 + levels)
        fewer = folded < 2 * config.tokens + (1 + levels) * hidden
        self.folds = self.aggregates and config.multi_band and config.linear_maps and fewer
        self.query = FrequencyFeatures(in_features, features, hidden,
                                       config.query_bandwidth if self.aggregates else max(bands))
        self.modulation = (TokenAttention(hidden, config.token_features, config.decoder_heads) if self.aggregates
                           else PatternLayer(hidden, hidden, config.tokens))
        self.bands = (MultiBand(in_features, out_features, hidden, features, bands, config.linear_maps)
                      if config.multi_band else PlainStack(out_features, hidden, 2 * len(bands) - 1))

    def prepare(self, latents: Latents) -> Latents:
        """Project keys and values of the tokens (or compose the pattern layer's weight) once per signal.

        "fused": the kernel that decodes, where it is chosen and no gradients are asked for.
        """
        if not self.aggregates:
            return self.modulation.weights(latents["tokens"])
        context = (self.modulation.folded(latents["tokens"], self.bands.modulations) if self.folds
                   else self.modulation.keys_values(latents["tokens"]))
        fused = self._fused(latents["tokens"], context)
        return context if fused is None else {**context, "fused": fused}

    def _fused(self, tokens: Tensor, context: Latents) -> kernel.Packed | None:
        """Return the kernel with its weights laid out, if it serves."""
        if torch.is_grad_enabled() or kernel.obstacle(self):
            return None
        dtype = choice.product_type(tokens)
        dtype = torch.float16 if dtype is torch.float32 else dtype      # its products are halves

        def packed() -> kernel.Packed:
            pairs = self.modulation.keys_values(tokens)
            return kernel.Packed(self, pairs["key"], pairs["value"], dtype)

        def check(*_) -> None:
            kernel.self_check(self, packed(), context, dtype)

        key = "locality-aware", self.config, self.query.encoding.out_features, self.bands.outputs[0].out_features
        if not choice.triton_serves(tokens.detach(), key, check):
            return None
        return packed()

    def forward(self, coords: Tensor, context: Latents) -> Tensor:
        """Map coords (B or 1, n, in) to values (B, n, out). Coordinates shared by a batch pass Eqs. (2)–(4) once."""
        if "fused" in context and not torch.is_grad_enabled():
            return context["fused"](coords)
        return self.plain(coords, context)

    def plain(self, coords: Tensor, context: Latents) -> Tensor:
        """Like `forward`, in plain torch."""
        query = self.query(coords)
        if self.folds:
            mapped = self.modulation.weigh(query, context).chunk(len(self.bands.modulations), -1)
            return self.bands.compose(coords, mapped).float()
        return self.bands(coords, self.modulation(query, context)).float()
