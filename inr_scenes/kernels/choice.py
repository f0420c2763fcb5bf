"""Which path computes a network: plain torch, torch.compile or a fused kernel, and what proves a kernel right."""

import functools
import importlib.util
import os
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.graph import saved_tensors_hooks

from ..errors import SetAside

KERNELS = ("auto", "torch", "compile", "fused")
# relative errors, root mean square, that a fused kernel's values and gradients may have
TOLERANCE = {torch.float32: (1e-3, 2e-3), torch.float16: (1e-2, 2e-2), torch.bfloat16: (5e-2, 1e-1)}

_chosen: ContextVar[str] = ContextVar("kernel", default="auto")
_once: ContextVar[bool] = ContextVar("once", default=False)
_proved: dict[Hashable, str] = {}               # self-checks of this process: "" passed, else why one is set aside


@contextmanager
def _set(variable: ContextVar, value) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


@contextmanager
def choose(kernel: str) -> Iterator[None]:
    """Within the block networks are computed by one of KERNELS."""
    with _set(_chosen, kernel):
        yield


def chosen() -> str:
    """Return the choice that is in force; "auto" where nothing was said."""
    return _chosen.get()


@contextmanager
def once(yes: bool = True) -> Iterator[None]:
    """Within the block values are derived by coordinates alone, and once; if not `yes`, by anything and again."""
    with _set(_once, yes):
        yield


def only_once() -> bool:
    """Say whether values are derived by coordinates alone, and once; where nothing was said, they may be otherwise."""
    return _once.get()


def interpreted() -> bool:
    """Say whether Triton's kernels run in its interpreter, on the CPU: for tests, thousands of times slower."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def has_triton() -> bool:
    """Say whether Triton is installed; it is not imported yet."""
    return importlib.util.find_spec("triton") is not None


def triton_obstacle(device: torch.device) -> str | None:
    """Say why Triton's kernels cannot run on a device; none if they can."""
    if not has_triton():
        return "Triton is not installed (pip install triton)"
    if device.type == "cpu" and interpreted():
        return None
    if device.type != "cuda":
        return f"Triton's kernels run on CUDA devices, and this is {device.type}"
    return None


def product_type(x: Tensor) -> torch.dtype:
    """Return the type that products with x are rounded to: autocast's, or that of x."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def triton_serves(x: Tensor, key: Hashable, check: Callable[[torch.dtype, torch.device], None]) -> bool:
    """Say whether a Triton kernel should compute a network of coordinates x: chosen, possible, and proved right.

    "auto" takes it on CUDA in half precision, where plain torch is held up by memory; in float32 only when asked for.
    check: compares a small case with float64 plain torch and raises unless they agree; it runs once for each `key`.
    """
    dtype = product_type(x)
    if not serves(x) or dtype not in TOLERANCE:
        return False
    if chosen() == "auto" and (x.device.type != "cuda" or dtype is torch.float32):
        return False
    return triton_obstacle(x.device) is None and proved((key, dtype, x.device), lambda: check(dtype, x.device))


def serves(x: Tensor, derivatives: bool = False) -> bool:
    """Say whether any fused kernel may compute a network of coordinates x; derivatives: one that gives those by x.

    Where coordinates want a gradient they mostly want a second one too, which is plain torch's.
    """
    if torch.compiler.is_compiling() or chosen() not in ("auto", "fused") or x.dtype is not torch.float32:
        return False
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:   # no hand-made backward there
        return False
    return not (x.requires_grad and torch.is_grad_enabled()) or (derivatives and only_once())


def proved(key: Hashable, check: Callable[[], None]) -> bool:
    """Run a self-check once a process; a kernel that fails it is set aside with one line, and plain torch goes on."""
    if key not in _proved:
        try:
            # a field may be evaluated first where no gradients are recorded, or where torch.utils.checkpoint takes
            # from graphs what they save
            with torch.inference_mode(False), torch.enable_grad(), saved_tensors_hooks(lambda x: x, lambda x: x):
                check()
            _proved[key] = ""
        except Exception as error:              # whatever a compiler or a driver raises
            reason = next(iter(str(error).strip().splitlines()), "")
            _proved[key] = f"{type(error).__name__}: {reason}"[:200]
            warnings.warn(f"A fused kernel is set aside, plain torch goes on: {_proved[key]}", SetAside, stacklevel=2)
    return not _proved[key]


def set_aside() -> list[str]:
    """Return why kernels were set aside in this process."""
    return [reason for reason in _proved.values() if reason]


class Disagreement(Exception):
    """A kernel's values or gradients are not those of plain torch."""


def agree(fused: Callable, plain: Callable, tensors: list[Tensor], dtype: torch.dtype, slack: float = 1.0) -> None:
    """Compare fused(tensors) with plain(tensors) in float64, values and gradients; raise Disagreement.

    The gradients are those of a random weighted sum; tensors that want none are left out.
    """
    inputs = [t.detach().clone().requires_grad_(t.requires_grad) for t in tensors]
    exact = [t.detach().double().requires_grad_(t.requires_grad) for t in tensors]
    mine, true = fused(inputs), plain(exact)
    weight = torch.randn(true.shape, generator=torch.Generator().manual_seed(0)).to(mine.device)
    found = torch.autograd.grad(mine, [t for t in inputs if t.requires_grad], weight)
    wanted = torch.autograd.grad(true, [t for t in exact if t.requires_grad], weight.double())
    values, gradients = (slack * bound for bound in TOLERANCE[dtype])
    for what, a, b, bound in (("values", mine, true, values),
                              *(("gradients", a, b, gradients) for a, b in zip(found, wanted))):
        error = float((a.detach().double() - b.detach()).norm() / b.detach().norm().clamp_min(1e-12))
        if not error <= bound:
            raise Disagreement(f"its {what} differ from plain torch's by {error:.1e} where {bound:.0e} is allowed")
