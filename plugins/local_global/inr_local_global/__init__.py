"""Local-Global fields: small networks of one's own per block, and one global network that they share."""

from inr_scenes import hookimpl

__version__ = "0.1.0"


@hookimpl
def inr_fields():
    """Local-Global SIREN and INCODE, the baseline without a global part, and INCODE itself."""
    from .incode import Incode, LgIncode
    from .siren import LgSiren, SirenPerPartition
    return [LgSiren, SirenPerPartition, Incode, LgIncode]
