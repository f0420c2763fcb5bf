"""Muon (Jordan et al., 2024): momentum whose matrices are made orthogonal, by Polar Express (Amsel et al., 2025).

torch.optim.Muon takes five steps of one Newton-Schulz polynomial, one matrix after another, which leave singular values
of 0.7 to 1.2: a third of a fit's time on small networks. Here three steps, of polynomials that are each the best at
their place, take all matrices of one shape at once, and come nearer to 1.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from .device import quick_half
from .kernels import choice
from .kernels import muon as fused

# a x + b x³ + c x⁵, each the best for what the one before leaves of singular values of 0.02 to 1: then 0.91 to 1.09
POLYNOMIALS = ((7.710969, -22.113755, 16.248743), (3.215276, -2.411172, 0.5013), (2.218308, -1.59399, 0.410748))
SAFETY = 1.01                       # half precision may round a norm up


def orthogonal(matrices: Tensor) -> Tensor:
    """Return orthogonal matrices near to matrices (n, rows, columns), but for what has the smallest singular values.

    Their norm is that of orthogonal ones. In half precision where the device is quick at it.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).to(_product_type(matrices.device))
    x = x / (SAFETY * _norm(x)).clamp_min(1e-7)
    for a, b, c in POLYNOMIALS:
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    x = x * (math.sqrt(x.shape[-2]) / _norm(x).clamp_min(1e-7))
    return x.mT if tall else x


def _product_type(device: torch.device) -> torch.dtype:
    """Return what products are rounded to: float16 has too small a range."""
    return torch.float32 if quick_half(device) is None else torch.bfloat16


def _norm(matrices: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(matrices.float(), keepdim=True).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Muon for matrices, its steps scaled to the root mean square of Adam's, so that one learning rate serves both.

    Parameters are matrices (rows, columns) or stacks of them (n, rows, columns), each made orthogonal by itself.
    """

    def __init__(self, params: Iterable, lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        """Take one step; all matrices of a group that have one shape are taken at once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: dict[tuple, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault((parameter.shape, parameter.device), []).append(parameter)
            for parameters in alike.values():
                self._step(parameters, group["lr"], group["momentum"], group["weight_decay"])
        return loss

    def _step(self, parameters: list[Tensor], lr: float | Tensor, momentum: float, weight_decay: float) -> None:
        gradients = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter.grad)
        averages = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        take = _fused_step if _fused_serves([*parameters, *averages], lr) else _plain_step
        take(parameters, gradients, averages, lr, momentum, weight_decay)


def fast_path(device: torch.device) -> str | None:
    """Return which kernels take recorded steps of small matrices on a device, once they are proved right."""
    small = torch.zeros(64, 64, device=device)
    return "fused up to a width of 128 (Triton)" if _fused_serves([small], small.sum()) else None


def _plain_step(parameters: list[Tensor], gradients: list[Tensor], averages: list[Tensor], lr: float | Tensor,
                momentum: float, weight_decay: float) -> None:
    """Move averages and parameters of one shape by a step."""
    torch._foreach_lerp_(averages, gradients, 1 - momentum)
    ahead = torch._foreach_lerp(gradients, averages, momentum)          # Nesterov's
    matrices = torch.stack(ahead)
    updates = orthogonal(matrices.flatten(0, -3)).to(parameters[0].dtype).view(matrices.shape)
    if weight_decay:
        torch._foreach_mul_(parameters, 1 - lr * weight_decay)
    if isinstance(lr, Tensor):              # of a recorded step, which finds another rate there every time
        torch._foreach_add_(parameters, list(updates * (lr * _scale(parameters))))
    else:
        torch._foreach_add_(parameters, list(updates), alpha=lr * _scale(parameters))


def _fused_step(parameters: list[Tensor], gradients: list[Tensor], averages: list[Tensor], lr: Tensor,
                momentum: float, weight_decay: float) -> None:
    """Do the same in one launch a tensor."""
    fused.step(parameters, gradients, averages, lr, -_scale(parameters), momentum, weight_decay, SAFETY, POLYNOMIALS,
               _product_type(lr.device))


def _scale(parameters: list[Tensor]) -> float:
    """Return the factor on the rate that makes a step as large as Adam's."""
    return -0.2 * math.sqrt(max(parameters[0].shape[-2:]))


def _fused_serves(tensors: list[Tensor], lr: float | Tensor) -> bool:
    """Say whether Triton's kernels take a step: a recorded one, of plain tensors, and proved right for their shape."""
    if not isinstance(lr, Tensor) or choice.triton_obstacle(lr.device):
        return False
    if any(t.dtype is not torch.float32 or not t.is_contiguous() for t in tensors):
        return False
    rows, columns = tensors[0].shape[-2:]
    if not fused.serves(rows, columns, _product_type(lr.device)):
        return False
    return choice.proved(("muon", rows, columns, lr.device), lambda: _check(rows, columns, lr.device))


def _check(rows: int, columns: int, device: torch.device) -> None:
    """Compare two steps of both ways on a pair of matrices; raise where they differ by more than rounding."""
    generator = torch.Generator().manual_seed(0)
    start, *gradients = torch.randn(3, 2, rows, columns, generator=generator).to(device)
    rate, ends = torch.full((), 0.1, device=device), []
    for take in (_plain_step, _fused_step):
        parameters, averages = [start.clone()], [torch.zeros_like(start)]
        for gradient in gradients:
            take(parameters, [gradient], averages, rate, 0.95, 0.1)
        ends.append((parameters[0] - start, averages[0]))
    for what, plain, found in zip(("steps", "averages"), *ends):
        error = float((found - plain).norm() / plain.norm())
        if not error <= (bound := choice.TOLERANCE[_product_type(device)][0]):
            raise choice.Disagreement(f"Muon's {what} differ from plain torch's by {error:.1e} where {bound:.0e} is "
                                      f"allowed")
