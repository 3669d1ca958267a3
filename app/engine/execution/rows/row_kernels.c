/* Computes what lies between the linear layers of a decoder layer, for the few rows of a step that decodes.
 *
 * On a small model a call to torch costs as much as its arithmetic, and a layer takes some thirty of them beside
 * its products. These are four: the sum with the hidden states and its norm (twice), the attention with all that
 * belongs to it, and the gate of the MLP.
 *
 * Numbers are float or bfloat16, as `is_bfloat16` says; all sums are made in float. The output of a row does not
 * depend on the rows beside it, or on the number of threads.
 */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
enum { LANES = 16 };
#else
enum { LANES = 8 };
#endif
enum { MOST_DIM = 256, KEYS = 256 };             /* numbers in a head, and keys attended to at a time */
enum { PARALLEL_NUMBERS = 1 << 18 };             /* keys times numbers in heads that are worth several threads */

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Integers __attribute__((vector_size(4 * LANES)));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

#define INLINE static inline __attribute__((always_inline))

INLINE float from_half(uint16_t half) {
    const uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE uint16_t to_half(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16; /* to the nearest, ties to even */
    return value != value ? 0x7fc0 : (uint16_t)rounded;
}

INLINE float get(const void *values, ptrdiff_t at, const int is_bfloat16) {
    return is_bfloat16 ? from_half(((const uint16_t *)values)[at]) : ((const float *)values)[at];
}

INLINE void set(void *values, ptrdiff_t at, float value, const int is_bfloat16) {
    if (is_bfloat16) ((uint16_t *)values)[at] = to_half(value);
    else ((float *)values)[at] = value;
}

INLINE Floats load(const void *values, ptrdiff_t at, const int is_bfloat16) {
    Floats loaded;
    if (!is_bfloat16) {
        memcpy(&loaded, (const float *)values + at, sizeof loaded);
        return loaded;
    }
    Halves halves;
    memcpy(&halves, (const uint16_t *)values + at, sizeof halves);
    const Bits bits = __builtin_convertvector(halves, Bits) << 16;
    memcpy(&loaded, &bits, sizeof loaded);
    return loaded;
}

INLINE float sum_of(Floats lanes) {
    float sums[LANES];
    memcpy(sums, &lanes, sizeof sums);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++) sums[i] += sums[i + width];
    return sums[0];
}

INLINE void *offset(const void *values, ptrdiff_t count, const int is_bfloat16) {
    return (char *)values + count * (is_bfloat16 ? 2 : 4);
}

INLINE ptrdiff_t whole(ptrdiff_t count) { return count - count % LANES; }

INLINE Floats choose(Integers where, Floats yes, Floats no) {
    Integers yes_bits, no_bits;
    memcpy(&yes_bits, &yes, sizeof yes);
    memcpy(&no_bits, &no, sizeof no);
    const Integers bits = (where & yes_bits) | (~where & no_bits);
    Floats chosen;
    memcpy(&chosen, &bits, sizeof bits);
    return chosen;
}

/* Returns e to the power of each lane, which is first brought into the range of normal floats. The polynomial is
 * that of Cephes; its relative error is below 2e-7. */
INLINE Floats exponential(Floats x) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
    x = choose(x < -87.0f, (Floats){0} - 87.0f, choose(x > 88.0f, (Floats){0} + 88.0f, x));
    const Floats shifted = x * 1.44269504f + magic;
    const Floats whole_part = shifted - magic;
    const Floats rest = x - whole_part * 0.693359375f + whole_part * 2.12194440e-4f;
    Floats sum = rest * 1.9875691500e-4f + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 0.5f;
    sum = sum * rest * rest + rest + 1.0f;
    Integers bits;
    memcpy(&bits, &shifted, sizeof bits);
    const Integers power = ((bits - 0x4b400000) + 127) << 23;
    Floats scale;
    memcpy(&scale, &power, sizeof scale);
    return sum * scale;
}

/* The norm of a layer. Without a bias it is RMSNorm, else LayerNorm. */
typedef struct {
    const void *weight, *bias;
    int64_t size;
    float eps;
    int32_t is_bfloat16;
} Norm;

INLINE void norm_row(
    const void *row, const void *weight, const void *bias, ptrdiff_t size, float eps, void *output,
    const int is_bfloat16) {
    Floats sums = {0}, squares = {0};
    float sum = 0, square = 0, mean = 0;
    if (bias) {
        for (ptrdiff_t i = 0; i < whole(size); i += LANES) sums += load(row, i, is_bfloat16);
        for (ptrdiff_t i = whole(size); i < size; i++) sum += get(row, i, is_bfloat16);
        mean = (sum + sum_of(sums)) / (float)size;
    }
    for (ptrdiff_t i = 0; i < whole(size); i += LANES) {
        const Floats centred = load(row, i, is_bfloat16) - mean;
        squares += centred * centred;
    }
    for (ptrdiff_t i = whole(size); i < size; i++) {
        const float centred = get(row, i, is_bfloat16) - mean;
        square += centred * centred;
    }
    const float inverse = 1 / sqrtf((square + sum_of(squares)) / (float)size + eps);
    for (ptrdiff_t i = 0; i < size; i++) {
        const float normed = (get(row, i, is_bfloat16) - mean) * inverse * get(weight, i, is_bfloat16);
        set(output, i, bias ? normed + get(bias, i, is_bfloat16) : normed, is_bfloat16);
    }
}

INLINE void add_rows(void *hidden, const void *added, ptrdiff_t count, const int is_bfloat16) {
    for (ptrdiff_t i = 0; i < count; i++)
        set(hidden, i, get(hidden, i, is_bfloat16) + get(added, i, is_bfloat16), is_bfloat16);
}

INLINE void add_and_norm_rows(
    const Norm *norm, int64_t count, void *hidden, const void *added, void *output, const int is_bfloat16) {
    if (added) add_rows(hidden, added, count * norm->size, is_bfloat16);
    for (ptrdiff_t row = 0; row < count; row++) {
        const ptrdiff_t at = row * norm->size;
        norm_row(
            offset(hidden, at, is_bfloat16), norm->weight, norm->bias, norm->size, norm->eps,
            offset(output, at, is_bfloat16), is_bfloat16);
    }
}

/* Adds `added`, unless it is NULL, to `hidden`, and writes the norm of the sum to `output`. Each has `count` rows. */
void add_and_norm(const Norm *norm, int64_t count, void *hidden, const void *added, void *output) {
    if (norm->is_bfloat16) add_and_norm_rows(norm, count, hidden, added, output, 1);
    else add_and_norm_rows(norm, count, hidden, added, output, 0);
}

INLINE void gate_rows(int64_t count, int64_t size, const void *gates_and_ups, void *output, const int is_bfloat16) {
    for (ptrdiff_t row = 0; row < count; row++) {
        const void *gates = offset(gates_and_ups, 2 * row * size, is_bfloat16);
        for (ptrdiff_t i = 0; i < size; i += LANES) {
            float values[LANES] = {0};
            const int lanes = size - i < LANES ? (int)(size - i) : LANES;
            for (int lane = 0; lane < lanes; lane++) values[lane] = get(gates, i + lane, is_bfloat16);
            Floats gate;
            memcpy(&gate, values, sizeof gate);
            const Floats gated = gate / (1.0f + exponential(-gate));
            memcpy(values, &gated, sizeof gated);
            for (int lane = 0; lane < lanes; lane++) {
                const float up = get(gates, size + i + lane, is_bfloat16);
                set(output, row * size + i + lane, values[lane] * up, is_bfloat16);
            }
        }
    }
}

/* Writes silu(gate) * up. Each input row has `size` gates and then as many ups. */
void gate(int is_bfloat16, int64_t count, int64_t size, const void *gates_and_ups, void *output) {
    if (is_bfloat16) gate_rows(count, size, gates_and_ups, output, 1);
    else gate_rows(count, size, gates_and_ups, output, 0);
}

/* The attention of a layer. Without a `rope`, queries and keys are not rotated; without norms, not normed. */
typedef struct {
    const void *query_norm, *key_norm; /* the weights of RMSNorm for one head, or NULL */
    const void *rope;                  /* for each position `dim` cosines and then `dim` signed sines, or NULL */
    int64_t heads, kv_heads, dim;
    int64_t window; /* how many keys a row sees at most, or 0 */
    float scale, eps;
    int32_t is_bfloat16;
} Attention;

/* Norms and rotates a head, and returns it in floats. */
INLINE void prepare_head(
    const Attention *attention, const void *head, const void *norm, ptrdiff_t position, float *prepared,
    const int is_bfloat16) {
    const ptrdiff_t dim = attention->dim;
    float plain[MOST_DIM];
    union {
        float floats[MOST_DIM];
        uint16_t halves[MOST_DIM];
    } normed;
    if (norm) {
        norm_row(head, norm, NULL, dim, attention->eps, &normed, is_bfloat16);
        head = &normed;
    }
    for (ptrdiff_t i = 0; i < dim; i++) plain[i] = get(head, i, is_bfloat16);
    if (!attention->rope) {
        memcpy(prepared, plain, (size_t)dim * sizeof *plain);
        return;
    }
    const void *cosines = offset(attention->rope, 2 * position * dim, is_bfloat16);
    for (ptrdiff_t i = 0; i < dim; i++) {
        const float other = plain[i < dim / 2 ? i + dim / 2 : i - dim / 2];
        prepared[i] = plain[i] * get(cosines, i, is_bfloat16) + other * get(cosines, dim + i, is_bfloat16);
    }
}

INLINE float dot(const float *query, const void *key, ptrdiff_t dim, const int is_bfloat16) {
    Floats sums = {0};
    float sum = 0;
    for (ptrdiff_t i = 0; i < whole(dim); i += LANES) sums += load(query, i, 0) * load(key, i, is_bfloat16);
    for (ptrdiff_t i = whole(dim); i < dim; i++) sum += query[i] * get(key, i, is_bfloat16);
    return sum + sum_of(sums);
}

/* Adds the values of `count` keys, times their weights, to `sums`, four vectors of a head at a time. */
INLINE void add_values(
    const float *weights, const void *values, ptrdiff_t count, ptrdiff_t dim, float *sums, const int is_bfloat16) {
    ptrdiff_t at = 0;
    for (; at + 4 * LANES <= dim; at += 4 * LANES) {
        Floats four[4];
        memcpy(four, sums + at, sizeof four);
        for (ptrdiff_t key = 0; key < count; key++)
            for (int i = 0; i < 4; i++)
                four[i] += weights[key] * load(values, key * dim + at + i * LANES, is_bfloat16);
        memcpy(sums + at, four, sizeof four);
    }
    for (ptrdiff_t key = 0; key < count; key++)
        for (ptrdiff_t i = at; i < dim; i++) sums[i] += weights[key] * get(values, key * dim + i, is_bfloat16);
}

/* Replaces scores by their exponentials, relative to `most`. Returns their sum. */
INLINE float weigh(float *scores, ptrdiff_t count, float most) {
    for (ptrdiff_t i = count; i % LANES; i++) scores[i] = -INFINITY; /* so that the last vector is full */
    float sum = 0;
    for (ptrdiff_t i = 0; i < count; i += LANES) {
        Floats weights = exponential(load(scores, i, 0) - most);
        memcpy(scores + i, &weights, sizeof weights);
    }
    for (ptrdiff_t i = 0; i < count; i++) sum += scores[i];
    return sum;
}

/* Attends with one query to `count` keys and values, some at a time: https://arxiv.org/abs/2112.05682 */
INLINE void attend_head(
    const float *query, const void *keys, const void *values, ptrdiff_t count, ptrdiff_t dim, void *output,
    const int is_bfloat16) {
    float sums[MOST_DIM] = {0}, scores[KEYS], most = -INFINITY, total = 0;
    for (ptrdiff_t first = 0; first < count; first += KEYS) {
        const ptrdiff_t some = count - first < KEYS ? count - first : KEYS;
        float largest = most;
        for (ptrdiff_t key = 0; key < some; key++) {
            scores[key] = dot(query, offset(keys, (first + key) * dim, is_bfloat16), dim, is_bfloat16);
            largest = scores[key] > largest ? scores[key] : largest;
        }
        const float before = first > 0 ? expf(most - largest) : 0;
        for (ptrdiff_t i = 0; i < dim; i++) sums[i] *= before;
        total = total * before + weigh(scores, some, largest);
        add_values(scores, offset(values, first * dim, is_bfloat16), some, dim, sums, is_bfloat16);
        most = largest;
    }
    for (ptrdiff_t i = 0; i < dim; i++) set(output, i, sums[i] / total, is_bfloat16);
}

/* Stores the keys and values of one row at its position. `slot` is `[2, kv_heads, capacity, dim]`. */
INLINE void store_row(
    const Attention *attention, const void *row, void *slot, int64_t capacity, int64_t position,
    const int is_bfloat16) {
    const ptrdiff_t dim = attention->dim, kv_heads = attention->kv_heads;
    float prepared[MOST_DIM];
    for (ptrdiff_t head = 0; head < kv_heads; head++) {
        const void *key = offset(row, (attention->heads + head) * dim, is_bfloat16);
        const void *value = offset(key, kv_heads * dim, is_bfloat16);
        void *key_place = offset(slot, (head * capacity + position) * dim, is_bfloat16);
        void *value_place = offset(key_place, kv_heads * capacity * dim, is_bfloat16);
        prepare_head(attention, key, attention->key_norm, position, prepared, is_bfloat16);
        for (ptrdiff_t i = 0; i < dim; i++) set(key_place, i, prepared[i], is_bfloat16);
        memcpy(value_place, value, (size_t)dim * (is_bfloat16 ? 2 : 4));
    }
}

INLINE void attend_row_head(
    const Attention *attention, ptrdiff_t head, const void *row, const void *slot, int64_t capacity,
    int64_t position, void *output, const int is_bfloat16) {
    const ptrdiff_t dim = attention->dim, group = attention->heads / attention->kv_heads;
    const ptrdiff_t first = attention->window && position >= attention->window ? position - attention->window + 1 : 0;
    const void *keys = offset(slot, (head / group * capacity + first) * dim, is_bfloat16);
    const void *values = offset(keys, attention->kv_heads * capacity * dim, is_bfloat16);
    float query[MOST_DIM];
    prepare_head(
        attention, offset(row, head * dim, is_bfloat16), attention->query_norm, position, query, is_bfloat16);
    for (ptrdiff_t i = 0; i < dim; i++) query[i] *= attention->scale;
    attend_head(
        query, keys, values, position + 1 - first, dim, offset(output, head * dim, is_bfloat16), is_bfloat16);
}

INLINE void attend_rows(
    const Attention *attention, int64_t count, const void *rows, void *const *slots, const int64_t *capacities,
    const int64_t *positions, void *output, int threads, const int is_bfloat16) {
    const ptrdiff_t heads = attention->heads, width = heads * attention->dim;
    const ptrdiff_t row_width = width + 2 * attention->kv_heads * attention->dim;
    int64_t keys = 0;
    for (ptrdiff_t row = 0; row < count; row++) {
        store_row(
            attention, offset(rows, row * row_width, is_bfloat16), slots[row], capacities[row], positions[row],
            is_bfloat16);
        keys += positions[row];
    }
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && keys * width > PARALLEL_NUMBERS)
    for (ptrdiff_t i = 0; i < count * heads; i++) {
        const ptrdiff_t row = i / heads;
        attend_row_head(
            attention, i % heads, offset(rows, row * row_width, is_bfloat16), slots[row], capacities[row],
            positions[row], offset(output, row * width, is_bfloat16), is_bfloat16);
    }
}

/* Stores keys and values of `count` rows, which have queries, keys and values of all heads, in their slots, and
 * attends with each row to its slot up to its own position. Several rows may have one slot. */
void attend(
    const Attention *attention, int64_t count, const void *rows, void *const *slots, const int64_t *capacities,
    const int64_t *positions, void *output, int threads) {
    if (attention->is_bfloat16) attend_rows(attention, count, rows, slots, capacities, positions, output, threads, 1);
    else attend_rows(attention, count, rows, slots, capacities, positions, output, threads, 0);
}
