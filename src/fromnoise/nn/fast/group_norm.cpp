// Group normalisation of channels-last features, with an offset before it and SiLU after it.
//
// PyTorch's own kernel for this layout is many times slower than memory, and two more passes add the offset and apply
// SiLU. Here a sample, which fits into a core's cache, is read from memory once on the way forward and once on the way
// back. Features are (batch, pixels, channels), float or bf16; all else is float; sums are taken per channel, sixteen
// channels side by side, then over the channels of each group.

#include <cstdint>
#include <vector>

constexpr int64_t LANES = 16;
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));
// The same where they lie in memory, at any address.
typedef Floats FloatsAt __attribute__((aligned(4), may_alias));
typedef Halves HalvesAt __attribute__((aligned(2), may_alias));

static Floats load(const float* p) { return *(const FloatsAt*)p; }
static Floats load(const uint16_t* p) {
    return (Floats)(__builtin_convertvector((Halves)*(const HalvesAt*)p, Words) << 16);
}

static void store(float* p, Floats value) { *(FloatsAt*)p = value; }
static void store(uint16_t* p, Floats value) {  // to the nearest bf16, half to even
    Words word = (Words)value;
    *(HalvesAt*)p = __builtin_convertvector((word + 0x7fff + ((word >> 16) & 1)) >> 16, Halves);
}

static Floats exponential(Floats x) {  // to 2e-7 of itself: 2^n times a polynomial (Cephes' expf)
    const float round = 12582912;  // adding 1.5 * 2^23 rounds to a whole number
    x = x < -87 ? Floats{} - 87 : x;
    x = x > 87 ? Floats{} + 87 : x;
    Floats n = x * 1.44269504f + round;
    Words power = ((Words)n + 127) << 23;
    n -= round;
    x = x - n * 0.693359375f + n * 2.12194440e-4f;
    Floats p = 1.9875691500e-4f * x + 1.3981999507e-3f;
    p = p * x + 8.3334519073e-3f;
    p = p * x + 4.1665795894e-2f;
    p = p * x + 1.6666665459e-1f;
    p = p * x + 5.0000001201e-1f;
    return (p * x * x + x + 1) * (Floats)power;
}

static Floats sigmoid(Floats x) { return 1 / (1 + exponential(-x)); }

// What a channel of one sample is multiplied by and gets added, and its mean without the offset.
struct Channels {
    std::vector<float> scale, shift, centre;
    explicit Channels(int64_t channels) : scale(channels), shift(channels), centre(channels) {}

    void set(const float* offset, const float* weight, const float* bias, const float* mean, const float* rstd,
             int64_t per_group) {
        for (int64_t c = 0; c < (int64_t)scale.size(); c++) {
            centre[c] = mean[c / per_group] - (offset ? offset[c] : 0);
            scale[c] = rstd[c / per_group] * weight[c];
            shift[c] = bias[c] - centre[c] * scale[c];
        }
    }
};

template <typename T>
static void forward(const T* x, const float* offset, const float* weight, const float* bias, T* y, float* mean,
                    float* rstd, int64_t batch, int64_t pixels, int64_t channels, int64_t groups, float eps,
                    bool silu, int threads) {
    const int64_t per_group = channels / groups, size = pixels * channels;
#pragma omp parallel num_threads(threads)
    {
        Channels channel(channels);
        std::vector<float> sum(channels);
#pragma omp for
        for (int64_t b = 0; b < batch; b++) {
            const T* in = x + b * size;
            const float* added = offset ? offset + b * channels : nullptr;
            float *mean_b = mean + b * groups, *rstd_b = rstd + b * groups;
            for (int64_t c = 0; c < channels; c += LANES) {
                Floats total{};
                for (int64_t i = c; i < size; i += channels) total += load(in + i);
                store(&sum[c], total);
            }
            for (int64_t g = 0; g < groups; g++) {
                float total = 0;
                for (int64_t c = g * per_group; c < (g + 1) * per_group; c++)
                    total += sum[c] / pixels + (added ? added[c] : 0);
                mean_b[g] = total / per_group;
                rstd_b[g] = 1;
            }
            channel.set(added, weight, bias, mean_b, rstd_b, per_group);
            for (int64_t c = 0; c < channels; c += LANES) {
                Floats total{}, centre = load(&channel.centre[c]);
                for (int64_t i = c; i < size; i += channels) {
                    Floats off = load(in + i) - centre;
                    total += off * off;
                }
                store(&sum[c], total);
            }
            for (int64_t g = 0; g < groups; g++) {
                float total = 0;
                for (int64_t c = g * per_group; c < (g + 1) * per_group; c++) total += sum[c];
                rstd_b[g] = 1 / __builtin_sqrtf(total / (pixels * per_group) + eps);
            }
            channel.set(added, weight, bias, mean_b, rstd_b, per_group);
            for (int64_t c = 0; c < channels; c += LANES) {
                Floats scale = load(&channel.scale[c]), shift = load(&channel.shift[c]);
                for (int64_t i = c; i < size; i += channels) {
                    Floats z = load(in + i) * scale + shift;
                    store(y + b * size + i, silu ? z * sigmoid(z) : z);
                }
            }
        }
    }
}

// With n the normalised x and g the gradient before SiLU times the weight, dx = rstd (g - mean(g) - n mean(g n)), means
// over a group. The gradients of weight, bias and offset are left for each sample, (batch, channels).
template <typename T>
static void backward(const T* grad, const T* x, const float* offset, const float* weight, const float* bias,
                     const float* mean, const float* rstd, T* dx, float* doffset, float* dweight, float* dbias,
                     int64_t batch, int64_t pixels, int64_t channels, int64_t groups, bool silu, int threads) {
    const int64_t per_group = channels / groups, size = pixels * channels;
#pragma omp parallel num_threads(threads)
    {
        Channels channel(channels);
        std::vector<float> before(size), centred(channels), of_x(channels), constant(channels);
#pragma omp for
        for (int64_t b = 0; b < batch; b++) {
            const T *in = x + b * size, *out = grad + b * size;
            float *dw = dweight + b * channels, *db = dbias + b * channels;
            const float *mean_b = mean + b * groups, *rstd_b = rstd + b * groups;
            channel.set(offset ? offset + b * channels : nullptr, weight, bias, mean_b, rstd_b, per_group);
            for (int64_t c = 0; c < channels; c += LANES) {
                Floats scale = load(&channel.scale[c]), shift = load(&channel.shift[c]);
                Floats centre = load(&channel.centre[c]), sum{}, product{}, position{};
                for (int64_t i = c; i < size; i += channels) {
                    Floats value = load(in + i), g = load(out + i);
                    if (silu) {
                        Floats z = value * scale + shift, s = sigmoid(z);
                        g *= s + z * s * (1 - s);
                    }
                    store(&before[i], g);
                    sum += g;
                    product += g * (value - centre);
                    position += value - centre;
                }
                store(db + c, sum);
                store(dw + c, product);
                store(&centred[c], position);
            }
            for (int64_t g = 0; g < groups; g++) {
                float of_grad = 0, of_product = 0, r = rstd_b[g], count = pixels * per_group;
                for (int64_t c = g * per_group; c < (g + 1) * per_group; c++) {
                    dw[c] *= r;
                    of_grad += weight[c] * db[c] / count;
                    of_product += weight[c] * dw[c] / count;
                }
                for (int64_t c = g * per_group; c < (g + 1) * per_group; c++) {
                    of_x[c] = -r * r * of_product;
                    constant[c] = -r * of_grad - of_x[c] * channel.centre[c];
                    if (doffset)
                        doffset[b * channels + c] =
                            r * (weight[c] * db[c] - pixels * of_grad - centred[c] * r * of_product);
                }
            }
            for (int64_t c = 0; c < channels; c += LANES) {
                Floats scale = load(&channel.scale[c]), slope = load(&of_x[c]), rest = load(&constant[c]);
                for (int64_t i = c; i < size; i += channels)
                    store(dx + b * size + i, load(&before[i]) * scale + load(in + i) * slope + rest);
            }
        }
    }
}

#define DEFINE(NAME, T)                                                                                               \
    extern "C" void forward_##NAME(const T* x, const float* offset, const float* weight, const float* bias, T* y,     \
                                   float* mean, float* rstd, int64_t batch, int64_t pixels, int64_t channels,         \
                                   int64_t groups, float eps, int silu, int threads) {                                \
        forward(x, offset, weight, bias, y, mean, rstd, batch, pixels, channels, groups, eps, silu, threads);         \
    }                                                                                                                 \
    extern "C" void backward_##NAME(const T* grad, const T* x, const float* offset, const float* weight,              \
                                    const float* bias, const float* mean, const float* rstd, T* dx, float* doffset,   \
                                    float* dweight, float* dbias, int64_t batch, int64_t pixels, int64_t channels,    \
                                    int64_t groups, int silu, int threads) {                                          \
        backward(grad, x, offset, weight, bias, mean, rstd, dx, doffset, dweight, dbias, batch, pixels, channels,     \
                 groups, silu, threads);                                                                              \
    }

DEFINE(float, float)
DEFINE(bf16, uint16_t)
