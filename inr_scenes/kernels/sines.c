/* A network of sines but for its matrix products, which are left to a library. Rows are points; g features, at least LANES;
 * d coordinates. Sums over rows come in blocks of `each` rows, for the caller to add up.
 */
#include "wide.h"

/* Sines s of z, and their derivatives ds if there is room for them. */
INLINE void activate(const float *z, wide *s, wide *ds) {
    float a[LANES], da[LANES];
    EACH(t) sine(z[t], a + t, da + t);
    EACH(t) s[t] = narrow(a[t]);
    if (ds) EACH(t) ds[t] = narrow(da[t]);
}

/* First layer: coords x (rows × d), weight (d × g). Gives sines s and their derivatives ds, or none (rows × g). */
void first_sines(long rows, long d, long g, const float *x, const float *weight, const float *bias, wide *s, wide *ds) {
    #pragma omp parallel for schedule(static)
    for (long r = 0; r < rows; r++)
        COLUMNS(j, g) {
            float z[LANES];
            EACH(t) z[t] = bias[j + t];
            for (long p = 0; p < d; p++) EACH(t) z[t] += x[r * d + p] * weight[p * g + j + t];
            activate(z, s + r * g + j, ds ? ds + r * g + j : 0);
        }
}

/* Further layers: products z (rows × ldz, the first g columns). */
void next_sines(long rows, long g, const wide *products, long ldz, const float *bias, wide *s, wide *ds) {
    #pragma omp parallel for schedule(static)
    for (long r = 0; r < rows; r++)
        COLUMNS(j, g) {
            float z[LANES];
            EACH(t) z[t] = widen(products[r * ldz + j + t]) + bias[j + t];
            activate(z, s + r * g + j, ds ? ds + r * g + j : 0);
        }
}

/* Derivatives grad (rows × g) by a layer's sines, to those by its pre-activations, in the first g columns of dz
 * (rows × lddz), which may be ds. sums (blocks × 1 + d × g): their sums, alone and weighted by the coords x.
 */
void sines_backward(long rows, long each, long g, long d, const wide *grad, const wide *ds, wide *dz, long lddz,
                    const float *x, float *sums) {
    #pragma omp parallel for schedule(static)
    for (long b = 0; b < (rows + each - 1) / each; b++) {
        long last = (b + 1) * each < rows ? (b + 1) * each : rows;
        float *sum = sums + b * (1 + d) * g, row[g];
        memset(sum, 0, (1 + d) * g * sizeof(float));
        for (long r = b * each; r < last; r++) {
            for (long j = 0; j < g; j++) row[j] = widen(grad[r * g + j]) * widen(ds[r * g + j]);
            for (long j = 0; j < g; j++) dz[r * lddz + j] = narrow(row[j]), sum[j] += row[j];
            for (long p = 0; p < d; p++)
                for (long j = 0; j < g; j++) sum[(1 + p) * g + j] += x[r * d + p] * row[j];
        }
    }
}

/* The linear output: y (rows × o) of s, weight (o × g). */
void output(long rows, long g, long o, const wide *s, const float *weight, const float *bias, float *y) {
    #pragma omp parallel for schedule(static)
    for (long r = 0; r < rows; r++) {
        float row[g];
        for (long j = 0; j < g; j++) row[j] = widen(s[r * g + j]);
        for (long c = 0; c < o; c++) {
            float sum = bias[c];
            for (long j = 0; j < g; j++) sum += row[j] * weight[c * g + j];
            y[r * o + c] = sum;
        }
    }
}

/* Derivatives dy (rows × o) by the output, to those by s (rows × g) and sums for the weight (blocks × o × g). */
void output_backward(long rows, long each, long g, long o, const float *dy, const wide *s, const float *weight,
                     wide *grad, float *sums) {
    #pragma omp parallel for schedule(static)
    for (long b = 0; b < (rows + each - 1) / each; b++) {
        long last = (b + 1) * each < rows ? (b + 1) * each : rows;
        float *sum = sums + b * o * g, row[g];
        memset(sum, 0, o * g * sizeof(float));
        for (long r = b * each; r < last; r++) {
            memset(row, 0, sizeof row);
            for (long c = 0; c < o; c++)
                for (long j = 0; j < g; j++) {
                    row[j] += dy[r * o + c] * weight[c * g + j];
                    sum[c * g + j] += dy[r * o + c] * widen(s[r * g + j]);
                }
            for (long j = 0; j < g; j++) grad[r * g + j] = narrow(row[j]);
        }
    }
}
