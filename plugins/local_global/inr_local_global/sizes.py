"""Parameter counts of a Local-Global network, and the widths that meet a parameter budget."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from inr_scenes.errors import InrError

SHARES = (0.05, 0.15)               # of all parameters that should be global, by the publication; 0.1 is aimed at
TOLERANCE = 0.01                    # by which a total may miss the budget


@dataclass(frozen=True)
class Sizes:
    """What fixes the parameter count beside the widths."""

    blocks: int
    in_features: int
    out_features: int
    hidden_layers: int = 3
    merge: str = "shared"           # "shared" | "levels" | "add" | "none": no global part

    def local(self, h: int) -> int:
        """Parameters of one block."""
        return dense(self.in_features, h) + self.hidden_layers * dense(h, h) + dense(h, self.out_features)

    def common(self, h: int, g: int) -> int:
        """Parameters all blocks share: the global network and the merge."""
        if self.merge == "none":
            return 0
        levels = self.hidden_layers + 1
        merges = {"shared": dense(h + g, h), "levels": levels * dense(h + g, h), "add": levels * dense(g, h)}
        return dense(self.in_features, g) + self.hidden_layers * dense(g, g) + merges[self.merge]

    def total(self, h: int, g: int) -> int:
        """Parameters of the whole network."""
        return self.blocks * self.local(h) + self.common(h, g)

    def share(self, h: int, g: int) -> float:
        """Share of the parameters that is not any block's own."""
        return self.common(h, g) / self.total(h, g)

    def fit(self, budget: int, h: int | None = None, g: int | None = None) -> tuple[int, int]:
        """Return the widths (h, g) nearest to `budget` parameters; a width that is given stays.

        Of all pairs within 1 % of the budget the one whose global share is nearest to 10 %. Where no widths come so
        near, missing the budget counts as much as a share that misses 5 to 15 %.
        """
        pairs = list(self._pairs(budget, h, g))
        if not pairs:
            raise InrError(f"{budget} parameters are too few for {self.blocks} blocks: take a larger --budget or "
                           f"fewer blocks (--partitions, --block).")

        def missed(pair):
            return abs(self.total(*pair) - budget) / budget

        close = [pair for pair in pairs if missed(pair) <= TOLERANCE]
        if close:
            return min(close, key=lambda pair: abs(self.share(*pair) - sum(SHARES) / 2))
        low, high = SHARES
        return min(pairs, key=lambda pair: missed(pair) + (self.merge != "none") * max(
            low - self.share(*pair), self.share(*pair) - high, 0.0))

    def _pairs(self, budget: int, h: int | None, g: int | None) -> Iterator[tuple[int, int]]:
        """Yield for every local width the global widths that bring the total just below and above the budget."""
        limit = budget * (1 + TOLERANCE)
        top = _largest(lambda n: self.blocks * self.local(n) <= limit)
        for width in range(1, top + 1) if h is None else (h,):
            if self.merge == "none":
                yield from ((width, 0), (width + 1, 0)) if h is None else ((width, 0),)
            elif g is not None:
                yield width, g
            else:
                low = _largest(lambda n, width=width: self.total(width, n) <= budget)
                yield from ((width, n) for n in (low, low + 1) if n >= 1 and self.total(width, n) <= limit)


def dense(in_features: int, out_features: int) -> int:
    """Parameters of a linear layer with bias."""
    return in_features * out_features + out_features


def _largest(fits: Callable[[int], bool]) -> int:
    """Return the largest n for which fits(n), which turns from true to false once; 0 if none does."""
    low, high = 0, 1
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
