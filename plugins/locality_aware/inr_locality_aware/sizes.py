"""Settings whose whole numbers count something: each is checked before a network is built of them."""

import dataclasses
from typing import ClassVar

from inr_scenes.errors import InrError


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A Config whose whole numbers must be at least 1; `may_be_zero` names those of which 0 means "all".

    Those count a signal's samples: an archive may hold any number there, be its weights fewer.
    """

    may_be_zero: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        """Raise InrError for a number that counts nothing."""
        for field in dataclasses.fields(self):
            value, least = getattr(self, field.name), 0 if field.name in self.may_be_zero else 1
            if isinstance(value, int) and not isinstance(value, bool) and value < least:
                raise InrError(f"--{field.name.replace('_', '-')} {value} is not possible: at least {least}.")
