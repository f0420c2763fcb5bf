/* What C kernels on the CPU share. Compiled once with `wide`, what wide products are computed in, as float, once as
 * bfloat16. Pre-activations of sines are in turns: weights and biases come multiplied by omega / 2π, and derivatives
 * of sines carry 2π, so that no pass over memory scales.
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

/* Vectors of LANES columns that cover 0..n; the last one reaches back over the one before. n is at least LANES. */
#define COLUMNS(j, n) \
    for (long next = 0, j = 0; next < (n); next += LANES, j = next + LANES <= (n) ? next : (n) - LANES)
#define EACH(t) _Pragma("GCC ivdep") for (int t = 0; t < LANES; t++)
