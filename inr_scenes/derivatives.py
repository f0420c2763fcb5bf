"""Derivatives of fields with respect to coordinates: every output channel by itself, never their sum.

A field is pointwise, so one backward pass gives the gradient of one channel at all points. The functions nest (the
Hessian is the Jacobian of the Jacobian), results can be differentiated again where gradients are being recorded, and
they work under `torch.no_grad` and `torch.inference_mode` too. Half-precision autocast is switched off inside, unless
first derivatives are asked for in half precision.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .device import rounded_to
from .kernels.choice import once

Function = Callable[[Tensor], Tensor]       # a field, or anything pointwise from coords (..., in) to values (..., out)


def value_and_jacobian(field: Function, coords: Tensor, half: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """Return values (..., out) and their first derivatives (..., out, in) at coords (..., in), from one forward pass.

    Entry [..., c, i] of the second is ∂ value c / ∂ coordinate i. half: type that products may be rounded to.
    """
    recording = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad(), rounded_to(half, coords.device), once(not recording):
        if not coords.requires_grad:
            coords = (coords.clone() if coords.is_inference() else coords.detach()).requires_grad_()
        values = field(coords)
        channels = values.shape[-1]
        rows = [_gradient(values[..., c], coords, recording, last=c == channels - 1) for c in range(channels)]
        jacobian = torch.stack(rows, -2)
    return (values, jacobian) if recording else (values.detach(), jacobian)


def jacobian(field: Function, coords: Tensor, half: torch.dtype | None = None) -> Tensor:
    """Return all first derivatives (..., out, in) at coords (..., in): [..., c, i] is ∂ value c / ∂ coordinate i.

    half: type that products may be rounded to.
    """
    return value_and_jacobian(field, coords, half)[1]


def gradient(field: Function, coords: Tensor, channel: int | None = None, half: torch.dtype | None = None) -> Tensor:
    """Return the gradient (..., in) of one output channel; it need not be named where there is only one.

    half: type that products may be rounded to. Raises ValueError for a field of several channels when `channel` is not
    given: their sum has no meaning.
    """
    if channel is not None:
        return jacobian(lambda x: field(x)[..., channel, None], coords, half)[..., 0, :]
    rows = jacobian(field, coords, half)
    if rows.shape[-2] != 1:
        raise ValueError(f"This field has {rows.shape[-2]} channels: name one (channel=0), or take jacobian().")
    return rows[..., 0, :]


def divergence(field: Function, coords: Tensor) -> Tensor:
    """Return Σ ∂ value i / ∂ coordinate i, (...,), of a vector field with as many outputs as inputs."""
    rows = jacobian(field, coords)
    if rows.shape[-1] != rows.shape[-2]:
        raise ValueError(f"A divergence needs as many outputs as inputs, not {rows.shape[-2]} and {rows.shape[-1]}.")
    return rows.diagonal(dim1=-2, dim2=-1).sum(-1)


def hessian(field: Function, coords: Tensor) -> Tensor:
    """Return all second derivatives (..., out, in, in) of every channel."""
    size = coords.shape[-1]
    return jacobian(lambda x: jacobian(field, x).flatten(-2), coords).unflatten(-2, (-1, size))


def laplacian(field: Function, coords: Tensor) -> Tensor:
    """Return Σ ∂² / ∂ coordinate i² of every channel, (..., out)."""
    return hessian(field, coords).diagonal(dim1=-2, dim2=-1).sum(-1)


def _gradient(channel: Tensor, coords: Tensor, recording: bool, last: bool) -> Tensor:
    """Return ∂ channel (...) / ∂ coords (..., in), exact because no point's value depends on another point."""
    if not channel.requires_grad:           # a constant, such as the slope of a linear field
        return torch.zeros_like(coords)
    return torch.autograd.grad(channel.sum(), coords, create_graph=recording, retain_graph=recording or not last,
                               materialize_grads=True)[0]
