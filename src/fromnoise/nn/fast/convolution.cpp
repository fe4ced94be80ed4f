// The gradient of a convolution's weights from bf16 features, channels-last:
//
//     result[n][i][j][w] = sum over images and positions of narrow[y][x][n] * wide[S y + i - P][S x + j - P][w]
//
// with stride S and padding P. Of a convolution, wide is what went in and narrow the gradient of what came out; of a
// transposed one it is the other way round.
//
// The instruction that this is for multiplies sixteen pairs of bf16 by sixteen others and adds both products of a pair
// to one of sixteen floats. A pair here is one position and channel of two images, so that any shift of the weights
// finds its pairs made. Features are (images, height, width, channels); wide_channels is a multiple of 32,
// narrow_channels of 8.

#ifdef __AVX512BF16__

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <vector>

typedef uint32_t Pair __attribute__((may_alias));
constexpr int64_t LANES = 16, VECTORS = 2, ROWS = 8;  // a block of the result: 8 x 32 sums, in sixteen registers
constexpr int64_t POSITIONS = 256;                    // about so many are summed up before a block is put back

struct Features {
    const Pair* at;
    int64_t step, row, image;  // from one position to the next, to the one below, to that in the next two images
};

static void pair(const uint16_t* first, const uint16_t* second, Pair* out, int64_t count) {
    for (int64_t i = 0; i < count; i++) out[i] = first[i] | (second ? (Pair)second[i] << 16 : 0);
}

static void add_block(Features wide, Features narrow, int64_t pairs, int64_t height, int64_t width, float* result,
                      int64_t stride) {
    __m512 sums[ROWS][VECTORS];
    for (int64_t n = 0; n < ROWS; n++)
        for (int64_t v = 0; v < VECTORS; v++) sums[n][v] = _mm512_loadu_ps(result + n * stride + LANES * v);
    for (int64_t i = 0; i < pairs; i++)
        for (int64_t y = 0; y < height; y++) {
            const Pair* left = wide.at + i * wide.image + y * wide.row;
            const Pair* right = narrow.at + i * narrow.image + y * narrow.row;
            for (int64_t x = 0; x < width; x++, left += wide.step, right += narrow.step) {
                __m512bh values[VECTORS];
                for (int64_t v = 0; v < VECTORS; v++) values[v] = (__m512bh)_mm512_loadu_si512(left + LANES * v);
#pragma GCC unroll 8
                for (int64_t n = 0; n < ROWS; n++) {
                    __m512bh factor = (__m512bh)_mm512_set1_epi32(right[n]);
#pragma GCC unroll 2
                    for (int64_t v = 0; v < VECTORS; v++)
                        sums[n][v] = _mm512_dpbf16_ps(sums[n][v], values[v], factor);
                }
            }
        }
    for (int64_t n = 0; n < ROWS; n++)
        for (int64_t v = 0; v < VECTORS; v++) _mm512_storeu_ps(result + n * stride + LANES * v, sums[n][v]);
}

extern "C" void weight_gradient(const uint16_t* wide, const uint16_t* narrow, float* result, int64_t images,
                                int64_t wide_height, int64_t wide_width, int64_t wide_channels, int64_t height,
                                int64_t width, int64_t narrow_channels, int64_t kernel, int64_t stride,
                                int64_t padding, int threads) {
    const int64_t padded_height = (height - 1) * stride + kernel, padded_width = (width - 1) * stride + kernel;
    const int64_t rows = std::min(wide_height, padded_height - padding);
    const int64_t columns = std::min(wide_width, padded_width - padding);
    const int64_t per_narrow = kernel * kernel * wide_channels, size = narrow_channels * per_narrow;
    const int64_t row = padded_width * wide_channels, padded_image = padded_height * row;
    const int64_t wide_image = wide_height * wide_width * wide_channels;
    const int64_t narrow_image = height * width * narrow_channels;
    const int64_t group = std::max<int64_t>(1, POSITIONS / (height * width));  // so many pairs of images at a time
    std::vector<std::vector<float>> parts(threads);
#pragma omp parallel num_threads(threads)
    {
        std::vector<__m512i> first_room(group * padded_image / LANES), second_room(group * narrow_image / LANES + 1);
        Pair *padded = (Pair*)first_room.data(), *narrows = (Pair*)second_room.data();  // zero beyond the borders
        std::vector<float>& part = parts[omp_get_thread_num()];
        part.resize(size);
#pragma omp for schedule(static)
        for (int64_t start = 0; start < images; start += 2 * group) {
            const int64_t pairs = std::min(group, (images - start + 1) / 2);
            for (int64_t i = 0; i < pairs; i++) {
                const int64_t first = start + 2 * i;
                const bool two = first + 1 < images;
                for (int64_t y = 0; y < rows; y++) {
                    const uint16_t* line = wide + first * wide_image + y * wide_width * wide_channels;
                    Pair* to = &padded[i * padded_image + (y + padding) * row + padding * wide_channels];
                    pair(line, two ? line + wide_image : nullptr, to, columns * wide_channels);
                }
                const uint16_t* lines = narrow + first * narrow_image;
                pair(lines, two ? lines + narrow_image : nullptr, &narrows[i * narrow_image], narrow_image);
            }
            for (int64_t w = 0; w < wide_channels; w += LANES * VECTORS)
                for (int64_t n = 0; n < narrow_channels; n += ROWS)
                    for (int64_t k = 0; k < kernel * kernel; k++)
                        add_block({&padded[k / kernel * row + k % kernel * wide_channels + w],
                                   stride * wide_channels, stride * row, padded_image},
                                  {&narrows[n], narrow_channels, width * narrow_channels, narrow_image}, pairs,
                                  height, width, &part[n * per_narrow + k * wide_channels + w], per_narrow);
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < size; i++) {
            float sum = 0;
            for (const std::vector<float>& each : parts) sum += each.empty() ? 0 : each[i];
            result[i] = sum;
        }
    }
}

#endif
