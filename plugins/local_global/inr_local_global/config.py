"""The settings of a partitioned field, and how those left open are settled for a signal."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated

from inr_scenes.errors import InrError, suggestion
from inr_scenes.siren import check_sines
from inr_scenes.spec import Spec

from .layout import Layout
from .sizes import Sizes

try:
    from tyro.conf import Suppress as Hidden  # what a built field knows of itself is no flag
except ImportError:                             # fields are fitted where there is no command line, too
    Hidden = None

BUDGET = 200_000
NARROWEST = 8                       # local features below which automatic blocks are made larger instead
MERGES = ("shared", "levels", "add")
BLOCKS = {"image": (32, 32), "audio": (8192,), "video": (60, 64, 64)}       # samples; shapes: an eighth of each side


@dataclass(frozen=True)
class PartitionConfig:
    """How the domain is cut into blocks, and what a block's network looks like."""

    partitions: tuple[int, ...] | None = None
    """Blocks along each axis, as 16 16; none: as many as --block makes."""
    block: tuple[int, ...] | None = None
    """Samples of a block along each axis; none: 32 pixels, 8192 sound samples, 60 frames of 64x64, 1/8 of a shape's
    sides, doubled while the budget would leave local networks narrower than 8."""
    local_features: int | None = None
    """Width of each block's network; none: from the budget."""
    budget: int | None = None
    """Parameters in all, met within 1 % by automatic widths; none: 200,000."""
    hidden_layers: int = 3
    """Sine layers after the first."""
    omega_0: float = 30.0
    """Frequency factor of the hidden layers."""
    first_omega_0: float = 30.0
    """Frequency factor of the first layers: 30, and 3000 for sound on [-1, 1]."""
    overlap: tuple[int, ...] = ()
    """Samples along each axis by which a block trains beyond its borders; none: 0."""
    occupied_only: bool = True
    """Shapes: networks only for blocks the shape reaches into; elsewhere the field is constant."""
    fill: float | None = None
    """Stored value where a block has no network; none: outside a shape, 0 else."""
    even_rates: bool = True
    """One learning rate for all layers, as published; else wider layers learn more slowly, which bears higher rates."""
    local_rate: float | None = 1.0
    """Learning rate of the blocks' own layers, times the fit's; none: √(256 / their width), with which steps of Muon
    move narrow layers as far as wide ones."""
    borders: Annotated[tuple[int, ...], Hidden] = ()
    """The layout of a built field: the sample where each block begins, axis after axis."""
    kept: Annotated[tuple[int, ...] | None, Hidden] = None
    """The layout of a built field: the blocks that have a network; none: all."""

    @property
    def layout(self) -> Layout:
        """The layout of a settled config."""
        return Layout.unflat(self.partitions, self.borders, self.kept)

    def laid_out(self, layout: Layout) -> "PartitionConfig":
        """Return the config with another layout."""
        return dataclasses.replace(self, partitions=layout.counts, block=None, borders=layout.flat, kept=layout.kept)

    def sizes(self, spec: Spec, blocks: int) -> Sizes:
        """Return what fixes the parameter count beside the widths."""
        return Sizes(blocks, spec.in_features, spec.out_features, self.hidden_layers, getattr(self, "merge", "none"))

    def settled(self, spec: Spec) -> "PartitionConfig":
        """Return the config with every automatic setting settled: blocks, borders and widths."""
        check_sines(self)
        if self.budget is not None and self.budget < 1:
            raise InrError("--budget must be at least 1.")
        if self.local_rate is not None and self.local_rate <= 0:
            raise InrError(f"--local-rate {self.local_rate} must be above 0.")
        if (merge := getattr(self, "merge", None)) is not None and merge not in MERGES:
            raise InrError(f"--merge {merge!r} is not known.{suggestion(merge, MERGES)} Known: {', '.join(MERGES)}.")
        config = self
        if not config.borders:
            config = config.laid_out(Layout.even(spec.axes, config.count_blocks(spec)))
        if config.overlap:
            config = dataclasses.replace(config, overlap=per_axis(config.overlap, spec, "overlap", 0))
        return dataclasses.replace(config.with_widths(spec, len(config.layout.blocks)), budget=None)

    def with_widths(self, spec: Spec, blocks: int) -> "PartitionConfig":
        """Return the config with local and global widths that meet the budget, where they are not given."""
        has_global = hasattr(self, "global_features")
        h, g = self.local_features, self.global_features if has_global else 0
        if (h is not None and h < 1) or (has_global and g is not None and g < 1):
            raise InrError("--local-features and --global-features must be at least 1.")
        if h is None or g is None:
            h, g = self.sizes(spec, blocks).fit(self.budget or BUDGET, h, g)
        return dataclasses.replace(self, local_features=h, **({"global_features": g} if has_global else {}))

    def count_blocks(self, spec: Spec) -> tuple[int, ...]:
        """Return the number of blocks along each axis: as given, or from the block's size."""
        if self.partitions is not None:
            counts = per_axis(self.partitions, spec, "partitions", 1)
            if any(c > n for c, n in zip(counts, spec.shape)):
                raise InrError(f"--partitions {_words(counts)} are more than there are samples: {_words(spec.shape)}.")
            return counts
        if self.block is not None:
            return _ceil(spec.shape, per_axis(self.block, spec, "block", 1))
        block = BLOCKS.get(spec.kind) or tuple(max(16, -(-n // 8)) for n in spec.shape)
        while math.prod(counts := _ceil(spec.shape, block)) > 1 and not self._wide_enough(spec, math.prod(counts)):
            block = tuple(2 * b for b in block)
        return counts

    def _wide_enough(self, spec: Spec, blocks: int) -> bool:
        try:
            return self.with_widths(spec, blocks).local_features >= min(NARROWEST, self.local_features or NARROWEST)
        except InrError:                    # not even the narrowest networks fit the budget
            return False


@dataclass(frozen=True)
class LocalGlobalConfig(PartitionConfig):
    """A global network beside the blocks, and how the two are merged."""

    global_features: int | None = None
    """Width of the global network; none: from the budget."""
    merge: str = "shared"
    """shared (one merge operator for all levels, as published), levels (one a level) or add (per level a projection
    of the global features, added to the local ones)."""


def per_axis(numbers: tuple[int, ...], spec: Spec, flag: str, least: int) -> tuple[int, ...]:
    """Return one number an axis; a single number serves all axes."""
    axes = len(spec.axes)
    if len(numbers) not in (1, axes) or min(numbers) < least:
        raise InrError(f"--{flag} {_words(numbers)}: give {axes} {'number' if axes == 1 else 'numbers'} for the "
                       f"{spec.kind} of {_words(spec.shape)} samples, or one for all axes, each at least {least}.")
    return tuple(numbers) if len(numbers) == axes else tuple(numbers) * axes


def _ceil(shape: tuple[int, ...], block: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-n // b) for n, b in zip(shape, block))


def _words(numbers) -> str:
    return " ".join(str(n) for n in numbers)
