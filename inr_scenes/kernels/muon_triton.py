"""Triton: what Muon does to a matrix, in three launches where plain torch needs some twenty.

`ahead` and `follow` take a program a matrix and go over its rows twice: once for its norm, once with it. `polar` holds
a whole matrix on chip through all polynomials; larger ones are multiplied by the device's own library in between.
"""

import triton
import triton.language as tl


@triton.jit
def ahead(gradient, average, x, momentum, safety, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Move the averages (n, rows, columns) towards the gradients; x: Nesterov's look ahead, of a norm of 1 / safety."""
    TYPE: tl.constexpr = x.dtype.element_ty
    base = tl.program_id(0).to(tl.int64) * rows * columns
    c = tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, rows, ROWS):
        r = start + tl.arange(0, ROWS)
        there = (r < rows)[:, None] & (c < columns)[None, :]
        place = base + r[:, None] * columns + c[None, :]
        g = tl.load(gradient + place, there, other=0.0)
        a = tl.load(average + place, there, other=0.0)
        a += (g - a) * (1 - momentum)
        tl.store(average + place, a, there)
        g += (a - g) * momentum
        total += g * g
    factor = 1 / tl.maximum(safety * tl.sqrt(tl.sum(tl.sum(total, 1), 0)), 1e-7)
    tl.debug_barrier()                          # the averages are read again
    for start in range(0, rows, ROWS):
        r = start + tl.arange(0, ROWS)
        there = (r < rows)[:, None] & (c < columns)[None, :]
        place = base + r[:, None] * columns + c[None, :]
        g = tl.load(gradient + place, there, other=0.0)
        g += (tl.load(average + place, there, other=0.0) - g) * momentum
        tl.store(x + place, (g * factor).to(TYPE), there)


@triton.jit
def polynomial(x, a, b, c, PRECISION: tl.constexpr):
    """Return a x + b (x xᵀ) x + c (x xᵀ)² x, each product rounded to the type of x."""
    square = tl.dot(x, tl.trans(x), input_precision=PRECISION)
    half = square.to(x.dtype)
    square = (b * square + c * tl.dot(half, half, input_precision=PRECISION)).to(x.dtype)
    return (a * x.to(tl.float32) + tl.dot(square, x, input_precision=PRECISION)).to(x.dtype)


@triton.jit
def polar(x, a0, b0, c0, a1, b1, c1, a2, b2, c2, short, long, short_step, long_step,
          SHORT: tl.constexpr, LONG: tl.constexpr, PRECISION: tl.constexpr):
    """Make matrices x (n, short, long), wherever their numbers lie, orthogonal by three polynomials, in place."""
    s, l = tl.arange(0, SHORT), tl.arange(0, LONG)
    place = x + tl.program_id(0).to(tl.int64) * short * long + s[:, None] * short_step + l[None, :] * long_step
    there = (s < short)[:, None] & (l < long)[None, :]
    m = tl.load(place, there, other=0.0)
    m = polynomial(m, a0, b0, c0, PRECISION)
    m = polynomial(m, a1, b1, c1, PRECISION)
    m = polynomial(m, a2, b2, c2, PRECISION)
    tl.store(place, m, there)


@triton.jit
def follow(parameter, x, rate, scale, decay, norm, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Let parameters decay and step against x, brought to a norm; the rate (1,) is read on the device."""
    base = tl.program_id(0).to(tl.int64) * rows * columns
    c = tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, rows, ROWS):
        r = start + tl.arange(0, ROWS)
        there = (r < rows)[:, None] & (c < columns)[None, :]
        m = tl.load(x + base + r[:, None] * columns + c[None, :], there, other=0.0).to(tl.float32)
        total += m * m
    lr = tl.load(rate)
    factor = lr * scale * norm / tl.maximum(tl.sqrt(tl.sum(tl.sum(total, 1), 0)), 1e-7)
    for start in range(0, rows, ROWS):
        r = start + tl.arange(0, ROWS)
        there = (r < rows)[:, None] & (c < columns)[None, :]
        place = base + r[:, None] * columns + c[None, :]
        p = tl.load(parameter + place, there, other=0.0) * (1 - lr * decay)
        tl.store(parameter + place, p - factor * tl.load(x + place, there, other=0.0).to(tl.float32), there)
