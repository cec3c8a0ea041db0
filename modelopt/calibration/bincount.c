/* Counts values by bin; see bincount.py. Installation compiles it where there is a C compiler. */
#include <stdint.h>
#include <string.h>

enum {
    BLOCK = 1024,   /* bin numbers on the way, in the first cache: computing them is a loop of vectors */
    LANES = 4,      /* neighbours are often equal, and a counter cannot be raised twice at once */
    MOST_BINS = 2048
};

/* Add to counts[k - start] for each value, k = values[i] * per_unit cut off towards zero.
   Returns 0, or -1 where there are more bins than MOST_BINS. What is outside of the bins counts in the last one. */
int modelopt_count_1(const float *values, int64_t n, float per_unit, int32_t start, int32_t bins, int64_t *counts) {
    uint32_t lanes[LANES][MOST_BINS];
    uint32_t place[BLOCK];
    if (bins < 1 || bins > MOST_BINS || n > UINT32_MAX)
        return -1;
    for (int lane = 0; lane < LANES; lane++)
        memset(lanes[lane], 0, sizeof(uint32_t) * (size_t)bins);
    const uint32_t last = (uint32_t)bins - 1;
    for (int64_t at = 0; at < n; at += BLOCK) {
        const int size = n - at < BLOCK ? (int)(n - at) : BLOCK;
        for (int i = 0; i < size; i++) {
            const uint32_t bin = (uint32_t)(int32_t)(values[at + i] * per_unit) - (uint32_t)start;
            place[i] = bin < last ? bin : last;
        }
        int i = 0;
        for (; i + LANES <= size; i += LANES) {
            lanes[0][place[i]]++;
            lanes[1][place[i + 1]]++;
            lanes[2][place[i + 2]]++;
            lanes[3][place[i + 3]]++;
        }
        for (; i < size; i++)
            lanes[0][place[i]]++;
    }
    for (int lane = 0; lane < LANES; lane++)
        for (int bin = 0; bin < bins; bin++)
            counts[bin] += lanes[lane][bin];
    return 0;
}
