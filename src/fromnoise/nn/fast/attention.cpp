// Attention over many positions, a few queries at a time, so that no matrix of all scores is ever stored:
//
//     result = softmax(query key^T / sqrt(size)) value
//
// Features are (batch, positions, heads, size), and a head's size is a multiple of 2. A word is 32 bits: one float, or
// two numbers of bf16, which one instruction multiplies by two others and adds to a float. All else is the same for
// both types: each query's scores are floats, its weights are words again.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#ifdef __AVX512F__
constexpr int64_t LANES = 16, ROWS = 8, VECTORS = 3;  // a block of sums, 8 x 3 vectors, fills most of the registers
#else
constexpr int64_t LANES = 8, ROWS = 6, VECTORS = 2;
#endif
constexpr int64_t TILE = 2 * LANES;         // keys that are packed side by side
constexpr int64_t PANEL = VECTORS * LANES;  // numbers of a value that are
constexpr int64_t CHUNK = 512;              // queries that one thread answers with the same packed keys and values

typedef uint32_t Word __attribute__((may_alias));
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));

template <class To, class From> static inline To as(From value) {
    To result;
    static_assert(sizeof(To) == sizeof(From));
    memcpy(&result, &value, sizeof(To));
    return result;
}
template <class Vector, class Number> static inline Vector load(const Number* p) {
    Vector result;
    memcpy(&result, p, sizeof(Vector));
    return result;
}
template <class Vector, class Number> static inline void store(Number* p, Vector value) {
    memcpy(p, &value, sizeof(Vector));
}

struct Float {
    typedef float Number;
    static constexpr int64_t PER_WORD = 1;
    static Floats add_product(Floats sum, Word left, Words right) { return sum + as<float>(left) * as<Floats>(right); }
    static Word word(const Number* low, const Number*) { return as<Word>(*low); }
    static void pack(Word* to, int64_t vector, Floats low, Floats high) {
        store(to + 2 * vector * LANES, low), store(to + (2 * vector + 1) * LANES, high);
    }
    static Number rounded(float value) { return value; }
};

#ifdef __AVX512BF16__
#include <immintrin.h>

struct BFloat16 {
    typedef uint16_t Number;
    static constexpr int64_t PER_WORD = 2;
    static Floats add_product(Floats sum, Word left, Words right) {
        return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(left), (__m512bh)right);
    }
    static Word word(const Number* low, const Number* high) { return *low | (Word)*high << 16; }
    static Words rounded(Floats value) {  // to the nearest, and to the even one of two
        const Words bits = as<Words>(value);
        return bits + 0x7fff + (bits >> 16 & 1);
    }
    static void pack(Word* to, int64_t vector, Floats low, Floats high) {
        store(to + vector * LANES, rounded(low) >> 16 | (rounded(high) & 0xffff0000));
    }
    static Number rounded(float value) { return rounded(Floats{} + value)[0] >> 16; }
};
#endif

// 2^x for x up to 0, to 2e-7 of it: Taylor's series of the part after the point, and the exponent for the part before.
static inline Floats power_of_two(Floats x) {
    x = x < -126.f ? Floats{} - 126.f : x;  // not a number stays what it is
    const Floats nearest = x + 0x1.8p23f - 0x1.8p23f, y = (x - nearest) * 0.693147181f;
    Floats sum = y * (1 / 720.f) + 1 / 120.f;
    sum = sum * y + 1 / 24.f;
    sum = sum * y + 1 / 6.f;
    sum = sum * y + 1 / 2.f;
    sum = sum * y + 1;
    sum = sum * y + 1;
    return as<Floats>(as<Ints>(sum) + (__builtin_convertvector(nearest, Ints) << 23));
}

// sums[r][v] = sum over k of left[r][k] * right[k][v], of ROWS rows and COUNT vectors.
template <class Type, int COUNT>
static inline void products(const Word* left, int64_t left_row, const Word* right, int64_t right_row, int64_t count,
                            float* sums, int64_t sums_row) {
    Floats total[ROWS][COUNT] = {};
    for (int64_t k = 0; k < count; k++) {
        Words values[COUNT];
        for (int v = 0; v < COUNT; v++) values[v] = load<Words>(right + k * right_row + v * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 3
            for (int v = 0; v < COUNT; v++)
                total[r][v] = Type::add_product(total[r][v], left[r * left_row + k], values[v]);
    }
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < COUNT; v++) store(sums + r * sums_row + v * LANES, total[r][v]);
}

// A query's scores to its weights, before they are divided by their sum, which is returned. They take the same place.
template <class Type> static float softmax(float* scores, int64_t keys, int64_t padded, float scale) {
    for (int64_t k = keys; k < padded; k++) scores[k] = -INFINITY;
    Floats most = load<Floats>(scores), sum{};
    for (int64_t k = LANES; k < padded; k += LANES) {
        const Floats values = load<Floats>(scores + k);
        most = values > most ? values : most;
    }
    float highest = most[0], total = 0;
    for (int64_t i = 1; i < LANES; i++) highest = std::max(highest, most[i]);
    for (int64_t k = 0; k < padded; k += TILE) {
        const Floats low = power_of_two((load<Floats>(scores + k) - highest) * scale);
        const Floats high = power_of_two((load<Floats>(scores + k + LANES) - highest) * scale);
        sum += low + high;
        Type::pack((Word*)scores, k / TILE, low, high);
    }
    for (int64_t i = 0; i < LANES; i++) total += sum[i];
    return total;
}

static int64_t up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

template <class Type> struct Attention {
    typedef typename Type::Number Number;
    const int64_t heads, queries, keys, size;
    const int64_t row = heads * size, words = size / Type::PER_WORD;   // numbers to the next position, words of a head
    const int64_t padded = up(keys, TILE), weights = padded / Type::PER_WORD;  // scores of a query, words of its weights
    const int64_t wide = up(size, LANES);
    const float scale = 1.44269504f / std::sqrt((float)size);  // for powers of two
    const std::vector<Number> zeros = std::vector<Number>(size);

    const Number* line(const Number* head, int64_t k) const { return k < keys ? head + k * row : zeros.data(); }

    // As (tiles, words, TILE): the words of a key below one another.
    void pack_keys(const Number* key, Word* packed) const {
        for (int64_t k = 0; k < padded; k++)
            for (int64_t w = 0; w < words; w++)
                packed[(k / TILE * words + w) * TILE + k % TILE] = ((const Word*)line(key, k))[w];
    }

    // As panels of (words of weights, numbers of a value). Beside each value in a word is the one LANES further on.
    void pack_values(const Number* value, Word* packed) const {
        for (int64_t c = 0; c < wide; c += PANEL) {
            const int64_t width = std::min(PANEL, wide - c), some = std::min(PANEL, size - c);
            for (int64_t k = 0; k < padded; k += TILE)
                for (int64_t i = 0; i < TILE / Type::PER_WORD; i++, packed += width) {
                    const Number *low = line(value, k + i) + c, *high = line(value, k + (i + LANES) % TILE) + c;
                    for (int64_t j = 0; j < some; j++) packed[j] = Type::word(low + j, high + j);
                }
        }
    }

    // The sums of ROWS queries' values by their weights, (ROWS, wide).
    void add_values(const float* scores, const Word* packed, float* sums) const {
        for (int64_t c = 0; c < wide; c += PANEL) {
            const int64_t width = std::min(PANEL, wide - c);
            const auto add = width == PANEL       ? products<Type, VECTORS>
                             : width == 2 * LANES ? products<Type, 2>
                                                  : products<Type, 1>;
            add((const Word*)scores, padded, packed + c * weights, width, weights, sums + c, wide);
        }
    }

    void operator()(const Number* query, const Number* key, const Number* value, Number* result, int64_t batch,
                    int threads) const {
        const int64_t chunks = (queries + CHUNK - 1) / CHUNK;
#pragma omp parallel num_threads(threads)
        {
            std::vector<uint32_t> packed_keys(padded * words), packed_values(weights * wide), rows(ROWS * words);
            std::vector<float> scores(ROWS * padded), sums(ROWS * wide);
#pragma omp for
            for (int64_t task = 0; task < batch * heads * chunks; task++) {
                const int64_t image = task / chunks / heads, head = task / chunks % heads * size;
                pack_keys(key + image * keys * row + head, packed_keys.data());
                pack_values(value + image * keys * row + head, packed_values.data());
                const int64_t first = task % chunks * CHUNK, last = std::min(queries, first + CHUNK);
                for (int64_t q = first; q < last; q += ROWS) {
                    const int64_t at = (image * queries + q) * row + head, count = std::min(ROWS, last - q);
                    for (int64_t r = 0; r < count; r++)
                        memcpy(&rows[r * words], query + at + r * row, size * sizeof(Number));
                    for (int64_t k = 0; k < padded; k += TILE)
                        products<Type, 2>(rows.data(), words, &packed_keys[k * words], TILE, words, &scores[k], padded);
                    float totals[ROWS];
                    for (int64_t r = 0; r < count; r++)
                        totals[r] = softmax<Type>(&scores[r * padded], keys, padded, scale);
                    add_values(scores.data(), packed_values.data(), sums.data());
                    for (int64_t r = 0; r < count; r++)
                        for (int64_t c = 0; c < size; c++)
                            result[at + r * row + c] = Type::rounded(sums[r * wide + c] / totals[r]);
                }
            }
        }
    }
};

#define FUNCTION(name, Type)                                                                                           \
    extern "C" void attention_##name(const Type::Number* query, const Type::Number* key, const Type::Number* value,    \
                                     Type::Number* result, int64_t batch, int64_t heads, int64_t queries,              \
                                     int64_t keys, int64_t size, int threads) {                                        \
        Attention<Type>{heads, queries, keys, size}(query, key, value, result, batch, threads);                        \
    }

FUNCTION(float, Float)
#ifdef __AVX512BF16__
FUNCTION(bf16, BFloat16)
#endif
