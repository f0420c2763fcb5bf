"""What a device is: which one "auto" stands for, how many rows it takes at once, and its quick half precision."""

import torch
from torch import Tensor

from .errors import InrError, suggestion

PRECISIONS = ("auto", "32", "bf16", "fp16")         # auto: half where the device is quicker at it
ROWS = {"cpu": 4096}                # rows whose activations, 256 wide, fit a CPU's cache; others: as many as fill them


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


def rows_at_once(device: torch.device) -> int:
    """Return how many rows a network best sees at once."""
    return ROWS.get(device.type, 1 << 18)


def precision_type(name: str, device: torch.device) -> torch.dtype | None:
    """Return the half precision that one of PRECISIONS stands for on a device; none: float32."""
    if name not in PRECISIONS:
        raise InrError(f"--precision {name!r} is not known.{suggestion(name, PRECISIONS)} "
                       f"Known: {', '.join(PRECISIONS)}.")
    if name == "auto":
        return quick_half(device)
    return {"32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def rounded_to(dtype: torch.dtype | None, device: torch.device) -> torch.autocast:
    """Return a context in which networks may round products to a half precision; none: they do not."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def wide(values: Tensor) -> Tensor:
    """Return values in float64; in float32 on Apple's MPS, which has nothing wider."""
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)


def wait(device: torch.device) -> None:
    """Wait until a device has done what was asked of it, so that a clock may be read."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def quick_half(device: torch.device) -> torch.dtype | None:
    """Return the half precision that a device multiplies faster than float32, or none."""
    if device.type == "cuda":
        return torch.float16            # as quick as bfloat16, whose rounding is a noise of 51 dB in a SIREN
    if device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return torch.bfloat16
    return None
