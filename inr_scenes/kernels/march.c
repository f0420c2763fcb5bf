/* Where rays first meet a surface: what rays.py says step by step, one ray after another, and no further than needed. */
#include <math.h>

#define CLAMP(v, low, high) ((v) < (low) ? (low) : (v) > (high) ? (high) : (v))

/* Linear interpolation at x in [-1, 1], whose ends are those of the outer cells; the border goes on beyond. */
static inline long place(float x, long count, float *share) {
    float at = CLAMP(((x + 1) * count - 1) / 2, 0, (float)(count - 1));
    long low = at < count - 1 ? (long)at : count - 2;
    *share = at - low;
    return low;
}

static inline float mix(float a, float b, float share) { return a + share * (b - a); }

/* Distance from the hull at a point, of a grid (z, y, x) of `cells` along each side, at least two. */
static inline float distance_at(const float *grid, long cells, float x, float y, float z) {
    float u, v, w;
    long i = place(x, cells, &u), j = place(y, cells, &v), k = place(z, cells, &w), row = cells, slice = cells * cells;
    const float *at = grid + k * slice + j * row + i;
    float near = mix(mix(at[0], at[1], u), mix(at[row], at[row + 1], u), v);
    at += slice;
    return mix(near, mix(mix(at[0], at[1], u), mix(at[row], at[row + 1], u), v), w);
}

/* sizes: the shortest step. rays: direction first, of 6 numbers each. Gives, for each ray, how far from the point
 * nearest to the centre it meets the hull or passes it nearest, and how near. */
void meet_hull(long n, long cells, long steps, const float *grid, const float *sizes, const float *rays,
               const float *nearest, const float *half, float *along, float *least) {
    #pragma omp parallel for schedule(dynamic, 256)
    for (long r = 0; r < n; r++) {
        const float *d = rays + 6 * r, *o = nearest + 3 * r;
        float at = -half[r];
        along[r] = at, least[r] = 9;
        for (long s = 0; s < steps; s++) {
            float distance = distance_at(grid, cells, o[0] + at * d[0], o[1] + at * d[1], o[2] + at * d[2]);
            if (distance < least[r]) along[r] = at, least[r] = distance;
            if (!(least[r] > 0) || at >= half[r]) break;
            at += distance > sizes[0] ? distance : sizes[0];
            if (at > half[r]) at = half[r];
        }
    }
}

/* sizes: parallax of the nearest and the farthest level, factors of places across and down. scene, camera (n × 2): where
 * rays cross both planes. Gives the parallax of the first place of the relief, from the nearest level on. */
void meet_relief(long n, long rows, long columns, long steps, const float *map, const float *sizes, const float *scene,
                 const float *camera, float *found) {
    float step = (sizes[0] - sizes[1]) / (steps - 1);
    #pragma omp parallel for schedule(dynamic, 256)
    for (long r = 0; r < n; r++) {
        float before = 0;
        found[r] = sizes[1];
        for (long s = 0; s < steps; s++) {
            float level = sizes[0] - s * step, u, v;
            long i = place((scene[2 * r] + level * camera[2 * r]) * sizes[2], columns, &u);
            long j = place((scene[2 * r + 1] + level * camera[2 * r + 1]) * sizes[3], rows, &v);
            const float *at = map + j * columns + i;
            float above = mix(mix(at[0], at[1], u), mix(at[columns], at[columns + 1], u), v) - level;
            if (above >= 0) {
                float down = before - above < -1e-6f ? before - above : -1e-6f;
                found[r] = s ? level + step * (1 - CLAMP(before / down, 0, 1)) : level;
                break;
            }
            before = above;
        }
    }
}
