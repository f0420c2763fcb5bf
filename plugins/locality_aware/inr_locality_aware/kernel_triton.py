"""Triton: the whole locality-aware decoder for tiles of coordinates, Eqs. (2)–(9), without gradients.

A program takes one tile after another through all layers. What a layer gives is left for the next one in a place of the
program's own, 64 KB at width 256, that stays in the caches; weights, keys and values come from there too, a chunk at a
time, while the chunk before is multiplied. So nothing but one chunk of sums is ever in registers, and no width meets
their limit: with everything in registers, networks 256 wide spilled kilobytes a thread. Products have half-precision
operands and float32 sums; frequencies are taken in float32.
"""

import triton
import triton.language as tl

from inr_scenes.kernels.sines_triton import cosine, narrow, reduced, sine


@triton.jit
def frequencies(target, x, row, there, turns, IN: tl.constexpr, WAVES: tl.constexpr, FEATURES: tl.constexpr,
                CHUNK: tl.constexpr):
    """Eq. (2): leave [cos, sin] of coordinates times a level's frequencies at target (rows, FEATURES), zeros behind."""
    half: tl.constexpr = IN * WAVES
    tl.debug_barrier()                                      # nobody reads any more what was there
    for first in range(0, FEATURES, CHUNK):
        f = first + tl.arange(0, CHUNK)
        wave = tl.where(f < half, f, f - half)
        used = f < 2 * half
        per_sample = tl.load(turns + wave % WAVES, mask=used, other=0.0)
        given = there[:, None] & used[None, :]
        place = tl.load(x + row[:, None] * IN + (wave // WAVES)[None, :], mask=given, other=0.0)
        r = reduced(place * per_sample[None, :])
        found = tl.where((f < half)[None, :], cosine(r), sine(r))
        tl.store(target + f[None, :], tl.where(used[None, :], found, 0.0).to(target.dtype.element_ty))
    tl.debug_barrier()


@triton.jit
def linear(source, weight, bias, j, IN: tl.constexpr, STEP: tl.constexpr, OUT: tl.constexpr, ROWS: tl.constexpr):
    """Return chunk j of W h + b, (ROWS, OUT) float32: h at source (rows, IN), weight (…, IN), bias (…)."""
    o, i = j * OUT + tl.arange(0, OUT), tl.arange(0, STEP)
    z = tl.zeros((ROWS, OUT), tl.float32) + tl.load(bias + o)[None, :]
    for first in range(0, IN, STEP):
        w = tl.load(weight + o[None, :] * IN + (first + i)[:, None])
        z = tl.dot(tl.load(source + (first + i)[None, :]), w, z)
    return z


@triton.jit(do_not_specialize=["rows", "tokens", "tiles"])
def decode(x, turns, query, query_bias, project, project_bias, key, value, gather, gather_bias, frequency,
           frequency_bias, modulate, modulate_bias, layer, layer_bias, output, output_bias, place, y, rows, tokens,
           tiles, stride, out_features, scale,
           IN: tl.constexpr, WAVES: tl.constexpr, FEATURES: tl.constexpr, HIDDEN: tl.constexpr, HEADS: tl.constexpr,
           TOKENS: tl.constexpr, LEVELS: tl.constexpr, OUT: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr):
    """Values y (B, rows, out) at x (B, rows, IN), or (1, rows, IN) for all signals. Any number of programs.

    turns (1 + LEVELS, WAVES): the query's frequencies and those of the levels; query, frequency (…, HIDDEN, FEATURES);
    project, gather (the attention's output) and modulate, layer (LEVELS, …) (HIDDEN, HIDDEN); key, value (B, HEADS,
    tokens, HIDDEN / HEADS); output (LEVELS, OUT, HIDDEN) · place (programs, ROWS, FEATURES + 3 HIDDEN): for what passes
    from layer to layer · tiles: of all signals · stride: numbers from one signal's coordinates to the next one's, 0
    where they share them · scale: of the scores · TOKENS: taken at once.
    """
    TYPE: tl.constexpr = project.dtype.element_ty
    WIDTH: tl.constexpr = HIDDEN // HEADS
    C: tl.constexpr = CHUNK if CHUNK < HIDDEN else HIDDEN
    F: tl.constexpr = CHUNK if CHUNK < FEATURES else FEATURES
    W: tl.constexpr = CHUNK if CHUNK < WIDTH else WIDTH
    AREA: tl.constexpr = ROWS * HIDDEN
    c, w, n, o, r = tl.arange(0, C), tl.arange(0, W), tl.arange(0, WIDTH), tl.arange(0, OUT), tl.arange(0, ROWS)
    place += tl.program_id(0).to(tl.int64) * (ROWS * FEATURES + 3 * AREA)
    gamma = place + r[:, None] * FEATURES
    a = place + ROWS * FEATURES + r[:, None] * HIDDEN       # inputs, queries and modulations, what bands pass on
    b, h = a + AREA, a + 2 * AREA
    each = tl.cdiv(rows, ROWS)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        signal = (tile // each).to(tl.int64)
        row = (tile % each).to(tl.int64) * ROWS + r
        there = row < rows
        coords = x + signal * stride
        keys, values = key + signal * HEADS * tokens * WIDTH, value + signal * HEADS * tokens * WIDTH

        frequencies(gamma, coords, row, there, turns, IN, WAVES, FEATURES, F)
        for j in range(HIDDEN // C):                        # the query's features
            z = tl.maximum(linear(gamma, query, query_bias, j, FEATURES, F, C, ROWS), 0.0)
            tl.store(a + (j * C + c)[None, :], narrow(z, TYPE))
        tl.debug_barrier()
        for j in range(HIDDEN // W):                        # queries of all heads, one after the other
            z = linear(a, project, project_bias, j, HIDDEN, C, W, ROWS) * scale
            tl.store(b + (j * W + w)[None, :], narrow(z, TYPE))
        tl.debug_barrier()
        for head in range(HEADS):
            highest, norm = tl.full((ROWS,), float("-inf"), tl.float32), tl.zeros((ROWS,), tl.float32)
            z = tl.zeros((ROWS, WIDTH), tl.float32)
            for first in range(0, tokens, TOKENS):          # a softmax that never has all scores at once
                scores = scored(b, keys, head, first, tokens, WIDTH, W, TOKENS, ROWS)
                top = tl.maximum(highest, tl.max(scores, 1))
                weights, fade = tl.exp(scores - top[:, None]), tl.exp(highest - top)
                norm, highest = norm * fade + tl.sum(weights, 1), top
                t = first + tl.arange(0, TOKENS)
                at = (head * tokens + t[:, None]) * WIDTH + n[None, :]
                v = tl.load(values + at, mask=(t < tokens)[:, None], other=0.0).to(TYPE)
                z = tl.dot(weights.to(TYPE), v, z * fade[:, None])
            tl.store(a + (head * WIDTH + n)[None, :], narrow(z / norm[:, None], TYPE))
        tl.debug_barrier()
        for j in range(HIDDEN // C):                        # the modulation vectors
            tl.store(b + (j * C + c)[None, :], narrow(linear(a, gather, gather_bias, j, HIDDEN, C, C, ROWS), TYPE))
        total = tl.zeros((ROWS, OUT), tl.float32)
        for level in tl.static_range(LEVELS):
            frequencies(gamma, coords, row, there, turns + (1 + level) * WAVES, IN, WAVES, FEATURES, F)
            for j in range(HIDDEN // C):
                z = tl.maximum(linear(gamma, frequency + level * HIDDEN * FEATURES, frequency_bias + level * HIDDEN, j,
                                      FEATURES, F, C, ROWS), 0.0)
                z += linear(b, modulate + level * HIDDEN * HIDDEN, modulate_bias + level * HIDDEN, j, HIDDEN, C, C,
                            ROWS)
                z = tl.maximum(z, 0.0)
                if level == 0:
                    tl.store(h + (j * C + c)[None, :], narrow(z, TYPE))
                else:
                    z += tl.load(h + (j * C + c)[None, :]).to(tl.float32)
                    tl.store(a + (j * C + c)[None, :], narrow(z, TYPE))
            tl.debug_barrier()
            if level > 0:
                for j in range(HIDDEN // C):
                    z = linear(a, layer + (level - 1) * HIDDEN * HIDDEN, layer_bias + (level - 1) * HIDDEN, j, HIDDEN,
                               C, C, ROWS)
                    tl.store(h + (j * C + c)[None, :], narrow(tl.maximum(z, 0.0), TYPE))
                tl.debug_barrier()
            total += linear(h, output + level * OUT * HIDDEN, output_bias + level * OUT, 0, HIDDEN, C, OUT, ROWS)
        tl.store(y + (signal * rows + row[:, None]) * out_features + o[None, :], total,
                 there[:, None] & (o < out_features)[None, :])


@triton.jit
def scored(queries, keys, head, first, tokens, WIDTH: tl.constexpr, STEP: tl.constexpr, TOKENS: tl.constexpr,
           ROWS: tl.constexpr):
    """Return the scores (ROWS, TOKENS) of the tokens from `first` on, minus infinity where there are none."""
    t, w = first + tl.arange(0, TOKENS), tl.arange(0, STEP)
    here = t < tokens
    scores = tl.zeros((ROWS, TOKENS), tl.float32)
    for i in range(0, WIDTH, STEP):
        at = (head * tokens + t[None, :]) * WIDTH + (i + w)[:, None]
        k = tl.load(keys + at, mask=here[None, :], other=0.0).to(queries.dtype.element_ty)
        scores = tl.dot(tl.load(queries + (head * WIDTH + i + w)[None, :]), k, scores)
    return tl.where(here[None, :], scores, float("-inf"))
