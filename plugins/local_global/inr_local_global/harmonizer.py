"""INCODE's harmoniser: the numbers that shape a sine, from what an encoder sees of the signal."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inr_scenes.field import Field
from inr_scenes.signal import Signal

from .config import Hidden
from .encoders import encoder

WEIGHT_STD = 0.001
PENALTIES = (0.1993, 0.0196, 0.0588, 0.0269)        # of negative a, b, c, d
SCALARS = 4


def shaped_sine(x: Tensor, omega: float, scalars: Tensor) -> Tensor:
    """e^a · sin(e^b · omega · x + c) + d; with all four at zero, SIREN's sine."""
    a, b, c, d = scalars
    return a.exp() * torch.sin(b.exp() * omega * x + c) + d


def shaped(weight: Tensor, bias: Tensor, omega: float | None, scalars: Tensor | None, before: Tensor | None,
           inputs: int = -1) -> list[Tensor]:
    """Return weight and bias with which plain sines compute what shaped ones do, but for e^a and d of this layer.

    scalars: of this layer's sines; none: it is linear, and `omega` is not used. before: of the sines that it sees;
    none: it sees coordinates. inputs: the weight's dimension that is summed over.
    """
    if before is not None:
        a, _, _, d = before
        weight, bias = a.exp() * weight, bias + d * weight.sum(inputs)
    if scalars is not None:
        _, b, c, _ = scalars
        weight, bias = b.exp() * weight, b.exp() * bias + c / omega
    return [weight, bias]


class Harmonizer(nn.Module):
    """Encoder, then linear layers with SiLU between them, to `sets` times (a, b, c, d).

    Every linear bias starts at `aux_bias`, weights from a normal of deviation 0.001. A frozen encoder runs once and its
    features are kept; a trained one runs again in every forward.
    """

    def __init__(self, signal: Signal, sets: int, config: "HarmonizerConfig"):
        super().__init__()
        network, seen = encoder(signal)
        network.to(seen.device)
        self.sets = sets
        if config.train_encoder:
            self.encoder = network
            self.register_buffer("seen", seen, persistent=False)
        else:
            self.encoder = None
            with torch.no_grad():
                self.register_buffer("seen", network(seen))
        layers: list[nn.Module] = []
        width = network.features
        for out in (*config.aux_features, sets * SCALARS):
            linear = nn.Linear(width, out)
            nn.init.trunc_normal_(linear.weight, std=WEIGHT_STD)
            nn.init.constant_(linear.bias, config.aux_bias)
            layers += [linear, *([nn.LayerNorm(out)] if config.aux_norm else []), nn.SiLU()]
            width = out
        del layers[layers.index(linear) + 1:]               # the scalars themselves are linear
        self.layers = nn.Sequential(*layers).to(seen.device)

    def forward(self) -> Tensor:
        """Return the scalars, (sets, 4)."""
        with torch.autocast(self.seen.device.type, enabled=False):
            features = self.seen if self.encoder is None else self.encoder(self.seen)
            return self.layers(features).reshape(self.sets, SCALARS)


@dataclass(frozen=True)
class HarmonizerConfig:
    """Settings of INCODE's harmoniser."""

    aux_features: tuple[int, ...] = (64, 32)
    """Widths of the harmoniser's layers between encoder and scalars."""
    aux_bias: float = 0.3120
    """Where every bias of the harmoniser starts, and with it the scalars: 0.0005 for denoising."""
    aux_norm: bool = False
    """Normalise the harmoniser's layers, as for denoising."""
    train_encoder: bool = False
    """Train the encoder too and run it in every forward, as the original; else it is a random projection, run once."""
    conditioned: Annotated[bool, Hidden] = False
    """The scalars are constants: what a finished fit leaves."""


class Harmonized(Field):
    """What INCODE fields share: scalars that a harmoniser finds during a fit and that are constants afterwards."""

    sets: ClassVar[int]                 # of scalars: one, or those of local, global and merge layers

    def make_scalars(self) -> None:
        """Begin with the scalars a fresh harmoniser gives, up to its small random weights."""
        self.harmonizer: Harmonizer | None = None
        self.harmonizer_seed = int(torch.randint(2**31, (), device="cpu"))
        self.register_buffer("constants", torch.full((self.sets, SCALARS), self.config.aux_bias))
        self.register_buffer("penalties", torch.tensor(PENALTIES), persistent=False)    # a recorded step copies nothing

    @property
    def scalars(self) -> Tensor:
        """The sets of (a, b, c, d), (sets, 4)."""
        return self.constants if self.harmonizer is None else self.harmonizer()

    def condition(self, signal: Signal) -> None:
        """Attach a harmoniser for the signal, unless the scalars are constants already."""
        super().condition(signal)
        c = self.config
        if c.conditioned or self.harmonizer is not None:
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.harmonizer_seed)
            made = Harmonizer(signal, self.sets, c)
        self.harmonizer = made.to(self.constants.device)

    def baked(self) -> Field:
        """Return the field with its scalars as constants, so that it decodes without the signal."""
        if self.config.conditioned:
            return super().baked()
        with torch.random.fork_rng(devices=[]):
            new = type(self)(dataclasses.replace(self.config, conditioned=True), self.spec).to(self.constants)
        state = {name: value for name, value in self.state_dict().items() if not name.startswith("harmonizer.")}
        new.load_state_dict({**state, "constants": self.scalars.detach()})
        return new.train(self.training)

    def penalty(self) -> Tensor | float:
        """INCODE's regulariser, which keeps the scalars from becoming negative."""
        if self.harmonizer is None:
            return 0.0
        return (F.relu(-self.scalars) * self.penalties).sum()
