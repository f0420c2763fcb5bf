"""Which device "auto" stands for: one code path for all of them."""

import torch

from .errors import InrError


def resolve_device(name: str) -> torch.device:
    """Return the device "auto" (an accelerator if there is one, else the CPU) or a torch name stands for."""
    if name != "auto":
        try:
            device = torch.device(name)
            torch.empty(0, device=device)
            return device
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise InrError(f"Device {name!r} cannot be used ({reason}). Try --device cpu.") from None
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator()
    return torch.device("cpu")
