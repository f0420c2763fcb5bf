/* The small things of a Local-Global network: local layers, merge operators, sines and their derivatives.
 *
 * The wide products of the global network are left to BLAS; everything here works on rows of points sorted by block
 * (blocks × rows), with local widths h padded to a multiple of LANES by zeros. Pre-activations are in turns: weights
 * and biases come multiplied by omega / 2π, and derivatives of sines carry 2π, so that no pass over memory scales.
 * Compiled once with `wide` (what the global network computes in) as float, once as bfloat16.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define LANES 16
#define INLINE static inline __attribute__((always_inline))
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));

#ifdef WIDE_BFLOAT16
typedef uint16_t wide;
INLINE float widen(wide v) { uint32_t bits = (uint32_t)v << 16; float f; memcpy(&f, &bits, 4); return f; }
INLINE wide narrow(float f) { uint32_t bits; memcpy(&bits, &f, 4); return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16; }
#else
typedef float wide;
INLINE float widen(wide v) { return v; }
INLINE wide narrow(float f) { return f; }
#endif

/* sin(2πx) and its derivative by x, to 1e-6: minimax polynomials on half a turn to either side. */
INLINE void sine(float x, float *s, float *ds) {
    float r = x - rintf(x), q = r * r;
    *s = r * (6.2831826f + q * (-41.341423f + q * (81.596184f + q * (-76.5801f + q * (41.205391f + q * -12.271255f)))));
    *ds = 6.2831804f + q * (-124.02369f + q * (407.95922f + q * (-535.78223f + q * (369.41379f + q * -132.42924f))));
}

/* c (m × n) = a b, or c += a b; a[i, p] at a[i·ai + p·ap], b (k × n) and c in rows; n a multiple of LANES. */
INLINE void tile(const int rows, const int vecs, long k, const float *a, long ai, long ap, const float *b, long ldb,
                 float *c, long ldc, int add) {
    vec sum[8][4];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vecs; j++) sum[i][j] = add ? *(const vec *)(c + i * ldc + j * LANES) : (vec){0};
    for (long p = 0; p < k; p++)
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < vecs; j++) sum[i][j] += a[i * ai + p * ap] * *(const vec *)(b + p * ldb + j * LANES);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vecs; j++) *(vec *)(c + i * ldc + j * LANES) = sum[i][j];
}

#define STRIPE(vecs, step)                                                                                    \
    static void stripe##vecs(long m, long k, const float *a, long ai, long ap, const float *b, long ldb,      \
                             float *c, long ldc, int add) {                                                   \
        long i = 0;                                                                                           \
        for (; i + step <= m; i += step) tile(step, vecs, k, a + i * ai, ai, ap, b, ldb, c + i * ldc, ldc, add); \
        for (; i < m; i++) tile(1, vecs, k, a + i * ai, ai, ap, b, ldb, c + i * ldc, ldc, add);               \
    }
STRIPE(1, 8)
STRIPE(2, 8)
STRIPE(4, 4)

static void product(long m, long n, long k, const float *a, long ai, long ap, const float *b, float *c, int add) {
    long j = 0;
    for (; j + 4 * LANES <= n; j += 4 * LANES) stripe4(m, k, a, ai, ap, b + j, n, c + j, n, add);
    for (; j + 2 * LANES <= n; j += 2 * LANES) stripe2(m, k, a, ai, ap, b + j, n, c + j, n, add);
    for (; j < n; j += LANES) stripe1(m, k, a, ai, ap, b + j, n, c + j, n, add);
}

/* Vectors of LANES columns that cover 0..n; the last one reaches back over the one before. n is at least LANES. */
#define COLUMNS(j, n) \
    for (long next = 0, j = 0; next < (n); next += LANES, j = next + LANES <= (n) ? next : (n) - LANES)
#define EACH(t) _Pragma("GCC ivdep") for (int t = 0; t < LANES; t++)

/* First global layer: coords x (rows × d), weights (d × g). Gives sines s and their derivatives ds (rows × g). */
void global_first(long rows, long d, long g, const float *x, const float *weight, const float *bias, wide *s, wide *ds) {
    #pragma omp parallel for schedule(static)
    for (long r = 0; r < rows; r++)
        COLUMNS(j, g) {
            float z[LANES];
            EACH(t) z[t] = bias[j + t];
            for (long p = 0; p < d; p++) EACH(t) z[t] += x[r * d + p] * weight[p * g + j + t];
            EACH(t) {
                float a, da;
                sine(z[t], &a, &da);
                s[r * g + j + t] = narrow(a), ds[r * g + j + t] = narrow(da);
            }
        }
}

/* Further global layers: products z (rows × ldz, the first g columns). */
void global_sines(long rows, long g, const wide *z, long ldz, const float *bias, wide *s, wide *ds) {
    #pragma omp parallel for schedule(static)
    for (long r = 0; r < rows; r++)
        COLUMNS(j, g)
            EACH(t) {
                float a, da;
                sine(widen(z[r * ldz + j + t]) + bias[j + t], &a, &da);
                s[r * g + j + t] = narrow(a), ds[r * g + j + t] = narrow(da);
            }
}

/* Derivatives grad (rows × g) by a global layer's sines, to those by its pre-activations, in the first g columns of dz
 * (rows × lddz). sums (blocks × 1 + d × g): their sums, alone and weighted by the coords x. */
void global_backward(long blocks, long rows, long g, long d, const wide *grad, const wide *ds, wide *dz, long lddz,
                     const float *x, float *sums) {
    #pragma omp parallel for schedule(static)
    for (long b = 0; b < blocks; b++) {
        float *sum = sums + b * (1 + d) * g, row[g];
        memset(sum, 0, (1 + d) * g * sizeof(float));
        for (long r = b * rows; r < (b + 1) * rows; r++) {
            COLUMNS(j, g)
                EACH(t) {
                    row[j + t] = widen(grad[r * g + j + t]) * widen(ds[r * g + j + t]);
                    dz[r * lddz + j + t] = narrow(row[j + t]);
                }
            for (long j = 0; j < g; j++) sum[j] += row[j];
            for (long p = 0; p < d; p++)
                for (long j = 0; j < g; j++) sum[(1 + p) * g + j] += x[r * d + p] * row[j];
        }
    }
}

/* u = sin(in A + b), and with a merge operator l = sin(u M + m + the global part in columns 0..h of zm). */
void local_forward(long blocks, long rows, long k, long h, const float *in, const float *weight, const float *bias,
                   const float *merge, const float *offset, const wide *zm, long ldzm,
                   float *u, float *du, float *l, float *dl) {
    #pragma omp parallel for schedule(static)
    for (long b = 0; b < blocks; b++) {
        long at = b * rows * h;
        product(rows, h, k, in + b * rows * k, k, 1, weight + b * k * h, u + at, 0);
        for (long r = 0; r < rows; r++)
            COLUMNS(j, h)
                EACH(t) {
                    long i = at + r * h + j + t;
                    sine(u[i] + bias[b * h + j + t], u + i, du + i);
                }
        if (!merge) continue;
        product(rows, h, h, u + at, h, 1, merge, l + at, 0);
        for (long r = 0; r < rows; r++)
            COLUMNS(j, h)
                EACH(t) {
                    long i = at + r * h + j + t;
                    sine(l[i] + offset[j + t] + widen(zm[(b * rows + r) * ldzm + j + t]), l + i, dl + i);
                }
    }
}

/* Undo local_forward. grad: derivatives by its output (overwritten); gives those by `in` (none for coords), the
 * derivatives by merge pre-activations in columns of dz, and sums for weights and biases, one set a block. */
void local_backward(long blocks, long rows, long k, long h, float *grad, const float *in, const float *weight_t,
                    const float *merge_t, const float *u, const float *du, const float *dl, wide *dz, long lddz,
                    float *grad_u, float *grad_in, float *d_weight, float *d_bias, float *d_merge, float *d_offset) {
    #pragma omp parallel for schedule(static)
    for (long b = 0; b < blocks; b++) {
        long at = b * rows * h;
        float *g = grad + at;
        memset(d_bias + b * h, 0, h * sizeof(float));
        if (merge_t) {
            memset(d_offset + b * h, 0, h * sizeof(float));
            for (long r = 0; r < rows; r++)
                COLUMNS(j, h)
                    EACH(t) {
                        float v = g[r * h + j + t] * dl[at + r * h + j + t];
                        g[r * h + j + t] = v, d_offset[b * h + j + t] += v;
                        dz[(b * rows + r) * lddz + j + t] = narrow(v);
                    }
            product(h, h, rows, u + at, 1, h, g, d_merge + b * h * h, 0);
            product(rows, h, h, g, h, 1, merge_t, grad_u + at, 0);
            g = grad_u + at;
        }
        for (long r = 0; r < rows; r++)
            COLUMNS(j, h)
                EACH(t) {
                    float v = g[r * h + j + t] * du[at + r * h + j + t];
                    g[r * h + j + t] = v, d_bias[b * h + j + t] += v;
                }
        product(k, h, rows, in + b * rows * k, 1, k, g, d_weight + b * k * h, 0);
        if (weight_t) product(rows, h, h, g, h, 1, weight_t + b * h * h, grad_in + at, 0);
    }
}

/* y = l A + b with A^T (o × h) a block. */
void output_forward(long blocks, long rows, long h, long o, const float *l, const float *weight_t, const float *bias,
                    float *y) {
    #pragma omp parallel for schedule(static)
    for (long b = 0; b < blocks; b++)
        for (long r = b * rows; r < (b + 1) * rows; r++)
            for (long c = 0; c < o; c++) {
                float sum = bias[b * o + c];
                for (long j = 0; j < h; j++) sum += l[r * h + j] * weight_t[(b * o + c) * h + j];
                y[r * o + c] = sum;
            }
}

void output_backward(long blocks, long rows, long h, long o, const float *dy, const float *l, const float *weight_t,
                     float *grad, float *d_weight_t) {
    #pragma omp parallel for schedule(static)
    for (long b = 0; b < blocks; b++) {
        memset(d_weight_t + b * o * h, 0, o * h * sizeof(float));
        for (long r = b * rows; r < (b + 1) * rows; r++) {
            memset(grad + r * h, 0, h * sizeof(float));
            for (long c = 0; c < o; c++)
                for (long j = 0; j < h; j++) {
                    grad[r * h + j] += dy[r * o + c] * weight_t[(b * o + c) * h + j];
                    d_weight_t[(b * o + c) * h + j] += dy[r * o + c] * l[r * h + j];
                }
        }
    }
}
