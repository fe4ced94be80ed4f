// Winograd's 3x3 convolution of float features, channels-last: what is done before and after the matrix products.
//
// The result is made in tiles of M x M positions. A tile depends on N x N positions, N = M + 2, of what goes in. With
// the matrices B, G and A below, of one channel in and one out,
//
//     tile = A ((G weight G^T) * (B in B^T)) A^T
//
// where * multiplies number by number: N^2 multiplications instead of 9 M^2. Summed over the channels that go in, these
// are N^2 matrix products, (tiles, channels in) times (channels in, channels out). The matrices are the exact solution of
// the identity, for the points 0, 1, -1, infinity and, with M = 4, also 2 and -2. Channels are multiples of 8.

#include <algorithm>
#include <cstdint>
#include <vector>

constexpr int64_t LANES = 8;
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef Floats FloatsAt __attribute__((aligned(4), may_alias));  // the same where they lie in memory, at any address

static inline Floats load(const float* p) { return *(const FloatsAt*)p; }
static inline void store(float* p, Floats value) { *(FloatsAt*)p = value; }

template <int M> struct Matrices;
template <> struct Matrices<2> {
    static constexpr float B[4][4] = {{1, 0, -1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, -1, 0, 1}};
    static constexpr float G[4][3] = {{1, 0, 0}, {1 / 2.f, 1 / 2.f, 1 / 2.f}, {1 / 2.f, -1 / 2.f, 1 / 2.f}, {0, 0, 1}};
    static constexpr float A[2][4] = {{1, 1, 1, 0}, {0, 1, -1, 1}};
};
template <> struct Matrices<4> {
    static constexpr float B[6][6] = {{4, 0, -5, 0, 1, 0},  {0, -4, -4, 1, 1, 0}, {0, 4, -4, -1, 1, 0},
                                      {0, -2, -1, 2, 1, 0}, {0, 2, -1, -2, 1, 0}, {0, 4, 0, -5, 0, 1}};
    static constexpr float G[6][3] = {{1 / 4.f, 0, 0},
                                      {-1 / 6.f, -1 / 6.f, -1 / 6.f},
                                      {-1 / 6.f, 1 / 6.f, -1 / 6.f},
                                      {1 / 24.f, 1 / 12.f, 1 / 6.f},
                                      {1 / 24.f, -1 / 12.f, 1 / 6.f},
                                      {0, 0, 1}};
    static constexpr float A[4][6] = {
        {1, 1, 1, 1, 1, 0}, {0, 1, -1, 2, -2, 0}, {0, 1, 1, 4, 4, 0}, {0, 1, -1, 8, -8, 1}};
};

// A matrix times a vector whose numbers lie `step` apart, as those of the result do. The compiler leaves out the zeros.
template <int ROWS, int COLUMNS>
static inline void multiply(const float (&matrix)[ROWS][COLUMNS], const Floats* in, Floats* out, int64_t step) {
#pragma GCC unroll 6
    for (int i = 0; i < ROWS; i++) {
        Floats sum{};
#pragma GCC unroll 6
        for (int j = 0; j < COLUMNS; j++)
            if (matrix[i][j] != 0) sum += matrix[i][j] * in[j * step];
        out[i * step] = sum;
    }
}

// matrix * square * matrix^T
template <int ROWS, int COLUMNS>
static inline void both_sides(const float (&matrix)[ROWS][COLUMNS], const Floats* square, Floats* out) {
    Floats half[ROWS * COLUMNS];
#pragma GCC unroll 6
    for (int j = 0; j < COLUMNS; j++) multiply(matrix, square + j, half + j, COLUMNS);
#pragma GCC unroll 6
    for (int i = 0; i < ROWS; i++) multiply(matrix, half + i * COLUMNS, out + i * ROWS, 1);
}

// Where a tile begins in the result.
struct Place {
    int64_t image, top, left;
    Place(int64_t tile, int64_t height, int64_t width, int64_t m) {
        const int64_t rows = (height + m - 1) / m, columns = (width + m - 1) / m;
        image = tile / (rows * columns), top = tile / columns % rows * m, left = tile % columns * m;
    }
};

// Weights (out, 3, 3, in) as (N^2, out, in).
template <int M>
static void weights(const float* weight, float* result, int64_t out, int64_t in, int threads) {
    constexpr int N = M + 2;
#pragma omp parallel for num_threads(threads)
    for (int64_t d = 0; d < out; d++)
        for (int64_t c = 0; c < in; c += LANES) {
            Floats square[9], values[N * N];
            for (int k = 0; k < 9; k++) square[k] = load(weight + (d * 9 + k) * in + c);
            both_sides(Matrices<M>::G, square, values);
            for (int k = 0; k < N * N; k++) store(result + (k * out + d) * in + c, values[k]);
        }
}

// Features (images, height / scale, width / scale, channels), each position taken as scale x scale positions, as
// (N^2, count, channels): `count` tiles from the tile `first` on.
template <int M>
static void features(const float* x, float* result, int64_t first, int64_t count, int64_t height, int64_t width,
                     int64_t channels, int64_t scale, int threads) {
    constexpr int N = M + 2;
    const std::vector<float> zeros(channels);  // what lies beyond the borders
#pragma omp parallel for num_threads(threads)
    for (int64_t t = 0; t < count; t++) {
        const Place place(first + t, height, width, M);
        const float* from[N * N];
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++) {
                const int64_t row = place.top + i - 1, column = place.left + j - 1;
                const bool inside = row >= 0 && row < height && column >= 0 && column < width;
                const int64_t line = place.image * (height / scale) + row / scale;
                from[i * N + j] = inside ? x + (line * (width / scale) + column / scale) * channels : zeros.data();
            }
        for (int64_t c = 0; c < channels; c += LANES) {
            Floats square[N * N], values[N * N];
            for (int k = 0; k < N * N; k++) square[k] = load(from[k] + c);
            both_sides(Matrices<M>::B, square, values);
            for (int k = 0; k < N * N; k++) store(result + (k * count + t) * channels + c, values[k]);
        }
    }
}

// Products (N^2, count, some), and a bias for each of `some` channels, as these channels of the result (images, height,
// width, channels).
template <int M>
static void tiles(const float* products, const float* bias, float* y, int64_t first, int64_t count, int64_t height,
                  int64_t width, int64_t some, int64_t channels, int threads) {
    constexpr int N = M + 2;
#pragma omp parallel for num_threads(threads)
    for (int64_t t = 0; t < count; t++) {
        const Place place(first + t, height, width, M);
        const int64_t rows = std::min<int64_t>(M, height - place.top);
        const int64_t columns = std::min<int64_t>(M, width - place.left);
        float* corner = y + ((place.image * height + place.top) * width + place.left) * channels;
        for (int64_t c = 0; c < some; c += LANES) {
            Floats square[N * N], values[M * M];
            for (int k = 0; k < N * N; k++) square[k] = load(products + (k * count + t) * some + c);
            both_sides(Matrices<M>::A, square, values);
            for (int64_t i = 0; i < rows; i++)
                for (int64_t j = 0; j < columns; j++)
                    store(corner + (i * width + j) * channels + c, values[i * M + j] + load(bias + c));
        }
    }
}

#define FUNCTIONS(M)                                                                                                   \
    void weights_##M(const float* weight, float* result, int64_t out, int64_t in, int threads) {                       \
        weights<M>(weight, result, out, in, threads);                                                                  \
    }                                                                                                                  \
    void features_##M(const float* x, float* result, int64_t first, int64_t count, int64_t height, int64_t width,      \
                      int64_t channels, int64_t scale, int threads) {                                                  \
        features<M>(x, result, first, count, height, width, channels, scale, threads);                                 \
    }                                                                                                                  \
    void tiles_##M(const float* products, const float* bias, float* y, int64_t first, int64_t count, int64_t height,   \
                   int64_t width, int64_t some, int64_t channels, int threads) {                                       \
        tiles<M>(products, bias, y, first, count, height, width, some, channels, threads);                             \
    }

extern "C" {
FUNCTIONS(2)
FUNCTIONS(4)
}
