"""What whole networks the fused kernels compute, and the same in plain torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Net:
    """What a network is besides its weights: factors of the first and the other sine layers; none: ReLU."""

    first_omega: float | None = 30.0
    omega: float | None = 30.0

    @property
    def sine(self) -> bool:
        """Whether the activations are sines."""
        return self.omega is not None

    def turns(self, layers: int) -> list[float]:
        """Return what each activated layer's weights are multiplied by: omega / 2π, or 1."""
        first, rest = (omega / (2 * math.pi) if self.sine else 1.0 for omega in (self.first_omega, self.omega))
        return [first] + [rest] * layers


def reference(net: Net, x: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Return values (rows, out) of x (rows, in) in plain torch.

    tensors: weight (out, in) and bias (out,) of the first layer, of each hidden one and of the linear output.
    """
    *layers, (weight, bias) = zip(tensors[::2], tensors[1::2])
    for i, (w, b) in enumerate(layers):
        if net.sine:
            omega = net.omega if i else net.first_omega
            x = torch.sin(functional.linear(x, omega * w, omega * b))
        else:
            x = torch.relu(functional.linear(x, w, b))
    return functional.linear(x, weight, bias)


def differentiable(net: Net, inputs: Sequence[Tensor], dy: Tensor, needs: Sequence[bool]) -> list[Tensor | None]:
    """Return the gradients of x and the tensors that need one, by plain torch; with a graph where one is recorded."""
    recording = torch.is_grad_enabled()
    with torch.enable_grad(), torch.autocast(dy.device.type, enabled=False):
        inputs = list(inputs) if recording else [t.detach().requires_grad_(n) for t, n in zip(inputs, needs)]
        y = reference(net, inputs[0], inputs[1:])
        wanted = [tensor for tensor, need in zip(inputs, needs) if need]
        found = iter(torch.autograd.grad(y, wanted, dy, create_graph=recording))
    return [next(found) if need else None for need in needs]
