"""Triton: a whole sine or ReLU network, one kernel forward and one back through the layers.

A program takes a tile of rows through all layers. A row tile's activations stay in registers as a tuple of column
chunks, each an operand of the next layer's products: at width 256 they are 128 × 256 halves, a quarter of an SM's
registers, and a chunk of weights, 8 KB, is read from L2 where it is needed. Nothing else is on chip, so no width up to
256 meets a limit of shared memory.

Kept for backward: 2 bytes an activation (see `sines`). Recomputing instead would cost a third more products and would
have to keep all layers of a tile somewhere, in float32 128 KB a layer at width 256: more than an SM has. Up to 12k rows
of a SIREN 256×3, what is kept and the derivatives together stay within an H200's 60 MB of L2.

Widths are padded with zeros to a multiple of a chunk; a padded unit has the value zero, sine and ReLU alike.
"""

import triton
import triton.language as tl

from .sines_triton import activate, narrow, packed, slope, value


@triton.jit(do_not_specialize=["rows"])        # one row is no constant: it is asked for its type
def forward(x, first, bias, hidden, output, output_bias, y, kept, rows, layers, out_features,
            IN: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr, OUT: tl.constexpr, ROWS: tl.constexpr,
            SINE: tl.constexpr, KEEP: tl.constexpr, PRECISION: tl.constexpr):
    """Values y (rows, out) of x (rows, IN) and, if KEEP, what backward needs, kept (layers + 1, rows, WIDTH).

    first (IN, WIDTH), bias (layers + 1, WIDTH) float32; hidden (layers, WIDTH out, WIDTH in), output (OUT, WIDTH) in
    the products' type, all in turns for a sine; output_bias (OUT,).
    """
    TYPE: tl.constexpr = hidden.dtype.element_ty
    CHUNKS: tl.constexpr = WIDTH // CHUNK
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    c = tl.arange(0, CHUNK)
    state = ()
    for j in tl.static_range(CHUNKS):
        z = tl.zeros((ROWS, CHUNK), tl.float32) + tl.load(bias + j * CHUNK + c)[None, :]
        for k in tl.static_range(IN):                       # coordinates: in float32, whatever the products are in
            z += tl.load(x + row * IN + k, mask=there, other=0.0)[:, None] * tl.load(first + k * WIDTH + j * CHUNK + c)
        h, r = activate(z, SINE)
        if KEEP:
            tl.store(kept + row[:, None] * WIDTH + j * CHUNK + c, packed(r, kept.dtype.element_ty), there[:, None])
        state += (narrow(h, TYPE),)
    for _ in range(layers):
        bias += WIDTH
        kept += rows.to(tl.int64) * WIDTH
        following = ()
        for j in tl.static_range(CHUNKS):
            z = tl.zeros((ROWS, CHUNK), tl.float32) + tl.load(bias + j * CHUNK + c)[None, :]
            for i in tl.static_range(CHUNKS):
                w = tl.load(hidden + (j * CHUNK + c)[None, :] * WIDTH + (i * CHUNK + c)[:, None])
                z = tl.dot(state[i], w, z, input_precision=PRECISION)
            h, r = activate(z, SINE)
            if KEEP:
                tl.store(kept + row[:, None] * WIDTH + j * CHUNK + c, packed(r, kept.dtype.element_ty), there[:, None])
            following += (narrow(h, TYPE),)
        state = following
        hidden += WIDTH * WIDTH
    o = tl.arange(0, OUT)
    values = tl.zeros((ROWS, OUT), tl.float32) + tl.load(output_bias + o)[None, :]
    for i in tl.static_range(CHUNKS):
        w = tl.load(output + o[None, :] * WIDTH + (i * CHUNK + c)[:, None])
        values = tl.dot(state[i], w, values, input_precision=PRECISION)
    tl.store(y + row[:, None] * out_features + o[None, :], values, there[:, None] & (o < out_features)[None, :])


@triton.jit(do_not_specialize=["rows"])
def backward(x, first, hidden, output, dy, scale, kept, grads, sums, dx, rows, layers, out_features,
             IN: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr, OUT: tl.constexpr, ROWS: tl.constexpr,
             SINE: tl.constexpr, INPUT: tl.constexpr, PRECISION: tl.constexpr):
    """Derivatives by the layers' arguments, grads (layers + 1, rows, WIDTH), of dy (rows, out) times scale (1,).

    Also sums (tiles, layers + 1 + IN + out, WIDTH) over a tile's rows, whose sums over tiles are the gradients of the
    biases, of the first layer and of the output; and dx (rows, IN), if INPUT.
    """
    TYPE: tl.constexpr = hidden.dtype.element_ty
    CHUNKS: tl.constexpr = WIDTH // CHUNK
    tile = tl.program_id(0).to(tl.int64)
    row = tile * ROWS + tl.arange(0, ROWS)
    there = row < rows
    c, o = tl.arange(0, CHUNK), tl.arange(0, OUT)
    sums += tile * (layers + 1 + IN + out_features) * WIDTH
    step = rows.to(tl.int64) * WIDTH
    kept += step * layers
    grads += step * layers
    hidden += WIDTH * WIDTH * (layers - 1)
    g = tl.load(dy + row[:, None] * out_features + o[None, :], there[:, None] & (o < out_features)[None, :], other=0.0)
    g = narrow(g * tl.load(scale), TYPE)
    state = ()
    for j in tl.static_range(CHUNKS):
        saved = tl.load(kept + row[:, None] * WIDTH + j * CHUNK + c, there[:, None], other=0)
        part = tl.dot(tl.trans(g), narrow(value(saved, SINE), TYPE), input_precision=PRECISION)
        tl.store(sums + (layers + 1 + IN + o)[:, None] * WIDTH + j * CHUNK + c, part, (o < out_features)[:, None])
        out = tl.load(output + o[:, None] * WIDTH + j * CHUNK + c)
        z = tl.dot(g, out, input_precision=PRECISION) * slope(saved, SINE)
        tl.store(sums + layers * WIDTH + j * CHUNK + c, tl.sum(z, 0))
        tl.store(grads + row[:, None] * WIDTH + j * CHUNK + c, narrow(z, TYPE), there[:, None])
        state += (narrow(z, TYPE),)
    for down in range(layers):
        kept -= step
        grads -= step
        below = ()
        for j in tl.static_range(CHUNKS):
            z = tl.zeros((ROWS, CHUNK), tl.float32)
            for i in tl.static_range(CHUNKS):
                w = tl.load(hidden + (i * CHUNK + c)[:, None] * WIDTH + j * CHUNK + c)
                z = tl.dot(state[i], w, z, input_precision=PRECISION)
            z *= slope(tl.load(kept + row[:, None] * WIDTH + j * CHUNK + c, there[:, None], other=0), SINE)
            tl.store(sums + (layers - 1 - down) * WIDTH + j * CHUNK + c, tl.sum(z, 0))
            tl.store(grads + row[:, None] * WIDTH + j * CHUNK + c, narrow(z, TYPE), there[:, None])
            below += (narrow(z, TYPE),)
        state = below
        hidden -= WIDTH * WIDTH
    for k in tl.static_range(IN):
        xk = tl.load(x + row * IN + k, mask=there, other=0.0)
        along = tl.zeros((ROWS,), tl.float32)
        for j in tl.static_range(CHUNKS):
            z = state[j].to(tl.float32)
            tl.store(sums + (layers + 1 + k) * WIDTH + j * CHUNK + c, tl.sum(z * xk[:, None], 0))
            if INPUT:
                along += tl.sum(z * tl.load(first + k * WIDTH + j * CHUNK + c)[None, :], 1)
        if INPUT:
            tl.store(dx + row * IN + k, along, there)
