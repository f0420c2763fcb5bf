"""What all partitioned fields share: evaluation at any points, training batches, occupied blocks."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from inr_scenes.errors import InrError
from inr_scenes.field import Field
from inr_scenes.signal import GridSignal, Signal
from inr_scenes.spec import Box, Spec

from .config import BUDGET, PartitionConfig
from .draw import Plan
from .layers import Blocks, GrownLinear, LocalLinear, Tiles
from .layout import Layout, Locator
from .sizes import SHARES, TOLERANCE

STEADY = 12, 96                     # local and other features up to which the whole learning rate is borne
LIKE = 256                          # width of the networks whose rates a local rate of none brings to narrower ones
WIDTH = 256                         # of the layers that a sampler's number of rows is meant for


class Partitioned(Field):
    """A field of small networks, one a block of the signal's domain.

    A subclass gives `build`, which makes the layers, and `evaluate`, which applies them to points sorted by block.
    """

    Config = PartitionConfig
    kinds = frozenset({"image", "video", "audio", "shape"})     # light fields have no regular axes to cut

    def __init__(self, config: PartitionConfig, spec: Spec):
        super().__init__(config, spec)
        self._asked = config
        self._seed = int(torch.randint(2**31, (), device="cpu"))
        self._plan: tuple[GridSignal, torch.device, Plan] | None = None
        self._set_up(config)

    def _set_up(self, config: PartitionConfig) -> None:
        """Make the layers for a config, whose automatic settings are settled first."""
        self.config = config.settled(self.spec)
        self.layout = self.config.layout
        self.locator = Locator(self.layout, self.spec.axes)
        fill = outside(self.spec) if config.fill is None else config.fill
        self.register_buffer("fill", torch.tensor(self.spec.values.to_net(fill)), persistent=False)
        self.build(self.config)

    def build(self, config: PartitionConfig) -> None:
        """Make the layers."""
        raise NotImplementedError

    def evaluate(self, coords: Tensor, slots: Tensor) -> Tensor:
        """Map coords (blocks, rows, in) of the blocks in `slots` (blocks,) to values (blocks, rows, out)."""
        raise NotImplementedError

    def values(self, points: Blocks) -> Tensor:
        """Map points sorted by block to values (blocks · rows, out)."""
        return self.evaluate(points.coords, points.slots).flatten(0, 1)

    def forward(self, coords: Tensor | Blocks) -> Tensor:
        """Map coords (..., in) to values (..., out); Blocks, which are sorted already, to (blocks · rows, out)."""
        if isinstance(coords, Blocks):
            return self.values(coords)
        points = coords.reshape(-1, coords.shape[-1])
        tiles = Tiles(self.locator(points), None if points.device.type == "cpu" else len(self.layout.blocks))
        if tiles.empty:
            values = (self.fill + 0 * points.sum(-1, keepdim=True)).expand(-1, self.spec.out_features)
        else:
            values = self.values(Blocks(tiles.gather(points), tiles.slots))
            values = tiles.scatter(values, self.fill.to(values.dtype))
        return values.reshape(*coords.shape[:-1], self.spec.out_features)

    @property
    def global_share(self) -> float:
        """Share of the parameters that belong to no single block."""
        local = sum(p.numel() for layer in self.local_linears().values() for p in layer.parameters())
        return 1 - local / self.parameter_count

    def local_linears(self) -> dict[str, LocalLinear]:
        """Return the layers that have one matrix a block, by name."""
        return {name: module for name, module in self.named_modules() if isinstance(module, LocalLinear)}

    def condition(self, signal: Signal) -> None:
        """Leave out the networks of blocks a shape does not reach into; automatic widths grow to meet the budget."""
        fresh, known = not self._asked.borders, isinstance(signal, GridSignal) and signal.spec.axes == self.spec.axes
        if not (fresh and known and self._asked.occupied_only and self.spec.kind == "shape"):
            return
        layout = Layout(self.layout.borders)
        kept = [block for block in layout.blocks if reaches_into(signal, layout.box_of(block))]
        if not kept:
            raise InrError(f"The shape is empty: there is nothing for {self.name} to fit.")
        layout = layout.keeping(kept)
        if layout == self.layout:
            return
        device = self.fill.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            self._set_up(self._asked.laid_out(layout))
        self.to(device)

    def baked(self) -> Field:
        """Return a field whose old and new blocks, kept apart by `extend`, are in one piece."""
        grown = {name: layer for name, layer in self.local_linears().items() if isinstance(layer, GrownLinear)}
        return rebuilt(self, self.config, self.spec, grown) if grown else self

    def rates(self) -> dict[torch.nn.Parameter, float]:
        """Return the factors on the learning rate that `local_rate` asks for.

        Unless rates are to be even, wider layers are slowed down: what narrow ones bear makes them diverge.
        """
        width, local = self.config.local_features, self.config.local_rate
        local = math.sqrt(LIKE / width) if local is None else local
        if not self.config.even_rates:
            local *= min(1.0, STEADY[0] / width)
        found = {p: local for layer in self.local_linears().values() for p in layer.parameters()}
        if not self.config.even_rates:
            for layer in self.modules():
                if isinstance(layer, torch.nn.Linear) and layer.weight not in found:
                    found |= dict.fromkeys(layer.parameters(), min(1.0, (STEADY[1] / layer.in_features) ** 2))
        return found

    def draw(self, signal: Signal, sampler, step: int) -> Iterator[tuple[Any, Tensor, float]]:
        """Draw equally many samples of every block that trains, sorted by block; other signals as they come."""
        plan = self._planned(signal)
        if plan is None:
            return super().draw(signal, sampler, step)
        return plan.draw(signal, sampler, step, sampler.micro * self._room * (2 if sampler.half else 1))

    def rows_at_once(self, device: torch.device, derivatives: bool = False) -> int:
        """Return how many points the network best sees at once on a device."""
        return super().rows_at_once(device, derivatives) * self._room

    @property
    def _room(self) -> int:
        """How many times the rows of a wide network have room in a cache."""
        return max(1, WIDTH // (self.config.local_features + getattr(self.config, "global_features", 0)))

    def _planned(self, signal: Signal) -> Plan | None:
        """Return the plan of drawing from a signal, if it is one that can be drawn from block by block."""
        plain = isinstance(signal, GridSignal) and type(signal).predict is Signal.predict
        if not plain or [(a.start, a.step) for a in signal.spec.axes] != [(a.start, a.step) for a in self.spec.axes]:
            return None
        if self._plan is None or self._plan[0] is not signal or self._plan[1] != signal.device:
            plan = Plan(self.layout.boxes(), self.training_slots(), signal, self.config.overlap)
            self._plan = signal, signal.device, plan
        return self._plan[2]

    def training_slots(self) -> list[int]:
        """Return the slots that train: all, or the new ones after `extend`."""
        layer = next(iter(self.local_linears().values()))
        return layer.new_slots if isinstance(layer, GrownLinear) else list(range(len(self.layout.blocks)))

    def crop(self, box: Box | None = None, *, keep=None, drop=None) -> Field:
        """Return the field of the samples in `box`, or of the blocks in `keep`, or of all but those in `drop`.

        Blocks are counted row-major over the layout. Weights are really removed; coordinates and values stay.
        """
        from .surgery import crop
        return crop(self, box, keep=keep, drop=drop)

    def extend(self, spec: Spec, start: str = "neighbour", part: Signal | None = None) -> Field:
        """Return a larger field covering `spec`: new blocks train, everything old is frozen and stays as it is.

        part: the new part's signal; blocks that a shape does not reach into then take no network.
        """
        from .surgery import extend
        return extend(self, spec, start, part)

    def joined(self, other: Field) -> Field:
        """Return one field of this and a neighbouring region that shares its global network."""
        from .surgery import join
        return join(self, other)

    def diagnose(self, signal: Signal) -> dict[str, float]:
        """PSNR within two samples of a border between blocks and elsewhere, and the global share."""
        from .seams import seam
        return {**seam(self, signal), "global_share": self.global_share}

    def notes(self) -> list[str]:
        """A line when the budget is missed, and when the global share is outside what the publication found enough."""
        lines, count, budget = [], self.baked().parameter_count, self._asked.budget or BUDGET
        if self._asked.local_features is None and abs(count - budget) > TOLERANCE * budget:
            lines.append(f"No widths give {budget:,} parameters with {len(self.layout.blocks)} blocks: there are "
                         f"{count:,}.")
        low, high = SHARES
        if hasattr(self.config, "global_features") and not low <= self.global_share <= high:
            lines.append(f"{self.global_share:.1%} of the parameters are global, outside the usual {low:.0%} to "
                         f"{high:.0%}; --local-features and --global-features change it.")
        return lines


def reaches_into(signal: GridSignal, box: Box) -> bool:
    """Say whether a shape reaches into a box of samples, which its grid holds."""
    inside = tuple(slice(low - axis.first, high - axis.first) for (low, high), axis in zip(box, signal.spec.axes))
    raw, empty = signal.data.reshape(signal.spec.shape), outside(signal.spec) / signal.gain
    return bool((raw[inside] != empty).any())


def outside(spec: Spec) -> float:
    """Return the stored value where there is nothing: outside a shape, 0 else."""
    if spec.kind == "shape" and spec.meta.get("quantity") == "sdf":
        return spec.values.scale + spec.values.shift        # the largest distance that is told apart
    return 0.0


def rebuilt(field: Partitioned, config: PartitionConfig, spec: Spec, local: dict[str, LocalLinear]) -> Partitioned:
    """Return a field of the same class with another layout: the layers in `local` by name, all else copied."""
    with torch.random.fork_rng(devices=[]):
        new = type(field)(config, spec).to(field.fill)
    state = {name: tensor for name, tensor in field.state_dict().items()
             if not any(name.startswith(f"{layer}.") for layer in local)}
    for name, layer in local.items():
        state[f"{name}.weight"], state[f"{name}.bias"] = layer.tensors()
    new.load_state_dict(state)
    return new.train(field.training)
