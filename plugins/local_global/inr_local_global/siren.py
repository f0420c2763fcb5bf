"""Local-Global SIREN (Ashkenazi & Treister, NeurIPS 2024) and its baseline, a SIREN per partition."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inr_scenes.field import Recipe
from inr_scenes.signal import Signal
from inr_scenes.siren import SineLayer

from . import fused
from .config import LocalGlobalConfig, PartitionConfig
from .layers import Blocks, LocalLinear, sine_local
from .partitioned import Partitioned
from .recipes import recipe


class SirenPerPartition(Partitioned):
    """A SIREN of its own for every block, nothing shared: the baseline of Local-Global networks."""

    name = "siren-per-partition"

    @dataclass(frozen=True)
    class Config(PartitionConfig):
        """Settings of a SIREN per partition."""

    def build(self, config: Config) -> None:
        """Make the local layers."""
        self.local = local_layers(len(self.layout.blocks), config, self.spec)

    def values(self, points: Blocks) -> Tensor:
        """Like `evaluate`, by the fused path where it serves."""
        return fused.values(self, points, [])

    def as_sines(self, own: list[Tensor], common: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the tensors with which plain sines compute the same: these."""
        return own, common

    def kernel_obstacle(self, device: torch.device) -> str | None:
        """Say why no fused path serves; none if one does."""
        return fused.obstacle(self, device)

    @classmethod
    def fast_path(cls, device: torch.device) -> str | None:
        """Return the fused path of a device."""
        return fused.fast_path(device)

    def evaluate(self, coords: Tensor, slots: Tensor) -> Tensor:
        """Apply every block's own network."""
        first, *hidden, output = self.local
        x = torch.sin(self.config.first_omega_0 * coordinate_layer(first, coords, slots))
        for layer in hidden:
            x = torch.sin(self.config.omega_0 * layer(x, slots))
        return output(x, slots)

    @classmethod
    def suggest(cls, signal: Signal, preset: str) -> Recipe:
        """Published: the paper's settings. Fast: tuned, see benchmarks/."""
        return recipe(signal, preset, with_global=False)


class LgSiren(Partitioned):
    """A small SIREN for every block and one global SIREN, merged at every level; blocks can be cut away or added.

    With global features g_i and local ones l_i (l_-1 the coordinates), u_i = sin(ω(A_ki l_{i-1} + b_ki)) and
    l_i = sin(ω(M [u_i ; g_i] + m)), one M for all levels and blocks; the output is a local linear map of the last l.
    """

    name = "lg-siren"

    @dataclass(frozen=True)
    class Config(LocalGlobalConfig):
        """Settings of a Local-Global SIREN."""

    def build(self, config: Config) -> None:
        """Make local layers, global layers, and what merges them."""
        h, g, levels = config.local_features, config.global_features, config.hidden_layers + 1
        self.local = local_layers(len(self.layout.blocks), config, self.spec)
        self.shared = nn.ModuleList([
            SineLayer(self.spec.in_features, g, config.first_omega_0, first=True),
            *(SineLayer(g, g, config.omega_0) for _ in range(config.hidden_layers))])
        self.merging = nn.ModuleList(SineLayer(g if config.merge == "add" else h + g, h, config.omega_0)
                                     for _ in range(1 if config.merge == "shared" else levels))

    def values(self, points: Blocks) -> Tensor:
        """Like `evaluate`, by the fused path where it serves."""
        if not self._plain_sines:
            return super().values(points)
        return fused.values(self, points, [*self.shared, *self.merging])

    @property
    def _plain_sines(self) -> bool:
        """Whether this is a network that fused paths know: of sines, or of what `as_sines` makes sines of."""
        if self.config.merge == "add":          # sums of sines of other amplitudes are none
            return type(self).sines is LgSiren.sines
        return type(self)._known()

    @classmethod
    def _known(cls) -> bool:
        """Say whether the activations are sines, or `as_sines` says how others are computed by them."""
        return cls.sines is LgSiren.sines or cls.as_sines is not LgSiren.as_sines

    def kernel_obstacle(self, device: torch.device) -> str | None:
        """Say why no fused path serves; none if one does."""
        return fused.obstacle(self, device) if self._plain_sines else super(Partitioned, self).kernel_obstacle(device)

    @classmethod
    def fast_path(cls, device: torch.device) -> str | None:
        """Return the fused path of a device."""
        return fused.fast_path(device) if cls._known() else None

    def sines(self):
        """Return the activations of local, global and merge layers: functions of (pre-activation, omega)."""
        return sine, sine, sine

    def as_sines(self, own: list[Tensor], common: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the tensors of blocks and of shared layers with which plain sines compute the same."""
        return own, common

    def evaluate(self, coords: Tensor, slots: Tensor) -> Tensor:
        """Apply every block's own network, merged with the global one at every level."""
        local_sine, global_sine, merge_sine = self.sines()
        *levels, output = self.local
        local = shared = coords
        for i, (mine, common) in enumerate(zip(levels, self.shared)):
            apply = coordinate_layer if i == 0 else _call
            omega = self.config.first_omega_0 if i == 0 else self.config.omega_0
            local = local_sine(apply(mine, local, slots), omega)
            shared = global_sine(apply(common.linear, shared), omega)
            merge = self.merging[i % len(self.merging)].linear
            if self.config.merge == "add":
                local = local + merge_sine(merge(shared), self.config.omega_0)
            else:
                local = merge_sine(split_linear(merge, local, shared), self.config.omega_0)
        return output(local, slots)

    @classmethod
    def suggest(cls, signal: Signal, preset: str) -> Recipe:
        """Published: the paper's settings. Fast: tuned, see benchmarks/."""
        return recipe(signal, preset)


def local_layers(slots: int, config: PartitionConfig, spec) -> nn.ModuleList:
    """Return the layers of all blocks: first, hidden ones, and the linear output."""
    h = config.local_features
    return nn.ModuleList([
        LocalLinear(slots, spec.in_features, h, 1 / spec.in_features),
        *(sine_local(slots, h, h, config.omega_0) for _ in range(config.hidden_layers)),
        sine_local(slots, h, spec.out_features, config.omega_0)])


def sine(x: Tensor, omega: float) -> Tensor:
    """SIREN's activation."""
    return torch.sin(omega * x)


def split_linear(linear: nn.Linear, local: Tensor, shared: Tensor) -> Tensor:
    """Return linear([local ; shared]) without writing the two side by side."""
    h = local.shape[-1]
    return F.linear(local, linear.weight[:, :h]) + F.linear(shared, linear.weight[:, h:], linear.bias)


def coordinate_layer(layer: nn.Module, coords: Tensor, *slots: Tensor) -> Tensor:
    """Apply a first layer in at least float32: omega multiplies the rounding of coordinates."""
    with torch.autocast(coords.device.type, enabled=False):
        return layer(coords, *slots)


def _call(layer: nn.Module, *arguments: Tensor) -> Tensor:
    return layer(*arguments)
