"""Triton: the whole locality-aware decoder for one tile of coordinates, Eqs. (2)–(9), without gradients.

A program computes a tile's query, its attention to all tokens of one signal, and all bands, in registers: neither
frequency features nor attention weights nor modulation vectors are ever in memory. The tokens' keys and values, 16 KB
each for 64 tokens of width 128, and the weights are read from L2. Products have half-precision operands and float32
sums; frequencies are taken in float32.
"""

import triton
import triton.language as tl

from inr_scenes.kernels.sines import cosine, narrow, reduced, sine


@triton.jit
def frequencies(x, row, there, turns, level, TYPE: tl.constexpr, IN: tl.constexpr, WAVES: tl.constexpr,
                FEATURES: tl.constexpr):
    """Eq. (2): [cos, sin] of coordinates times the frequencies of a level, (rows, FEATURES), padded with zeros."""
    f = tl.arange(0, FEATURES)
    half: tl.constexpr = IN * WAVES
    wave = tl.where(f < half, f, f - half)
    used = f < 2 * half
    per_sample = tl.load(turns + level * WAVES + wave % WAVES, mask=used, other=0.0)
    place = tl.load(x + row[:, None] * IN + (wave // WAVES)[None, :], mask=there[:, None] & used[None, :], other=0.0)
    r = reduced(place * per_sample[None, :])
    found = tl.where((f < half)[None, :], cosine(r), sine(r))
    return tl.where(used[None, :], found, 0.0).to(TYPE)


@triton.jit
def linear(h, weight, bias, IN: tl.constexpr, OUT: tl.constexpr):
    """Return W h + b in float32; weight (OUT, IN), bias (OUT,)."""
    i, o = tl.arange(0, IN), tl.arange(0, OUT)
    return tl.dot(h, tl.load(weight + o[None, :] * IN + i[:, None])) + tl.load(bias + o)[None, :]


@triton.jit(do_not_specialize=["rows", "tokens"])
def decode(x, turns, query, query_bias, project, project_bias, key, value, gather, gather_bias, frequency,
           frequency_bias, modulate, modulate_bias, layer, layer_bias, output, output_bias, y, rows, tokens, stride,
           out_features, scale,
           IN: tl.constexpr, WAVES: tl.constexpr, FEATURES: tl.constexpr, HIDDEN: tl.constexpr, HEADS: tl.constexpr,
           TOKENS: tl.constexpr, LEVELS: tl.constexpr, OUT: tl.constexpr, ROWS: tl.constexpr):
    """Values y (B, rows, out) at x (B, rows, IN), or (1, rows, IN) for all signals. Programs (tiles, B).

    turns (1 + LEVELS, WAVES): the query's frequencies and those of the levels; query, frequency (…, HIDDEN, FEATURES);
    project, gather (the attention's output) and modulate, layer (LEVELS, …) (HIDDEN, HIDDEN); key, value (B, HEADS,
    tokens, HIDDEN / HEADS); output (LEVELS, OUT, HIDDEN). stride: numbers from one signal's coordinates to the next
    one's, 0 where they share them. scale: of the scores.
    """
    TYPE: tl.constexpr = project.dtype.element_ty
    WIDTH: tl.constexpr = HIDDEN // HEADS
    signal = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    x += signal * stride
    key += signal * HEADS * tokens * WIDTH
    value += signal * HEADS * tokens * WIDTH
    n, t, w, o = tl.arange(0, HIDDEN), tl.arange(0, TOKENS), tl.arange(0, WIDTH), tl.arange(0, OUT)
    here = t < tokens
    gamma = frequencies(x, row, there, turns, 0, TYPE, IN, WAVES, FEATURES)
    asked = narrow(tl.maximum(linear(gamma, query, query_bias, FEATURES, HIDDEN), 0.0), TYPE)
    m = tl.zeros((ROWS, HIDDEN), tl.float32) + tl.load(gather_bias + n)[None, :]
    for head in tl.static_range(HEADS):
        q = linear(asked, project + head * WIDTH * HIDDEN, project_bias + head * WIDTH, HIDDEN, WIDTH) * scale
        k = tl.load(key + (head * tokens + t[None, :]) * WIDTH + w[:, None], mask=here[None, :], other=0.0).to(TYPE)
        scores = tl.where(here[None, :], tl.dot(narrow(q, TYPE), k), float("-inf"))
        weights = tl.exp(scores - tl.max(scores, 1)[:, None])
        weights = weights / tl.sum(weights, 1)[:, None]
        v = tl.load(value + (head * tokens + t[:, None]) * WIDTH + w[None, :], mask=here[:, None], other=0.0).to(TYPE)
        attended = narrow(tl.dot(weights.to(TYPE), v), TYPE)
        m += tl.dot(attended, tl.load(gather + n[None, :] * HIDDEN + (head * WIDTH + w)[:, None]))
    modulation = narrow(m, TYPE)
    total = tl.zeros((ROWS, OUT), tl.float32)
    h = tl.zeros((ROWS, HIDDEN), tl.float32)
    for level in tl.static_range(LEVELS):
        gamma = frequencies(x, row, there, turns, 1 + level, TYPE, IN, WAVES, FEATURES)
        mine = tl.maximum(linear(gamma, frequency + level * HIDDEN * FEATURES, frequency_bias + level * HIDDEN,
                                 FEATURES, HIDDEN), 0.0)
        mine = tl.maximum(mine + linear(modulation, modulate + level * HIDDEN * HIDDEN, modulate_bias + level * HIDDEN,
                                        HIDDEN, HIDDEN), 0.0)
        if level == 0:
            h = mine
        else:
            h = tl.maximum(linear(narrow(mine + h, TYPE), layer + (level - 1) * HIDDEN * HIDDEN,
                                  layer_bias + (level - 1) * HIDDEN, HIDDEN, HIDDEN), 0.0)
        total += linear(narrow(h, TYPE), output + level * OUT * HIDDEN, output_bias + level * OUT, HIDDEN, OUT)
    tl.store(y + (signal * rows + row[:, None]) * out_features + o[None, :], total,
             there[:, None] & (o < out_features)[None, :])
