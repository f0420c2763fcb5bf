"""Triton: a Local-Global SIREN (or, without a global network, a SIREN per partition), forward and backward.

A program takes a tile of one block's rows through all levels. That block's own weights are 2 KB at width 14 and are
read once a tile; local and global features stay in registers, the global ones as a tuple of column chunks. The
features [u ; g] that the merge operator sees are never written side by side: its two parts are two products into one
sum.

All levels are unrolled. Widths are padded with zeros: local ones to a power of two, global ones to a multiple of a
chunk.
"""

import triton
import triton.language as tl

from inr_scenes.kernels.sines_triton import activate, narrow, packed, slope, value


@triton.jit(do_not_specialize=["rows"])
def forward(x, first, local, local_bias, output, output_bias, first_shared, shared, shared_bias, merge_local,
            merge_shared, merge_bias, y, kept_u, kept_l, kept_g, rows, out_features,
            IN: tl.constexpr, LEVELS: tl.constexpr, LOCAL: tl.constexpr, GLOBAL: tl.constexpr, CHUNK: tl.constexpr,
            OUT: tl.constexpr, ROWS: tl.constexpr, MERGES: tl.constexpr, KEEP: tl.constexpr, PRECISION: tl.constexpr):
    """Values y (blocks · rows, out) of x (blocks · rows, IN) and, if KEEP, what backward needs.

    Programs (tiles, blocks).
    Weights in turns; float32 are first (blocks, IN, LOCAL), local_bias (LEVELS, blocks, LOCAL), first_shared (IN,
    GLOBAL), shared_bias (LEVELS, GLOBAL), merge_bias (MERGES, LOCAL) and output_bias (blocks, OUT). Of the products'
    type are local (LEVELS - 1, blocks, in, out), output (blocks, LOCAL, OUT), shared (LEVELS - 1, out, in), merge_local
    (MERGES, out, in), merge_shared (MERGES, LOCAL, GLOBAL). Kept: u, l (LEVELS, blocks · rows, LOCAL), g likewise.
    """
    TYPE: tl.constexpr = output.dtype.element_ty
    CHUNKS: tl.constexpr = GLOBAL // CHUNK
    block, blocks = tl.program_id(1).to(tl.int64), tl.num_programs(1).to(tl.int64)
    inside = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = inside < rows
    row = block * rows + inside
    step = blocks * rows
    h, c, o = tl.arange(0, LOCAL), tl.arange(0, CHUNK), tl.arange(0, OUT)
    mine, common = tl.zeros((ROWS, LOCAL), TYPE), ()
    for i in tl.static_range(LEVELS):
        z = tl.zeros((ROWS, LOCAL), tl.float32) + tl.load(local_bias + (i * blocks + block) * LOCAL + h)[None, :]
        if i == 0:                                          # coordinates: in float32, whatever the products are in
            for k in tl.static_range(IN):
                w = tl.load(first + (block * IN + k) * LOCAL + h)
                z += tl.load(x + row * IN + k, mask=there, other=0.0)[:, None] * w[None, :]
        else:
            w = tl.load(local + (((i - 1) * blocks + block) * LOCAL + h[:, None]) * LOCAL + h[None, :])
            z = tl.dot(mine, w, z, input_precision=PRECISION)
        u, r = activate(z, True)
        if KEEP:
            tl.store(kept_u + (i * step + row[:, None]) * LOCAL + h, packed(r, kept_u.dtype.element_ty), there[:, None])
        mine = narrow(u, TYPE)
        if GLOBAL > 0:
            following = ()
            for j in tl.static_range(CHUNKS):
                z = tl.zeros((ROWS, CHUNK), tl.float32) + tl.load(shared_bias + i * GLOBAL + j * CHUNK + c)[None, :]
                if i == 0:
                    for k in tl.static_range(IN):
                        w = tl.load(first_shared + k * GLOBAL + j * CHUNK + c)
                        z += tl.load(x + row * IN + k, mask=there, other=0.0)[:, None] * w[None, :]
                else:
                    for n in tl.static_range(CHUNKS):
                        w = tl.load(shared + (((i - 1) * GLOBAL + j * CHUNK + c)[None, :]) * GLOBAL
                                    + (n * CHUNK + c)[:, None])
                        z = tl.dot(common[n], w, z, input_precision=PRECISION)
                g, r = activate(z, True)
                if KEEP:
                    tl.store(kept_g + (i * step + row[:, None]) * GLOBAL + j * CHUNK + c,
                             packed(r, kept_g.dtype.element_ty), there[:, None])
                following += (narrow(g, TYPE),)
            common = following
            m = i % MERGES
            z = tl.zeros((ROWS, LOCAL), tl.float32) + tl.load(merge_bias + m * LOCAL + h)[None, :]
            w = tl.load(merge_local + (m * LOCAL + h[None, :]) * LOCAL + h[:, None])
            z = tl.dot(mine, w, z, input_precision=PRECISION)
            for j in tl.static_range(CHUNKS):
                w = tl.load(merge_shared + (m * LOCAL + h[None, :]) * GLOBAL + (j * CHUNK + c)[:, None])
                z = tl.dot(common[j], w, z, input_precision=PRECISION)
            l, r = activate(z, True)
            if KEEP:
                tl.store(kept_l + (i * step + row[:, None]) * LOCAL + h, packed(r, kept_l.dtype.element_ty),
                         there[:, None])
            mine = narrow(l, TYPE)
    values = tl.zeros((ROWS, OUT), tl.float32) + tl.load(output_bias + block * OUT + o)[None, :]
    w = tl.load(output + (block * LOCAL + h[:, None]) * OUT + o[None, :])
    values = tl.dot(mine, w, values, input_precision=PRECISION)
    tl.store(y + row[:, None] * out_features + o[None, :], values, there[:, None] & (o < out_features)[None, :])


@triton.jit(do_not_specialize=["rows"])
def backward(x, local, output, shared, merge_local, merge_shared, dy, scale, kept_u, kept_l, kept_g, grads_u, grads_l,
             grads_g, local_sums, shared_sums, output_sums, rows, out_features,
             IN: tl.constexpr, LEVELS: tl.constexpr, LOCAL: tl.constexpr, GLOBAL: tl.constexpr, CHUNK: tl.constexpr,
             OUT: tl.constexpr, ROWS: tl.constexpr, MERGES: tl.constexpr, PRECISION: tl.constexpr):
    """Derivatives by all layers' arguments, grads_*, shaped as kept_*, of dy (blocks · rows, out) times scale (1,).

    Sums over a tile's rows: local_sums (blocks, tiles, 2 LEVELS + IN, LOCAL) for biases of local layers, of merges, and
    the first local layer; shared_sums (blocks, tiles, LEVELS + IN, GLOBAL); output_sums (blocks, tiles, LOCAL, OUT).
    """
    TYPE: tl.constexpr = output.dtype.element_ty
    CHUNKS: tl.constexpr = GLOBAL // CHUNK
    block, blocks = tl.program_id(1).to(tl.int64), tl.num_programs(1).to(tl.int64)
    tile = block * tl.num_programs(0) + tl.program_id(0)
    inside = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = inside < rows
    row = block * rows + inside
    step = blocks * rows
    h, c, o = tl.arange(0, LOCAL), tl.arange(0, CHUNK), tl.arange(0, OUT)
    local_sums += tile * (2 * LEVELS + IN) * LOCAL
    shared_sums += tile * (LEVELS + IN) * GLOBAL
    top = kept_l if GLOBAL > 0 else kept_u
    g = tl.load(dy + row[:, None] * out_features + o[None, :], there[:, None] & (o < out_features)[None, :], other=0.0)
    g = narrow(g * tl.load(scale), TYPE)
    saved = tl.load(top + ((LEVELS - 1) * step + row[:, None]) * LOCAL + h, there[:, None], other=0)
    part = tl.dot(tl.trans(narrow(value(saved, True), TYPE)), g, input_precision=PRECISION)
    tl.store(output_sums + (tile * LOCAL + h[:, None]) * OUT + o[None, :], part)
    w = tl.load(output + (block * LOCAL + h[None, :]) * OUT + o[:, None])
    grad = tl.dot(g, w, input_precision=PRECISION)                          # by the local features of a level
    common = ()                                                             # by the next level's global arguments
    for i in tl.static_range(LEVELS - 1, -1, -1):
        place = (i * step + row[:, None]) * LOCAL + h
        if GLOBAL > 0:
            z = grad * slope(tl.load(kept_l + place, there[:, None], other=0), True)
            tl.store(local_sums + (LEVELS + i) * LOCAL + h, tl.sum(z, 0))
            merged = narrow(z, TYPE)
            tl.store(grads_l + place, merged, there[:, None])
            m = i % MERGES
            w = tl.load(merge_local + (m * LOCAL + h[:, None]) * LOCAL + h[None, :])
            grad = tl.dot(merged, w, input_precision=PRECISION)
            below = ()
            for j in tl.static_range(CHUNKS):
                w = tl.load(merge_shared + (m * LOCAL + h[:, None]) * GLOBAL + j * CHUNK + c)
                z = tl.dot(merged, w, input_precision=PRECISION)
                if i < LEVELS - 1:
                    for n in tl.static_range(CHUNKS):
                        w = tl.load(shared + (i * GLOBAL + n * CHUNK + c[:, None]) * GLOBAL + j * CHUNK + c)
                        z = tl.dot(common[n], w, z, input_precision=PRECISION)
                at = (i * step + row[:, None]) * GLOBAL + j * CHUNK + c
                z *= slope(tl.load(kept_g + at, there[:, None], other=0), True)
                tl.store(shared_sums + i * GLOBAL + j * CHUNK + c, tl.sum(z, 0))
                tl.store(grads_g + at, narrow(z, TYPE), there[:, None])
                if i == 0:
                    for k in tl.static_range(IN):
                        xk = tl.load(x + row * IN + k, mask=there, other=0.0)
                        tl.store(shared_sums + (LEVELS + k) * GLOBAL + j * CHUNK + c, tl.sum(z * xk[:, None], 0))
                below += (narrow(z, TYPE),)
            common = below
        z = grad * slope(tl.load(kept_u + place, there[:, None], other=0), True)
        tl.store(local_sums + i * LOCAL + h, tl.sum(z, 0))
        mine = narrow(z, TYPE)
        tl.store(grads_u + place, mine, there[:, None])
        if i == 0:
            for k in tl.static_range(IN):
                xk = tl.load(x + row * IN + k, mask=there, other=0.0)
                tl.store(local_sums + (2 * LEVELS + k) * LOCAL + h, tl.sum(z * xk[:, None], 0))
        else:
            w = tl.load(local + (((i - 1) * blocks + block) * LOCAL + h[None, :]) * LOCAL + h[:, None])
            grad = tl.dot(mine, w, input_precision=PRECISION)
