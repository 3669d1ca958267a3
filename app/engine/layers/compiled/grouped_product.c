/* Multiplies rows of activations by matrices of 4- or 8-bit integers in groups of 32, each with a scale.
 *
 * Each row is first rounded to 15-bit integers, in groups of 32 with a scale of their own. (With 8 bits, as
 * other programs have them, one huge activation, as real models have some, leaves nothing of the 31 beside it.)
 * An integer is 128 * high + low, with 8 bits each. A group of a row times a group of the weights is then two
 * sums of products of integers, for which processors have instructions that add four at a time (VNNI). With
 * w = (integer - centre) * scale + zero and a = integer * scale,
 *
 *     sum(w * a) = scale_w * scale_a * (sum(integer_w * integer_a) - centre * sum(integer_a))
 *                + zero * scale_a * sum(integer_a)
 *
 * where the sums over integers are exact. The sums over groups are made in one order, whatever the number of
 * rows, of threads, and of lanes in a vector: a row's output does not depend on the rows beside it.
 *
 * Layout of the weights: 16 outputs are a tile. A tile has its groups one after the other, and each group has
 * its inputs in fours, 16 outputs side by side:
 *
 *     8 bits, 512 bytes: for each of 8 fours, for each of 16 outputs: 4 bytes
 *     4 bits, 256 bytes: for each of the first 4 fours, for each of 16 outputs: 4 bytes, whose low halves are
 *                        those inputs and whose high halves are the inputs 16 further
 *
 * Scales and zeros are float16 numbers of units, 16 outputs side by side for each group of a tile. The unit is
 * a power of two, by which the scales of the rows are multiplied. Zeros may be given as steps instead: 8-bit
 * integers, which are sixteenths of the group's scale.
 */

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { GROUP = 32, TILE = 16, FOURS = GROUP / 4 };
enum { LARGEST = 127 * 128 }; /* integer of an activation */
enum { L2_BYTES = 1 << 20 }; /* of the second-level cache, for the rows */
enum { AHEAD_BYTES = 1 << 11 }; /* of weights that are fetched before they are needed */

/* Vectors of 32-bit lanes. Each lane belongs to one output. */

#if defined(__AVX512VNNI__)

enum { LANES = 16, MOST_ROWS = 8 }; /* 32 registers hold the sums of 8 rows */
typedef __m512i Integers;
typedef __m512 Floats;
#define VECTOR(name) _mm512_##name
#define LOAD(from) _mm512_loadu_si512(from)
#define AND(a, b) _mm512_and_si512(a, b)
#define LOAD_FLOAT16(from) _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(from)))
#define LOAD_INT8(from) _mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)(from)))

#else

enum { LANES = 8, MOST_ROWS = 4 };
typedef __m256i Integers;
typedef __m256 Floats;
#define VECTOR(name) _mm256_##name
#define LOAD(from) _mm256_loadu_si256((const void *)(from))
#define AND(a, b) _mm256_and_si256(a, b)
#define LOAD_FLOAT16(from) _mm256_cvtph_ps(_mm_loadu_si128((const void *)(from)))
#define LOAD_INT8(from) _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)(from)))

#endif

/* Adds four products of unsigned weights and signed activations to each lane. */

#if defined(__AVX512VNNI__)

enum { CENTRE_OF_8_BITS = 128 };
static inline Integers add_products_4(Integers sums, Integers weights, Integers row) {
    return _mm512_dpbusd_epi32(sums, weights, row);
}
#define add_products_8 add_products_4

#elif defined(__AVXVNNI__)

enum { CENTRE_OF_8_BITS = 128 };
static inline Integers add_products_4(Integers sums, Integers weights, Integers row) {
    return _mm256_dpbusd_avx_epi32(sums, weights, row);
}
#define add_products_8 add_products_4

#else /* AVX2 adds two products in 16 bits: 2 * 15 * 127 and 2 * 128 * 127 fit there, 2 * 255 * 127 does not */

enum { CENTRE_OF_8_BITS = 0 };
static inline Integers add_products_4(Integers sums, Integers weights, Integers row) {
    const Integers pairs = _mm256_maddubs_epi16(weights, row);
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
static inline Integers add_products_8(Integers sums, Integers weights, Integers row) {
    const Integers centred = _mm256_xor_si256(weights, _mm256_set1_epi8(-128)); /* minus 128 */
    return add_products_4(sums, _mm256_abs_epi8(centred), _mm256_sign_epi8(row, centred));
}

#endif

static inline Integers four_in_each_lane(const int8_t *four) {
    int32_t bits;
    memcpy(&bits, four, sizeof bits);
    return VECTOR(set1_epi32)(bits);
}

static inline float as_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t as_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* A group of one row, rounded. */
typedef struct {
    float scale;   /* times the weight's unit */
    float sum;     /* scale * the sum of the integers */
    int32_t start; /* -centre * the sum of the integers */
    int8_t high[GROUP], low[GROUP];
} RowGroup;

/* Rows are computed in blocks, in whose memory groups follow each other and have the block's rows side by
 * side. Returns the number of rows in the next block. */
static inline ptrdiff_t block_rows(ptrdiff_t rows_left) {
    if (rows_left >= MOST_ROWS) return MOST_ROWS;
    return rows_left >= 4 ? 4 : rows_left >= 2 ? 2 : 1;
}

static void round_group(const float *values, int centre, float unit, RowGroup *group) {
    uint32_t largest_bits = 0; /* positive numbers are ordered like their bits, and NaN is the largest */
    for (int i = 0; i < GROUP; i++) {
        const uint32_t bits = as_bits(values[i]) & 0x7fffffff;
        largest_bits = bits > largest_bits ? bits : largest_bits;
    }
    const float largest = as_float(largest_bits);
    const float inverse = largest > 0 ? LARGEST / largest : 0;
    uint32_t sum = 0; /* unsigned, because what a NaN becomes may overflow */
    for (int i = 0; i < GROUP; i++) {
        /* Floats near 1.5 * 2^23 are whole numbers: the addition rounds, and the bits differ by the integer. */
        const float shifted = values[i] * inverse + 12582912.0f;
        const int32_t integer = (int32_t)(as_bits(shifted) - as_bits(12582912.0f));
        const int32_t high = (integer + 64) >> 7;
        group->high[i] = (int8_t)high;
        group->low[i] = (int8_t)(integer - high * 128);
        sum += (uint32_t)integer;
    }
    group->scale = largest / LARGEST * unit;
    group->sum = group->scale * (float)(int32_t)sum;
    group->start = (int32_t)(-(uint32_t)centre * sum);
}

static void read_group(const void *rows, int is_bfloat16, ptrdiff_t first, ptrdiff_t count, float *values) {
    memset(values, 0, GROUP * sizeof *values); /* for the inputs that a last group lacks */
    if (is_bfloat16) {
        const uint16_t *halves = (const uint16_t *)rows + first;
        for (ptrdiff_t i = 0; i < count; i++) values[i] = as_float((uint32_t)halves[i] << 16);
    } else {
        memcpy(values, (const float *)rows + first, (size_t)count * sizeof *values);
    }
}

/* Computes `row_count` rows times the LANES outputs that the pointers begin with. It is compiled once for each
 * `row_count` and `bits`, so that all sums stay in registers. */
static inline __attribute__((always_inline)) void multiply_lanes(
    const int row_count, const int bits, const uint8_t *integers, const uint16_t *scales,
    const uint16_t *zeros, const int8_t *steps, const RowGroup *rows, ptrdiff_t groups, float *output) {
    const Integers low_half = VECTOR(set1_epi8)(15);
    const Floats nothing = VECTOR(setzero_ps)(), sixteenth = VECTOR(set1_ps)(1.0f / 16);
    Floats totals[MOST_ROWS];
    for (int r = 0; r < row_count; r++) totals[r] = VECTOR(setzero_ps)();
    const int group_bytes = GROUP * TILE * bits / 8;
    for (ptrdiff_t g = 0; g < groups; g++) {
        /* The processor's own prefetching stops at the end of a page: this made one row a quarter faster. */
        for (int i = 0; i < group_bytes; i += 64)
            _mm_prefetch((const char *)integers + AHEAD_BYTES + i, _MM_HINT_T0);
        Integers high[MOST_ROWS], low[MOST_ROWS];
        for (int r = 0; r < row_count; r++) {
            high[r] = VECTOR(set1_epi32)(0);
            low[r] = VECTOR(set1_epi32)(rows[r].start);
        }
        for (int i = 0; i < FOURS * bits / 8; i++) {
            const Integers weights = LOAD(integers + i * TILE * 4);
            if (bits == 8) {
                for (int r = 0; r < row_count; r++) {
                    high[r] = add_products_8(high[r], weights, four_in_each_lane(rows[r].high + 4 * i));
                    low[r] = add_products_8(low[r], weights, four_in_each_lane(rows[r].low + 4 * i));
                }
                continue;
            }
            const Integers first = AND(weights, low_half);
            const Integers second = AND(VECTOR(srli_epi16)(weights, 4), low_half);
            for (int r = 0; r < row_count; r++) {
                const int8_t *of_high = rows[r].high + 4 * i, *of_low = rows[r].low + 4 * i;
                high[r] = add_products_4(high[r], first, four_in_each_lane(of_high));
                low[r] = add_products_4(low[r], first, four_in_each_lane(of_low));
                high[r] = add_products_4(high[r], second, four_in_each_lane(of_high + GROUP / 2));
                low[r] = add_products_4(low[r], second, four_in_each_lane(of_low + GROUP / 2));
            }
        }
        const Floats scale = LOAD_FLOAT16(scales);
        const Floats step = steps ? VECTOR(mul_ps)(VECTOR(cvtepi32_ps)(LOAD_INT8(steps)), sixteenth) : nothing;
        for (int r = 0; r < row_count; r++) {
            const Integers sum = VECTOR(add_epi32)(VECTOR(slli_epi32)(high[r], 7), low[r]);
            Floats scaled = VECTOR(mul_ps)(VECTOR(cvtepi32_ps)(sum), VECTOR(set1_ps)(rows[r].scale));
            if (steps) scaled = VECTOR(fmadd_ps)(step, VECTOR(set1_ps)(rows[r].sum), scaled);
            totals[r] = VECTOR(fmadd_ps)(scaled, scale, totals[r]);
        }
        if (steps) steps += TILE;
        if (zeros) {
            const Floats zero = LOAD_FLOAT16(zeros);
            for (int r = 0; r < row_count; r++)
                totals[r] = VECTOR(fmadd_ps)(zero, VECTOR(set1_ps)(rows[r].sum), totals[r]);
            zeros += TILE;
        }
        integers += group_bytes;
        scales += TILE;
        rows += row_count;
    }
    for (int r = 0; r < row_count; r++) VECTOR(storeu_ps)(output + r * TILE, totals[r]);
}

typedef struct {
    const uint8_t *integers;
    const uint16_t *scales, *zeros;
    const int8_t *steps; /* zeros, steps or both are NULL */
    float unit;          /* of scales and zeros */
    const float *bias;   /* may be NULL */
    ptrdiff_t inputs, outputs, groups;
    int bits;
} Weight;

/* Computes a block of rows times the outputs of a tile. */
static void multiply_tile(
    const Weight *weight, ptrdiff_t tile, const RowGroup *rows, ptrdiff_t row_count, float *output) {
    const ptrdiff_t first = tile * weight->groups * TILE;
    const uint8_t *integers = weight->integers + first * GROUP * weight->bits / 8;
    for (int lane = 0; lane < TILE; lane += LANES) {
        const uint16_t *scales = weight->scales + first + lane;
        const uint16_t *zeros = weight->zeros ? weight->zeros + first + lane : NULL;
        const int8_t *steps = weight->steps ? weight->steps + first + lane : NULL;
#define MULTIPLY(count, bits) \
    multiply_lanes(count, bits, integers + 4 * lane, scales, zeros, steps, rows, weight->groups, output + lane)
        switch (10 * row_count + weight->bits) {
            case 14: MULTIPLY(1, 4); break;
            case 18: MULTIPLY(1, 8); break;
            case 24: MULTIPLY(2, 4); break;
            case 28: MULTIPLY(2, 8); break;
            case 44: MULTIPLY(4, 4); break;
            case 48: MULTIPLY(4, 8); break;
#if defined(__AVX512VNNI__)
            case 84: MULTIPLY(8, 4); break;
            case 88: MULTIPLY(8, 8); break;
#endif
        }
    }
}

static void write_tile(
    const Weight *weight, ptrdiff_t tile, const float *values, ptrdiff_t row_count, int is_bfloat16,
    void *output) {
    const ptrdiff_t first = tile * TILE, left = weight->outputs - first, count = left < TILE ? left : TILE;
    for (ptrdiff_t r = 0; r < row_count; r++) {
        const ptrdiff_t at = r * weight->outputs + first;
        for (ptrdiff_t i = 0; i < count; i++) {
            const float value = values[r * TILE + i] + (weight->bias ? weight->bias[first + i] : 0);
            if (is_bfloat16) {
                const uint32_t bits = as_bits(value); /* rounded to the nearest, ties to even */
                const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
                ((uint16_t *)output)[at + i] = value != value ? 0x7fc0 : (uint16_t)rounded;
            } else {
                ((float *)output)[at + i] = value;
            }
        }
    }
}

/* Rounds all rows of a weight to integers. The threads of the surrounding parallel region share the work, and do
 * not wait for each other. */
static void round_rows(
    const Weight *weight, const void *rows, int is_bfloat16, ptrdiff_t count, RowGroup *rounded) {
    const ptrdiff_t groups = weight->groups, inputs = weight->inputs;
    const int centre = weight->bits == 4 ? 8 : CENTRE_OF_8_BITS;
#pragma omp for schedule(static) nowait
    for (ptrdiff_t i = 0; i < count * groups; i++) {
        const ptrdiff_t row = i / groups, group = i % groups, left = inputs - group * GROUP;
        ptrdiff_t first = row - row % MOST_ROWS; /* of the block with this row */
        ptrdiff_t block = block_rows(count - first);
        while (first + block <= row) {
            first += block;
            block = block_rows(count - first);
        }
        float values[GROUP];
        read_group(rows, is_bfloat16, row * inputs + group * GROUP, left < GROUP ? left : GROUP, values);
        round_group(values, centre, weight->unit, rounded + first * groups + group * block + row - first);
    }
}

/* Multiplies the rows from `first` to before `last`, tile after tile; the threads share the tiles. */
static void multiply_rows(
    const Weight *weight, const RowGroup *rows, ptrdiff_t first, ptrdiff_t last, int is_bfloat16,
    void *output) {
    const size_t row_bytes = (size_t)weight->outputs * (is_bfloat16 ? 2 : 4);
    const ptrdiff_t tiles = (weight->outputs + TILE - 1) / TILE;
#pragma omp for schedule(static) nowait
    for (ptrdiff_t tile = 0; tile < tiles; tile++) {
        for (ptrdiff_t row = first, block; row < last; row += block) {
            float values[MOST_ROWS * TILE];
            block = block_rows(last - row);
            multiply_tile(weight, tile, rows + row * weight->groups, block, values);
            write_tile(weight, tile, values, block, is_bfloat16, (char *)output + (size_t)row * row_bytes);
        }
    }
}

/* Returns one of several weights of the same shape that follow each other in memory. */
static Weight weight_at(const Weight *first, ptrdiff_t index) {
    const ptrdiff_t tiles = (first->outputs + TILE - 1) / TILE;
    const ptrdiff_t factors = index * tiles * first->groups * TILE;
    Weight weight = *first;
    weight.integers += factors * GROUP * first->bits / 8;
    weight.scales += factors;
    if (first->zeros) weight.zeros += factors;
    if (first->steps) weight.steps += factors;
    if (first->bias) weight.bias += index * first->outputs;
    return weight;
}

/* Multiplies rows by several weights of the same shape. The first `counts[0]` rows are multiplied by the first
 * weight, the next `counts[1]` by the second, and so on: each output is `row @ weight.T + bias`. Rows of `inputs`
 * numbers and outputs are bfloat16 or float, as `is_bfloat16` says. Returns 0, or 1 if there is no memory. */
int multiply_grouped(
    int bits, const void *integers, const void *scales, const void *zeros, const void *steps, float unit,
    const float *bias, int64_t inputs, int64_t outputs, const void *rows, const int64_t *counts,
    int64_t weights, int is_bfloat16, void *output, int threads) {
    const ptrdiff_t groups = (inputs + GROUP - 1) / GROUP;
    const Weight first_weight = {integers, scales, zeros, steps, unit, bias, inputs, outputs, groups, bits};
    const ptrdiff_t blocks = L2_BYTES / (groups * (ptrdiff_t)sizeof(RowGroup) * MOST_ROWS);
    const ptrdiff_t chunk = blocks < 1 ? MOST_ROWS : blocks * MOST_ROWS; /* rows that stay in the cache */
    const size_t number = is_bfloat16 ? 2 : 4; /* bytes */
    ptrdiff_t all = 0;
    for (ptrdiff_t i = 0; i < weights; i++) all += counts[i];
    if (all == 0) return 0;
    RowGroup *rounded = malloc((size_t)(all * groups) * sizeof *rounded);
    if (!rounded) return 1;
#pragma omp parallel num_threads(threads)
    {
        for (ptrdiff_t i = 0, at = 0; i < weights; at += counts[i++]) {
            const char *own = (const char *)rows + (size_t)(at * inputs) * number;
            round_rows(&first_weight, own, is_bfloat16, counts[i], rounded + at * groups);
        }
#pragma omp barrier
        for (ptrdiff_t i = 0, at = 0; i < weights; at += counts[i++]) {
            const Weight weight = weight_at(&first_weight, i);
            char *own = (char *)output + (size_t)(at * outputs) * number;
            for (ptrdiff_t first = 0; first < counts[i]; first += chunk) {
                const ptrdiff_t last = first + chunk < counts[i] ? first + chunk : counts[i];
                multiply_rows(&weight, rounded + at * groups, first, last, is_bfloat16, own);
            }
        }
    }
    free(rounded);
    return 0;
}
