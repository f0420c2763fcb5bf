"""The fields `lainr`, `ipc` and `transinr`: one transformer encoder, three ways for its tokens to make a function."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from inr_scenes.errors import InrError
from inr_scenes.field import Recipe
from inr_scenes.generalizable import Decoder, GeneralizableField
from inr_scenes.signal import Signal
from inr_scenes.spec import Spec

from .composers import PatternDecoder, WeightDecoder, layer_sizes
from .decoder import LocalityAwareDecoder
from .encoder import Heads, TokenEncoder
from .features import LogFourier
from .sizes import Sizes


@dataclass(frozen=True)
class EncoderConfig(Sizes):
    """The transformer encoder, small enough for a CPU; --preset published is the papers' size."""

    patch: int = 8
    """Samples along each side of a patch (pixels, audio samples, voxels)."""
    width: int = 192
    """Features of the transformer's tokens."""
    blocks: int = 3
    """Pre-norm transformer blocks."""
    heads: int = 3
    """Attention heads of the encoder."""
    head_features: int = 64
    """Features of each encoder head."""
    hidden_features: int = 128
    """Width of the decoder's layers."""
    frequency_features: int = 128
    """Fourier features of a coordinate (d_F)."""


PUBLISHED_ENCODER = {"width": 768, "blocks": 6, "heads": 12, "head_features": 64, "hidden_features": 256,
                     "frequency_features": 256}
FAST_TRAINING = {"optimizer": "muon", "lr": 1e-2}       # in small, some 3 dB above Adam at 1e-3 after equal steps
# of what is no image. At 1e-2 views stay at the mean picture for long, 1.2 dB less after 3,000 steps; solids are 3 dB
# behind after 1,500, and sounds diverge
OTHER_RATE = 3e-3
# rays of a light field in each step; the paper names no number: its base code decodes 128 rays of 128 samples
PUBLISHED_RAYS = 128 * 128
PUBLISHED_TRAINING = {"optimizer": "adam", "lr": 1e-4, "schedule": "constant", "warmup": 0, "ema": 0.0}


class TokenField(GeneralizableField):
    """A generalizable field whose latents are read off a transformer's learnable tokens."""

    def __init__(self, config, spec: Spec):
        super().__init__(config, spec)
        shapes = self.latent_shapes(config, spec)
        self.encoder = TokenEncoder(config, self.spec, sum(count for count, _ in shapes.values()))
        self.heads = Heads(config.width, shapes)

    def encode(self, signals: Sequence[Signal]) -> dict[str, Tensor]:
        """Return the latents of signals of one shape in one pass; light fields are read from all views they hold."""
        self.check_signals(signals)
        return self.heads(self.encoder(signals))

    def compilable(self) -> list[nn.Module]:
        """The transformer's blocks, then the decoder."""
        return [*self.encoder.blocks, self.decoder]

    @classmethod
    def _published(cls, signal: Signal) -> Recipe:
        kind = signal.spec.kind
        size = max(signal.spec.shape, default=128)
        patch = {"audio": 200, "lightfield": 8}.get(kind) or next(
            (patch for limit, patch in ((178, 9), (256, 16), (512, 32)) if size <= limit), 48)
        batch, points = (32, PUBLISHED_RAYS) if kind == "lightfield" else (16, 0 if size <= 178 else 0.1)
        return Recipe({**PUBLISHED_ENCODER, "patch": patch}, {**PUBLISHED_TRAINING, "batch": batch, "points": points})

    @classmethod
    def _fast(cls, signal: Signal) -> Recipe:
        kind, size = signal.spec.kind, max(signal.spec.shape, default=64)
        patch = {"audio": 200, "shape": max(4, size // 8)}.get(kind, max(4, size // 16))
        rate = {} if kind == "image" else {"lr": OTHER_RATE}
        return Recipe({"patch": patch}, FAST_TRAINING | rate)


class LocalityAware(TokenField):
    """LAINR: each coordinate attends to the tokens that govern its place, then passes bands of frequencies."""

    name = "lainr"

    @dataclass(frozen=True)
    class Config(EncoderConfig):
        """Settings of a locality-aware field; the last five are the paper's ablations."""

        tokens: int = 64
        """Latent tokens (R)."""
        token_features: int = 64
        """Features of each latent token."""
        decoder_heads: int = 2
        """Heads of the decoder's cross-attention."""
        bandwidths: tuple[float, ...] = (128.0, 32.0)
        """σ of each level, from the first and deepest to the last; the paper orders them downwards."""
        query_bandwidth: float = 16.0
        """σ of the query."""
        token_aggregation: bool = True
        """Select tokens by cross-attention; off: an instance pattern composer in its place."""
        multi_band: bool = True
        """Modulate bands of frequencies; off: a plain stack of layers."""
        linear_maps: bool = True
        """The linear maps of Eqs. (6) and (7)."""

    @classmethod
    def make_decoder(cls, config, spec: Spec) -> Decoder:
        """Return the decoder of Eqs. (2)–(9)."""
        if not config.bandwidths or min(*config.bandwidths, config.query_bandwidth) < 1:
            raise InrError("--bandwidths needs at least one bandwidth, each 1 or more, as --query-bandwidth.")
        return LocalityAwareDecoder(config, spec.in_features, spec.out_features)

    @classmethod
    def fast_path(cls, device: torch.device) -> str | None:
        """Return the fused decoder in Triton, once it has passed its self-check."""
        decoder = LocalityAwareDecoder(cls.Config(), 2, 3).to(device).requires_grad_(False)
        tokens = torch.zeros(1, cls.Config.tokens, cls.Config.token_features, device=device)
        with torch.no_grad(), torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
            return "fused decoding (Triton)" if "fused" in decoder.prepare({"tokens": tokens}) else None

    @classmethod
    def latent_shapes(cls, config, spec: Spec) -> dict[str, tuple[int, ...]]:
        """R tokens; a pattern composer's are as wide as its layer."""
        features = config.token_features if config.token_aggregation else config.hidden_features
        return {"tokens": (config.tokens, features)}

    @classmethod
    def with_tokens(cls, config, count: int):
        """Return the config of `count` tokens: the decoder is the same for any number that it selects from."""
        if not config.token_aggregation:
            return super().with_tokens(config, count)
        return replace(config, tokens=count)

    @classmethod
    def suggest(cls, signal: Signal, preset: str) -> Recipe:
        """Published: the paper's sizes and bandwidths, Adam 1e-4. Fast: small, bandwidths that suit the size."""
        kind, size = signal.spec.kind, max(signal.spec.shape, default=128)
        bands, query = (8.0, 4.0), 2.0
        if kind == "audio":
            bands, query = (1024.0, 256.0), 128.0
        elif kind != "lightfield":
            # the paper doubles all bandwidths at 1024; the highest should stay below the sampling limit, size / 2
            scale = 2 if size > 512 else 1 if preset == "published" else min(1.0, size / 256)
            bands, query = (128.0 * scale, 32.0 * scale), max(1.0, 16.0 * scale)
        config = {"bandwidths": bands, "query_bandwidth": query}
        if preset == "published":
            heads = 4 if kind == "image" and size > 256 else 2      # at 1024 the paper names none
            recipe, own = cls._published(signal), {"tokens": 256, "token_features": 256, "decoder_heads": heads}
        else:
            recipe, own = cls._fast(signal), {}
        return Recipe({**recipe.config, **config, **own}, recipe.fit)


class PatternComposer(TokenField):
    """IPC: the second layer's weight is composed of a signal's tokens; all other layers are shared."""

    name = "ipc"

    @dataclass(frozen=True)
    class Config(EncoderConfig):
        """Settings of an instance pattern composer."""

        tokens: int = 64
        """Weight tokens: the rank of the composed weight."""
        layers: int = 5
        """Layers of the network, the output included."""
        bandwidth: float = 128.0
        """σ of the Fourier features."""

    @classmethod
    def make_decoder(cls, config, spec: Spec) -> Decoder:
        """Return the network with one composed layer."""
        if config.layers < 3:
            raise InrError("--layers must be at least 3: the second is composed, the last is the output.")
        return PatternDecoder(config, spec.in_features, spec.out_features)

    @classmethod
    def latent_shapes(cls, config, spec: Spec) -> dict[str, tuple[int, ...]]:
        """One token a pattern, as wide as the layer."""
        return {"tokens": (config.tokens, config.hidden_features)}

    @classmethod
    def suggest(cls, signal: Signal, preset: str) -> Recipe:
        """Published: the code's sizes, Adam 1e-4."""
        recipe = cls._published(signal) if preset == "published" else cls._fast(signal)
        own = {"tokens": 256} if preset == "published" else {}
        return Recipe({**recipe.config, **own, "bandwidth": _bandwidth(signal, preset)}, recipe.fit)


class WeightModulation(TokenField):
    """TransINR: tokens modulate groups of weight columns in every layer."""

    name = "transinr"

    @dataclass(frozen=True)
    class Config(EncoderConfig):
        """Settings of TransINR."""

        groups: int = 16
        """Tokens of each layer; columns of a group share one."""
        layers: int = 5
        """Layers of the network, the output included."""
        bandwidth: float = 128.0
        """σ of the Fourier features."""

    @classmethod
    def make_decoder(cls, config, spec: Spec) -> Decoder:
        """Return the network with modulated weights."""
        return WeightDecoder(config, spec.in_features, spec.out_features)

    @classmethod
    def latent_shapes(cls, config, spec: Spec) -> dict[str, tuple[int, ...]]:
        """Tokens of each layer, as wide as the layer's inputs."""
        features = LogFourier(spec.in_features, config.frequency_features, config.bandwidth).out_features
        return {f"layer{i}": (count, inputs)
                for i, (inputs, _, count) in enumerate(layer_sizes(config, features, spec.out_features))}

    @classmethod
    def suggest(cls, signal: Signal, preset: str) -> Recipe:
        """Published: the code's sizes, 64 groups (32 for views)."""
        recipe = cls._published(signal) if preset == "published" else cls._fast(signal)
        own = {"bandwidth": _bandwidth(signal, preset)}
        if preset == "published":
            own |= {"groups": 32} if signal.spec.kind == "lightfield" else {"groups": 64}
            own |= {"bandwidth": 1024.0} if signal.spec.kind == "image" else {}
        return Recipe({**recipe.config, **own}, recipe.fit)


def _bandwidth(signal: Signal, preset: str) -> float:
    """Return the σ of a network with one band: the greatest of LAINR's."""
    return LocalityAware.suggest(signal, preset).config["bandwidths"][0]


