/* The small things of a Local-Global network: local layers and merge operators, their sines and derivatives.
 *
 * The global network is the host's sines.c; its wide products are left to a library. Everything here works on rows of points
 * sorted by block (blocks × rows), with local widths h padded to a multiple of LANES by zeros.
 */
#include "wide.h"

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

/* u = sin(in A + b), and with a global part in columns 0..h of zm l = sin(u M + m + zm), without M l = u + sin(m + zm). */
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
        if (!zm) continue;
        if (merge) product(rows, h, h, u + at, h, 1, merge, l + at, 0);
        else memset(l + at, 0, rows * h * sizeof(float));
        for (long r = 0; r < rows; r++)
            COLUMNS(j, h)
                EACH(t) {
                    long i = at + r * h + j + t;
                    sine(l[i] + offset[j + t] + widen(zm[(b * rows + r) * ldzm + j + t]), l + i, dl + i);
                }
        for (long i = at; !merge && i < at + rows * h; i++) l[i] += u[i];
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
        if (dz) {
            memset(d_offset + b * h, 0, h * sizeof(float));
            for (long r = 0; r < rows; r++)
                COLUMNS(j, h)
                    EACH(t) {
                        float v = g[r * h + j + t] * dl[at + r * h + j + t];
                        if (merge_t) g[r * h + j + t] = v;
                        d_offset[b * h + j + t] += v;
                        dz[(b * rows + r) * lddz + j + t] = narrow(v);
                    }
        }
        if (merge_t) {
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
