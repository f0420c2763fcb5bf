"""Triton: activations whose argument is counted in turns, how they are kept for backward, and weights' gradients.

A sine layer computes t = (omega / 2π)(W x + b), the argument in whole turns, so range reduction is t - round(t): exact
in float32 for |t| < 2²², which omega = 3000 on coordinates within ±1 stays far below (about 10³ turns). What is lost
is the rounding of t itself, 2⁻²⁴ of its size, as in any float32 network.

The sine of what is left is an odd polynomial of degree 9 on a quarter turn: absolute error below 2·10⁻⁷, sine and
cosine alike. It takes multiply-adds, of which a GPU does eight for each special-function sine, and it is the same
arithmetic in Triton's interpreter as on a GPU.

For backward a layer keeps neither sine nor cosine but the reduced argument, from which both follow: as a 16-bit
fraction of a turn beside half-precision products (error 5·10⁻⁵ radians, below half precision's own), else in float32.
A ReLU layer keeps its value.
"""

import triton
import triton.language as tl

ROUND = tl.constexpr(12582912.0)            # 1.5 · 2²³: adding it rounds a float32 to an integer, held by its low bits
ROUND_BITS = tl.constexpr(0x4B400000)
# sin(2πv) ≈ v (S0 + S1 v² + …) on |v| ≤ 1/4; minimax, 3·10⁻⁹ before rounding
S0 = tl.constexpr(6.283185005187988)
S1 = tl.constexpr(-41.34165573120117)
S2 = tl.constexpr(81.60100555419922)
S3 = tl.constexpr(-76.5497817993164)
S4 = tl.constexpr(39.536705017089844)
TAU = tl.constexpr(6.283185307179586)
HALF_MAX = tl.constexpr(65504.0)


@triton.jit
def reduced(t):
    """Return t less the nearest whole number of turns, in [-1/2, 1/2]."""
    return t - ((t + ROUND) - ROUND)


@triton.jit
def quarter(v):
    """Return sin(2πv) for |v| ≤ 1/4."""
    s = v * v
    return v * (S0 + s * (S1 + s * (S2 + s * (S3 + s * S4))))


@triton.jit
def sine(r):
    """Return sin(2πr) for |r| ≤ 1/2."""
    return quarter(tl.where(tl.abs(r) > 0.25, tl.where(r > 0, 0.5, -0.5) - r, r))


@triton.jit
def cosine(r):
    """Return cos(2πr) for |r| ≤ 1/2."""
    return quarter(0.25 - tl.abs(r))


@triton.jit
def narrow(x, TYPE: tl.constexpr):
    """Round float32 to a type; float16 saturates, since an infinity would make every gradient NaN."""
    if TYPE == tl.float16:
        x = tl.minimum(tl.maximum(x, -HALF_MAX), HALF_MAX)
    return x.to(TYPE)


@triton.jit
def activate(z, SINE: tl.constexpr):
    """Return an activation's value and what backward needs of it, both float32."""
    if SINE:
        r = reduced(z)
        value = sine(r)
    else:
        r = tl.maximum(z, 0.0)
        value = r
    return value, r


@triton.jit
def packed(r, TYPE: tl.constexpr):
    """Return what is kept of an activation as it is stored."""
    if TYPE == tl.int16:
        kept = (r * 65536.0 + ROUND).to(tl.int32, bitcast=True).to(tl.int16)
    else:
        kept = r.to(TYPE)
    return kept


@triton.jit
def unpacked(kept):
    """Return what `packed` stored, in float32."""
    if kept.dtype == tl.int16:
        r = ((kept.to(tl.int32) + ROUND_BITS).to(tl.float32, bitcast=True) - ROUND) * (1 / 65536)
    else:
        r = kept.to(tl.float32)
    return r


@triton.jit
def value(kept, SINE: tl.constexpr):
    """Return an activation's value from what was kept of it."""
    r = unpacked(kept)
    if SINE:
        r = sine(r)
    return r


@triton.jit
def slope(kept, SINE: tl.constexpr):
    """Return an activation's derivative by its argument (in turns, for a sine) from what was kept of it."""
    r = unpacked(kept)
    if SINE:
        r = TAU * cosine(r)
    else:
        r = (r > 0).to(tl.float32)
    return r


@triton.jit(do_not_specialize=["rows", "each"])
def products(grads, kept, out, rows, each, grad_step, kept_step, OUT_WIDTH: tl.constexpr, IN_WIDTH: tl.constexpr,
             OUT_TILE: tl.constexpr, IN_TILE: tl.constexpr, ROWS: tl.constexpr, SINE: tl.constexpr,
             PRECISION: tl.constexpr):
    """Gradients of the weights of some layers, (splits, layers, out, in): sums over rows of grad × value.

    grads: (layers, rows, out) derivatives by the layers' arguments; kept: (layers, rows, in) of the layers before;
    *_step: numbers from one layer to the next. Split s sums rows s·each … (s + 1)·each. A program makes one tile of one
    layer over one split and keeps it in registers: all of a layer's 256 × 256 sums would fill an SM's, so this cannot
    be part of the kernel that makes `grads`. Programs (tiles, layers, splits).
    """
    layer, split = tl.program_id(1), tl.program_id(2)
    across = IN_WIDTH // IN_TILE
    o = tl.program_id(0) // across * OUT_TILE + tl.arange(0, OUT_TILE)
    i = tl.program_id(0) % across * IN_TILE + tl.arange(0, IN_TILE)
    first = split.to(tl.int64) * each
    last = tl.minimum(first + each, rows)
    grads += layer.to(tl.int64) * grad_step
    kept += layer.to(tl.int64) * kept_step
    total = tl.zeros((OUT_TILE, IN_TILE), tl.float32)
    for start in range(0, each, ROWS):
        row = first + start + tl.arange(0, ROWS)
        there = row < last
        # both loads are zero beyond the rows: memory there may hold NaN, whose product with zero is NaN
        g = tl.load(grads + row[None, :] * OUT_WIDTH + o[:, None], mask=there[None, :], other=0.0)
        h = tl.load(kept + row[:, None] * IN_WIDTH + i[None, :], mask=there[:, None], other=0)
        total = tl.dot(g, value(h, SINE).to(g.dtype), total, input_precision=PRECISION)
    place = (split.to(tl.int64) * tl.num_programs(1) + layer) * OUT_WIDTH * IN_WIDTH
    tl.store(out + place + o[:, None] * IN_WIDTH + i[None, :], total)
