"""What generalizable fields are further compared with: learned initialisation, hypernetworks, an auto-decoder."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inr_scenes.errors import InrError
from inr_scenes.field import Recipe
from inr_scenes.generalizable import Decoder, GeneralizableField, KnownSamples, Latents, grids
from inr_scenes.signal import Signal
from inr_scenes.spec import Spec

from .fields import PUBLISHED_RAYS
from .sizes import Sizes
from .weights import HyperDecoder, WeightedNetwork, siren_weights, weight_shapes


def measurements(signals: Sequence[Signal], count: int, device, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return coords (B, n, in) and values (B, n, out) of at most `count` measurements each; 0: all of them.

    Of a signal that is known in parts these are among the known ones.
    """
    size = len(signals[0])
    index = torch.arange(size)
    if 0 < count < size:
        index = torch.randperm(size, generator=generator)[:count]
    pairs = [signal.sample(index.to(signal.device)) for signal in signals]
    return tuple(torch.stack(part).to(device) for part in zip(*pairs))


class LearnedInit(GeneralizableField):
    """Learned initialisation: a few gradient steps from learned weights fit a signal (Tancik et al., CVPR 2021)."""

    name = "learned-init"
    completes = True

    @dataclass(frozen=True)
    class Config(Sizes):
        """Settings of a learned initialisation."""

        may_be_zero = frozenset({"inner_points"})

        hidden_features: int = 128
        """Width of the sine layers."""
        layers: int = 5
        """Layers, the output included."""
        omega_0: float = 30.0
        """Frequency factor of the hidden layers."""
        first_omega_0: float = 30.0
        """Frequency factor of the first layer."""
        method: str = "maml"
        """maml (gradients through the inner steps) or reptile (towards where they lead)."""
        inner_steps: int = 2
        """Gradient steps from the initialisation to a signal, in training and at encoding."""
        inner_lr: float = 0.01
        """Step size of those steps."""
        inner_points: int = 2048
        """Measurements each of those steps looks at; 0: all."""

    def __init__(self, config, spec: Spec):
        super().__init__(config, spec)
        if config.method not in ("maml", "reptile"):
            raise InrError(f"--method {config.method!r} is not known: maml or reptile.")
        self.start = nn.ParameterDict(siren_weights(_widths(config, spec), config.omega_0))

    @classmethod
    def make_decoder(cls, config, spec: Spec) -> Decoder:
        """Return a SIREN that is handed its weights."""
        return WeightedNetwork(config.layers, "sine", config.omega_0, config.first_omega_0)

    @classmethod
    def latent_shapes(cls, config, spec: Spec) -> dict[str, tuple[int, ...]]:
        """All weights of the network."""
        return weight_shapes(_widths(config, spec))

    def compilable(self) -> list[nn.Module]:
        """None for MAML: its gradients go through the inner steps', and compiled code has no second derivatives."""
        return [] if self.config.method == "maml" else super().compilable()

    def encode(self, signals: Sequence[Signal]) -> Latents:
        """Take the inner gradient steps."""
        return {name: value.detach() for name, value in self._adapt(signals, False).items()}

    def training_latents(self, signals: Sequence[Signal], numbers: Tensor) -> Latents:
        """Take the inner steps, for MAML with gradients through them."""
        return self._adapt(signals, True) if self.config.method == "maml" else self.encode(signals)

    def penalty(self, latents: Latents) -> Tensor | float:
        """Reptile: the gradient of half the squared distance to the adapted weights leads towards them."""
        if self.config.method == "maml":
            return 0.0
        return sum((0.5 * (self.start[name] - value).square()).sum() / len(value) for name, value in latents.items())

    def _adapt(self, signals: Sequence[Signal], differentiable: bool) -> Latents:
        self.check_signals(signals)
        generator = torch.Generator().manual_seed(0)
        weights = {name: value.expand(len(signals), *value.shape) for name, value in self.start.items()}
        if not differentiable:
            weights = {name: value.detach().clone().requires_grad_() for name, value in weights.items()}
        with torch.enable_grad():
            for _ in range(self.config.inner_steps):
                coords, values = measurements(signals, self.config.inner_points, self.device, generator)
                # each signal's own mean, so that a batch changes nothing
                loss = (self.decoder(coords, weights) - values).square().mean((1, 2)).sum()
                gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=differentiable)
                weights = {name: value - self.config.inner_lr * gradient
                           for (name, value), gradient in zip(weights.items(), gradients)}
        return weights

    @classmethod
    def suggest(cls, signal: Signal, preset: str) -> Recipe:
        """Published: 256 wide, omega 200 on [0, 1], outer Adam 1e-5, batches of 3."""
        if preset == "published":
            points = _all(signal)
            return Recipe({"hidden_features": 256, "first_omega_0": 100.0, "omega_0": 30.0, "inner_points": points},
                          {"lr": 1e-5, "batch": 3, "points": points, "schedule": "constant", "ema": 0.0, "warmup": 0})
        return Recipe({}, {"lr": 1e-4})


class HyperSiren(GeneralizableField):
    """A SIREN whose weights a hypernetwork makes of a code, read from a few pixels (Sitzmann et al., NeurIPS 2020).

    The encoder takes the given pixels as a set, or as a picture with the others masked out. For completing images from
    few pixels: --context.
    """

    name = "siren-hyper"
    completes = True

    @dataclass(frozen=True)
    class Config(Sizes):
        """Settings of a SIREN behind a hypernetwork."""

        may_be_zero = frozenset({"context"})

        encoder: str = "set"
        """set (a network on each measurement, then their mean) or conv (images: convolutions on a masked picture)."""
        context: int = 0
        """Measurements the encoder sees, drawn at random; 0: all."""
        code_features: int = 256
        """Features of the code."""
        hyper_features: int = 256
        """Width of the hypernetwork."""
        hidden_features: int = 128
        """Width of the sine layers."""
        layers: int = 5
        """Layers of the SIREN, the output included."""
        omega_0: float = 30.0
        """Frequency factor of all sine layers."""
        code_weight: float = 0.01
        """Weight of the mean square of the code in the loss."""

    def __init__(self, config, spec: Spec):
        super().__init__(config, spec)
        width, out = config.code_features, config.code_features
        if config.encoder == "set":
            self.encoder = nn.Sequential(nn.Linear(spec.in_features + spec.out_features, width), nn.ReLU(),
                                         nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        elif config.encoder == "conv" and spec.kind == "image":
            channels, blocks = [spec.out_features + 1, 64, 128, 256], []
            for a, b in itertools.pairwise(channels):
                blocks += [nn.Conv2d(a, b, 3, 2, 1), nn.ReLU(), nn.Conv2d(b, b, 3, 1, 1), nn.ReLU()]
            self.encoder, width = nn.Sequential(*blocks), channels[-1]
        else:
            raise InrError(f"--encoder {config.encoder!r} is not known for signals of kind {spec.kind!r}: set, or conv "
                           f"for images.")
        self.code = nn.Linear(width, out)

    @classmethod
    def make_decoder(cls, config, spec: Spec) -> Decoder:
        """Return the hypernetwork and the SIREN it makes."""
        network = WeightedNetwork(config.layers, "sine", config.omega_0, config.omega_0)
        return HyperDecoder(network, siren_weights(_widths(config, spec), config.omega_0), config.code_features,
                            config.hyper_features)

    @classmethod
    def latent_shapes(cls, config, spec: Spec) -> dict[str, tuple[int, ...]]:
        """One code."""
        return {"code": (config.code_features,)}

    def encode(self, signals: Sequence[Signal]) -> Latents:
        """Read the given measurements; at evaluation always the same ones."""
        self.check_signals(signals)
        generator = torch.Generator()
        generator.manual_seed(int(torch.randint(1 << 31, ())) if self.training else 0)
        given = isinstance(signals[0], KnownSamples)            # then all of them are read, whatever the training drew
        count = 0 if given else self.config.context
        if self.config.encoder == "set":
            coords, values = measurements(signals, count, self.device, generator)
            return {"code": self.code(self.encoder(torch.cat([coords, values], -1)).mean(1)).float()}
        picture = grids(signals).to(self.device)
        mask = torch.stack([signal.mask() for signal in signals]) if given else torch.ones(1, *picture.shape[1:3])
        if count:
            keep = torch.randperm(mask.numel(), generator=generator)[:count]
            mask = torch.zeros(mask.numel()).index_fill_(0, keep, 1.0).reshape(mask.shape)
        mask = mask.to(self.device)[..., None].expand(*picture.shape[:3], 1)
        features = self.encoder(torch.cat([picture * mask, mask], -1).movedim(-1, 1))
        return {"code": self.code(features.mean((2, 3))).float()}

    def penalty(self, latents: Latents) -> Tensor | float:
        """Keep codes small."""
        return self.config.code_weight * latents["code"].square().mean()

    @classmethod
    def suggest(cls, signal: Signal, preset: str) -> Recipe:
        """Published: 256 wide, Adam 5e-5."""
        if preset == "published":
            return Recipe({"hidden_features": 256},
                          {"lr": 5e-5, "points": _all(signal), "schedule": "constant", "ema": 0.0})
        return Recipe({}, {"lr": 1e-4})


class LightFieldNetwork(GeneralizableField):
    """Light field network: an auto-decoder, whose codes are found by gradient descent (Sitzmann et al., NeurIPS 2021).

    Training keeps a code for each signal; encoding optimises a new one on the given views, the network frozen.
    """

    name = "lfn"
    kinds = frozenset({"lightfield", "image"})
    completes = True

    @dataclass(frozen=True)
    class Config(Sizes):
        """Settings of a light field network."""

        may_be_zero = frozenset({"encode_points"})

        code_features: int = 256
        """Features of the code."""
        hyper_features: int = 256
        """Width of the hypernetwork."""
        hidden_features: int = 128
        """Width of the layers."""
        layers: int = 8
        """Layers, the output included."""
        code_weight: float = 0.005
        """Weight of the mean square of the codes in the loss."""
        encode_steps: int = 200
        """Gradient steps that encode a signal."""
        encode_lr: float = 0.01
        """Learning rate of those steps."""
        encode_points: int = 2048
        """Measurements each of those steps looks at; 0: all."""

    def __init__(self, config, spec: Spec):
        super().__init__(config, spec)
        self.codes: nn.Parameter | None = None

    @classmethod
    def make_decoder(cls, config, spec: Spec) -> Decoder:
        """Return the hypernetwork and the network it makes: layer norm and ReLU after every layer."""
        start = {name: torch.zeros(shape) for name, shape in weight_shapes(_widths(config, spec)).items()}
        for value in start.values():
            if value.ndim == 2:
                nn.init.kaiming_normal_(value.T, nonlinearity="relu")
        return HyperDecoder(WeightedNetwork(config.layers, "norm-relu"), start, config.code_features,
                            config.hyper_features)

    @classmethod
    def latent_shapes(cls, config, spec: Spec) -> dict[str, tuple[int, ...]]:
        """One code."""
        return {"code": (config.code_features,)}

    def enrol(self, count: int) -> None:
        """Make a code for each training signal."""
        if self.codes is None or len(self.codes) != count:
            generator = torch.Generator().manual_seed(count)
            codes = torch.randn(count, self.config.code_features, generator=generator) * 0.1
            self.codes = nn.Parameter(codes.to(self.device))

    def training_latents(self, signals: Sequence[Signal], numbers: Tensor) -> Latents:
        """Look the signals' codes up."""
        return {"code": self.codes[numbers]}

    def encode(self, signals: Sequence[Signal]) -> Latents:
        """Find codes by gradient descent, the network frozen."""
        self.check_signals(signals)
        generator = torch.Generator().manual_seed(0)
        code = torch.zeros(len(signals), self.config.code_features, device=self.device, requires_grad=True)
        optimizer = torch.optim.Adam([code], lr=self.config.encode_lr)
        with torch.enable_grad():
            for _ in range(self.config.encode_steps):
                coords, values = measurements(signals, self.config.encode_points, self.device, generator)
                error = (self.decode(coords, {"code": code}) - values).square().mean((1, 2)).sum()
                loss = error + self.config.code_weight * code.square().mean(1).sum()
                (code.grad,) = torch.autograd.grad(loss, [code])
                optimizer.step()
        return {"code": code.detach()}

    def penalty(self, latents: Latents) -> Tensor | float:
        """Keep codes small."""
        return self.config.code_weight * latents["code"].square().mean()

    def baked(self) -> "LightFieldNetwork":
        """Return the network without the training signals' codes."""
        if self.codes is None:
            return self
        other = type(self)(self.config, self.spec)
        other.load_state_dict({k: v for k, v in self.state_dict().items() if k != "codes"})
        return other.to(self.device)

    @classmethod
    def suggest(cls, signal: Signal, preset: str) -> Recipe:
        """Published: 256 wide, Adam 1e-4."""
        if preset == "published":
            return Recipe({"hidden_features": 256}, {"lr": 1e-4, "schedule": "constant", "ema": 0.0, "warmup": 0})
        return Recipe({}, {"lr": 1e-3})


def _all(signal: Signal) -> int:
    """Return the coordinates of a published step: all, which for a light field would be every view's rays at once."""
    return PUBLISHED_RAYS if signal.spec.kind == "lightfield" else 0


def _widths(config, spec: Spec) -> list[int]:
    if config.layers < 2:
        raise InrError("--layers must be at least 2.")
    return [spec.in_features, *[config.hidden_features] * (config.layers - 1), spec.out_features]
