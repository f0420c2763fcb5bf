"""Triton: a step of Muon on small matrices, each held on chip from its gradient to its new weights."""

import triton
import triton.language as tl


@triton.jit
def polynomial(x, a, b, c, PRECISION: tl.constexpr):
    """Return a x + b (x xᵀ) x + c (x xᵀ)² x, each product rounded to the type of x."""
    square = tl.dot(x, tl.trans(x), input_precision=PRECISION)
    half = square.to(x.dtype)
    square = (b * square + c * tl.dot(half, half, input_precision=PRECISION)).to(x.dtype)
    return (a * x.to(tl.float32) + tl.dot(square, x, input_precision=PRECISION)).to(x.dtype)


@triton.jit
def norm(x):
    """Return the root of the sum of squares of a matrix, not below what may be divided by."""
    return tl.maximum(tl.sqrt(tl.sum(tl.sum(x * x, 1), 0)), 1e-7)


@triton.jit
def step(parameter, gradient, average, rate, scale, momentum, decay, safety, length,
         a0, b0, c0, a1, b1, c1, a2, b2, c2, short, long, short_step, long_step,
         SHORT: tl.constexpr, LONG: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr):
    """Move averages towards gradients and weights against the averages, made orthogonal by three polynomials.

    parameter, gradient, average: matrices (n, …) of short × long numbers, *_step apart; a program takes one of them.
    The rate () is read on the device. Matrices enter the polynomials with a norm of 1 / safety, and end with one of
    `length`.
    """
    s, l = tl.arange(0, SHORT), tl.arange(0, LONG)
    place = tl.program_id(0).to(tl.int64) * short * long + s[:, None] * short_step + l[None, :] * long_step
    there = (s < short)[:, None] & (l < long)[None, :]
    g = tl.load(gradient + place, there, other=0.0)
    a = tl.load(average + place, there, other=0.0)
    a += (g - a) * (1 - momentum)
    tl.store(average + place, a, there)
    g += (a - g) * momentum                     # Nesterov's look ahead
    x = (g / (safety * norm(g))).to(TYPE)
    x = polynomial(x, a0, b0, c0, PRECISION)
    x = polynomial(x, a1, b1, c1, PRECISION)
    x = polynomial(x, a2, b2, c2, PRECISION).to(tl.float32)
    lr = tl.load(rate)
    p = tl.load(parameter + place, there, other=0.0) * (1 - lr * decay)
    tl.store(parameter + place, p - (lr * scale * length / norm(x)) * x, there)
