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

/* Of a ray's Plücker coordinates (direction, moment) its point nearest to the centre. */
static inline void nearest(const float *ray, float *o) {
    const float *d = ray, *m = ray + 3;
    o[0] = d[1] * m[2] - d[2] * m[1], o[1] = d[2] * m[0] - d[0] * m[2], o[2] = d[0] * m[1] - d[1] * m[0];
}

/* sizes: the shortest step. rays (n × 6): Plücker coordinates. Gives, for each ray, how far from the point nearest to
 * the centre it meets the hull or passes it nearest, and how near. */
void meet_hull(long n, long cells, long steps, const float *grid, const float *sizes, const float *rays, float *along,
               float *least) {
    #pragma omp parallel for schedule(dynamic, 256)
    for (long r = 0; r < n; r++) {
        const float *d = rays + 6 * r;
        float o[3];
        nearest(d, o);
        float rest = 1 - (o[0] * o[0] + o[1] * o[1] + o[2] * o[2]), half = sqrtf(rest > 1e-6f ? rest : 1e-6f);
        float at = -half;
        along[r] = at, least[r] = 9;
        for (long s = 0; s < steps; s++) {
            float distance = distance_at(grid, cells, o[0] + at * d[0], o[1] + at * d[1], o[2] + at * d[2]);
            if (distance < least[r]) along[r] = at, least[r] = distance;
            if (!(least[r] > 0) || at >= half) break;
            at += distance > sizes[0] ? distance : sizes[0];
            if (at > half) at = half;
        }
    }
}

/* Parallax of the first place of a relief on a ray, from the nearest level on, which is sizes[0]; the farthest is
 * sizes[1]. scene, camera: where the ray crosses both planes; sizes[2] and [3] make them places across and down. */
static inline float parallax(long rows, long columns, long steps, const float *map, const float *sizes,
                             const float *scene, const float *camera) {
    float step = (sizes[0] - sizes[1]) / (steps - 1), before = 0;
    for (long s = 0; s < steps; s++) {
        float level = sizes[0] - s * step, u, v;
        long i = place((scene[0] + level * camera[0]) * sizes[2], columns, &u);
        long j = place((scene[1] + level * camera[1]) * sizes[3], rows, &v);
        const float *at = map + j * columns + i;
        float above = mix(mix(at[0], at[1], u), mix(at[columns], at[columns + 1], u), v) - level;
        if (above >= 0) {
            float down = before - above < -1e-6f ? before - above : -1e-6f;
            return s ? level + step * (1 - CLAMP(before / down, 0, 1)) : level;
        }
        before = above;
    }
    return sizes[1];
}

/* rays (n × 6): Plücker coordinates. sizes: as above, then how far the cameras' plane is from the scene's, and the factor
 * of places on it. Gives the place a ray meets on the relief, as the middle sees it, and that on the cameras' plane. */
void see_relief(long n, long rows, long columns, long steps, const float *map, const float *sizes, const float *rays,
                float *seen) {
    #pragma omp parallel for schedule(dynamic, 256)
    for (long r = 0; r < n; r++) {
        const float *d = rays + 6 * r;
        float o[3], scene[2], camera[2], back = d[2] < -0.05f ? d[2] : -0.05f;
        nearest(d, o);
        for (int a = 0; a < 2; a++) {
            float slope = d[a] / back;
            scene[a] = o[a] - slope * o[2];
            camera[a] = scene[a] + slope * sizes[4];
        }
        float found = parallax(rows, columns, steps, map, sizes, scene, camera);
        for (int a = 0; a < 2; a++) {
            seen[4 * r + a] = scene[a] + found * camera[a];
            seen[4 * r + 2 + a] = camera[a] * sizes[5];
        }
    }
}
