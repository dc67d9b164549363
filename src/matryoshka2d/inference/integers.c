// Linear maps in integers of 16 bits and attention in fp32, alone and as whole layers, for processors with AVX2.
// Compiled by kernels.py at first use; everything here has a plain torch form in the tests that it must equal.

#include <immintrin.h>
#include <stdint.h>

#define LANES 8
#define ROWS 6
#define COLUMNS 16
#define BLOCK 48
#define MOST_INPUTS 4096
#define LONGEST 512
#define QUERIES 16
#define KEYS 4
#define WIDEST 128
#define AHEAD 4096

// A row of inputs has whole numbers up to this; see kernels.py for what that leaves to the weights.
#define LARGEST 2047.0f

enum { PLAIN, GELU, PLUS };

// Add two products in each lane. In assembler where it takes two instructions: compilers move the sums about.
static inline void multiply(__m256i *sum, __m256i x, __m256i y) {
#if defined(__AVXVNNI__)
    *sum = _mm256_dpwssd_avx_epi32(*sum, x, y);
#elif defined(__AVX512VNNI__) && defined(__AVX512VL__)
    *sum = _mm256_dpwssd_epi32(*sum, x, y);
#else
    __m256i products;
    __asm__ volatile("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(*sum), "=&x"(products) : "x"(x), "x"(y));
#endif
}

// 2^x for x <= 0, to about 2e-7.
static inline __m256 exp2_of(__m256 x) {
    x = _mm256_max_ps(x, _mm256_set1_ps(-126.0f));
    __m256 whole = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 part = _mm256_sub_ps(x, whole);
    __m256 y = _mm256_set1_ps(1.3333558e-3f);
    y = _mm256_fmadd_ps(y, part, _mm256_set1_ps(9.6181291e-3f));
    y = _mm256_fmadd_ps(y, part, _mm256_set1_ps(5.5504109e-2f));
    y = _mm256_fmadd_ps(y, part, _mm256_set1_ps(2.4022651e-1f));
    y = _mm256_fmadd_ps(y, part, _mm256_set1_ps(6.9314718e-1f));
    y = _mm256_fmadd_ps(y, part, _mm256_set1_ps(1.0f));
    __m256i power = _mm256_slli_epi32(_mm256_cvtps_epi32(whole), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(y), power));
}

static inline float sum_of(__m256 x) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

static inline float largest_of(__m256 x) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

// x / 2 * (1 + erf(x / sqrt(2))), with erf to about 2e-7: Abramowitz and Stegun, 7.1.26.
static inline __m256 gelu(__m256 x) {
    const __m256 sign = _mm256_set1_ps(-0.0f), one = _mm256_set1_ps(1.0f);
    const __m256 z = _mm256_mul_ps(_mm256_andnot_ps(sign, x), _mm256_set1_ps(0.70710678f));
    const __m256 t = _mm256_div_ps(one, _mm256_fmadd_ps(z, _mm256_set1_ps(0.3275911f), one));
    __m256 y = _mm256_set1_ps(1.061405429f);
    y = _mm256_fmadd_ps(y, t, _mm256_set1_ps(-1.453152027f));
    y = _mm256_fmadd_ps(y, t, _mm256_set1_ps(1.421413741f));
    y = _mm256_fmadd_ps(y, t, _mm256_set1_ps(-0.284496736f));
    y = _mm256_fmadd_ps(y, t, _mm256_set1_ps(0.254829592f));
    const __m256 square = _mm256_mul_ps(_mm256_mul_ps(z, z), _mm256_set1_ps(-1.44269504f));
    // The rest is 1 - erf(|x| / sqrt(2)): what is missing on the side of x, and all there is on the other.
    const __m256 rest = _mm256_mul_ps(_mm256_mul_ps(y, t), exp2_of(square));
    const __m256 share = _mm256_blendv_ps(_mm256_sub_ps(_mm256_set1_ps(2.0f), rest), rest, x);
    return _mm256_mul_ps(_mm256_mul_ps(x, _mm256_set1_ps(0.5f)), share);
}

// Whole numbers for a row, and what one of them is worth: no number where the row has none or infinity.
static inline float quantize(const float *x, int16_t *out, long inputs) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 largest = _mm256_setzero_ps(), wrong = _mm256_setzero_ps();
    for (long j = 0; j < inputs; j += LANES) {
        const __m256 some = _mm256_loadu_ps(x + j);
        largest = _mm256_max_ps(largest, _mm256_andnot_ps(sign, some));
        wrong = _mm256_add_ps(wrong, _mm256_sub_ps(some, some));
    }
    const float most = largest_of(largest);
    const __m256 factor = _mm256_set1_ps(most > 1e-30f ? LARGEST / most : 0.0f);
    for (long j = 0; j < inputs; j += 2 * LANES) {
        __m256i low = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + j), factor));
        __m256i high = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + j + LANES), factor));
        __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
        _mm256_storeu_si256((__m256i *)(out + j), both);
    }
    return most / LARGEST + sum_of(wrong);
}

// Some rows against sixteen columns; panel: [pair of inputs][column][2].
__attribute__((always_inline)) static inline void tile(
    const int16_t *x, const float *worth, const int16_t *panel, const float *scales, const float *bias,
    const float *other, float *out, long inputs, long outputs, int then, const int rows
) {
    __m256i sums[ROWS][2];
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) sums[i][0] = sums[i][1] = _mm256_setzero_si256();
    for (long j = 0; j < inputs; j += 2, panel += 2 * COLUMNS) {
        // Few rows wait for memory: what comes eight kilobytes on is asked for now. No address is too far for that.
        _mm_prefetch((const char *)(panel + AHEAD), _MM_HINT_T0);
        const __m256i left = _mm256_loadu_si256((const __m256i *)panel);
        const __m256i right = _mm256_loadu_si256((const __m256i *)(panel + COLUMNS));
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) {
            const __m256i pair = _mm256_set1_epi32(*(const int32_t *)(x + i * inputs + j));
            multiply(&sums[i][0], pair, left);
            multiply(&sums[i][1], pair, right);
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            const long place = i * outputs + half * LANES;
            const __m256 scale = _mm256_mul_ps(_mm256_set1_ps(worth[i]), _mm256_loadu_ps(scales + half * LANES));
            __m256 y = _mm256_cvtepi32_ps(sums[i][half]);
            y = _mm256_fmadd_ps(y, scale, _mm256_loadu_ps(bias + half * LANES));
            if (then == GELU) y = gelu(y);
            if (then == PLUS) y = _mm256_add_ps(y, _mm256_loadu_ps(other + place));
            _mm256_storeu_ps(out + place, y);
        }
}

// x: float [rows, inputs]; panels: int16 [outputs / 16][inputs / 2][16][2]; scales: what
// a whole number in each column is worth; bias: float [outputs]; other, out: float [rows, outputs].
// inputs and outputs are multiples of 16, inputs at most 4096; else -1, and nothing is touched.
int linear(
    const float *x, const int16_t *panels, const float *scales, const float *bias, const float *other, float *out,
    long rows, long inputs, long outputs, int then
) {
    if (rows < 0 || inputs < COLUMNS || inputs > MOST_INPUTS || inputs % COLUMNS || outputs % COLUMNS) return -1;
    static __thread int16_t whole[BLOCK * MOST_INPUTS] __attribute__((aligned(64)));
    float worth[BLOCK];
    for (long first = 0; first < rows; first += BLOCK) {
        const long some = rows - first < BLOCK ? rows - first : BLOCK;
        for (long i = 0; i < some; i++) worth[i] = quantize(x + (first + i) * inputs, whole + i * inputs, inputs);
        for (long column = 0; column < outputs; column += COLUMNS) {
            const int16_t *panel = panels + column * inputs;
            for (long i = 0; i < some; i += ROWS) {
                const long place = (first + i) * outputs + column;
#define TILE(count) \
    tile(whole + i * inputs, worth + i, panel, scales + column, bias + column, other + place, out + place, inputs, \
         outputs, then, count)
                switch (some - i) {
                case 1: TILE(1); break;
                case 2: TILE(2); break;
                case 3: TILE(3); break;
                case 4: TILE(4); break;
                case 5: TILE(5); break;
                default: TILE(ROWS);
                }
            }
        }
    }
    return 0;
}

// One head of one text: sixteen queries at a time, a query a lane, so that nothing is summed across lanes.
__attribute__((always_inline)) static inline void attend(
    const float *query, const float *key, const float *value, float *out, long length, long from, long to,
    float scale, const int width
) {
    static __thread float scores[(LONGEST + KEYS) * QUERIES] __attribute__((aligned(64)));
    static __thread float keys[(LONGEST + KEYS) * WIDEST] __attribute__((aligned(64)));
    float turned[WIDEST * QUERIES] __attribute__((aligned(64))), shares[QUERIES] __attribute__((aligned(32)));
    // Keys one after the other: as they lie among queries and values, many of them share a line of the cache.
    for (long j = 0; j < length; j++)
        for (int d = 0; d < width; d += LANES) _mm256_store_ps(keys + j * width + d, _mm256_loadu_ps(key + j * from + d));
    for (long j = length; j % KEYS; j++)
        for (int d = 0; d < width; d += LANES) _mm256_store_ps(keys + j * width + d, _mm256_setzero_ps());
    for (long first = 0; first < length; first += QUERIES) {
        const long queries = length - first < QUERIES ? length - first : QUERIES;
        // Queries as [dim][query].
        for (long i = 0; i < QUERIES; i++)
            for (int d = 0; d < width; d++) turned[d * QUERIES + i] = i < queries ? query[(first + i) * from + d] : 0.0f;
        __m256 largest[2] = {_mm256_set1_ps(-3.0e38f), _mm256_set1_ps(-3.0e38f)};
        for (long j = 0; j < length; j += KEYS) {
            __m256 sums[KEYS][2];
#pragma GCC unroll 4
            for (int k = 0; k < KEYS; k++) sums[k][0] = sums[k][1] = _mm256_setzero_ps();
            for (int d = 0; d < width; d++) {
                const __m256 left = _mm256_load_ps(turned + d * QUERIES);
                const __m256 right = _mm256_load_ps(turned + d * QUERIES + LANES);
#pragma GCC unroll 4
                for (int k = 0; k < KEYS; k++) {
                    const __m256 dim = _mm256_set1_ps(keys[(j + k) * width + d]);
                    sums[k][0] = _mm256_fmadd_ps(left, dim, sums[k][0]);
                    sums[k][1] = _mm256_fmadd_ps(right, dim, sums[k][1]);
                }
            }
#pragma GCC unroll 4
            for (int k = 0; k < KEYS; k++)
#pragma GCC unroll 2
                for (int half = 0; half < 2; half++) {
                    if (j + k < length) largest[half] = _mm256_max_ps(largest[half], sums[k][half]);
                    _mm256_store_ps(scores + (j + k) * QUERIES + half * LANES, sums[k][half]);
                }
        }
        const __m256 factor = _mm256_set1_ps(scale);
        for (int half = 0; half < 2; half++) {
            const __m256 shift = _mm256_mul_ps(largest[half], _mm256_set1_ps(-scale));
            __m256 total = _mm256_setzero_ps();
            for (float *score = scores + half * LANES; score < scores + length * QUERIES; score += QUERIES) {
                const __m256 weight = exp2_of(_mm256_fmadd_ps(_mm256_load_ps(score), factor, shift));
                total = _mm256_add_ps(total, weight);
                _mm256_store_ps(score, weight);
            }
            _mm256_store_ps(shares + half * LANES, _mm256_div_ps(_mm256_set1_ps(1.0f), total));
        }
        for (long i = 0; i < queries; i += 2)
            for (int d = 0; d < width; d += 4 * LANES) {
                __m256 sums[2][4];
#pragma GCC unroll 4
                for (int part = 0; part < 4; part++) sums[0][part] = sums[1][part] = _mm256_setzero_ps();
                for (long j = 0; j < length; j++) {
                    const __m256 even = _mm256_set1_ps(scores[j * QUERIES + i]);
                    const __m256 odd = _mm256_set1_ps(scores[j * QUERIES + i + 1]);
#pragma GCC unroll 4
                    for (int part = 0; part < 4; part++) {
                        const __m256 dims = _mm256_loadu_ps(value + j * from + d + part * LANES);
                        sums[0][part] = _mm256_fmadd_ps(even, dims, sums[0][part]);
                        sums[1][part] = _mm256_fmadd_ps(odd, dims, sums[1][part]);
                    }
                }
#pragma GCC unroll 2
                for (int one = 0; one < 2; one++)
                    if (i + one < queries)
#pragma GCC unroll 4
                        for (int part = 0; part < 4; part++)
                            _mm256_storeu_ps(
                                out + (first + i + one) * to + d + part * LANES,
                                _mm256_mul_ps(sums[one][part], _mm256_set1_ps(shares[i + one]))
                            );
            }
    }
}

// Whether heads have 32, 64 or 128 dims, and texts of at most 512 rows lie end to end and fill all rows.
// spans: [groups][3]: first row, texts and length of texts of one length.
static int attends(const long *spans, long groups, long rows, long hidden, long heads) {
    const long width = heads > 0 ? hidden / heads : 0;
    if (width * heads != hidden || (width != 32 && width != 64 && width != 128)) return 0;
    long next = 0;
    for (const long *span = spans; span < spans + 3 * groups; span += 3) {
        const long start = span[0], texts = span[1], length = span[2];
        if (start != next || length < 1 || length > LONGEST || texts < 1 || texts > (rows - start) / length) return 0;
        next = start + texts * length;
    }
    return next == rows;
}

// qkv: float [rows, 3 * hidden]; out: float [rows, hidden]; scale holds 1 / sqrt(dims of a head) times log2(e).
// What `attends` refuses is -1, and nothing is touched.
int attention(
    const float *qkv, float *out, const long *spans, long groups, long rows, long hidden, long heads, float scale
) {
    if (!attends(spans, groups, rows, hidden, heads)) return -1;
    const long width = hidden / heads;
    for (const long *span = spans; span < spans + 3 * groups; span += 3)
        for (long text = 0; text < span[1]; text++)
            for (long head = 0; head < heads; head++) {
                const long length = span[2], row = span[0] + text * length;
                const float *query = qkv + row * 3 * hidden + head * width;
                const float *key = query + hidden, *value = query + 2 * hidden;
                float *target = out + row * hidden + head * width;
                if (width == 32) attend(query, key, value, target, length, 3 * hidden, hidden, scale, 32);
                else if (width == 64) attend(query, key, value, target, length, 3 * hidden, hidden, scale, 64);
                else attend(query, key, value, target, length, 3 * hidden, hidden, scale, 128);
            }
    return 0;
}

// LayerNorm of float [rows, hidden], in place.
static inline void normalize(float *x, const float *weight, const float *bias, long rows, long hidden, float eps) {
    const float share = 1.0f / (float)hidden;
    for (float *row = x; row < x + rows * hidden; row += hidden) {
        __m256 sum = _mm256_setzero_ps(), squares = _mm256_setzero_ps();
        for (long j = 0; j < hidden; j += LANES) sum = _mm256_add_ps(sum, _mm256_loadu_ps(row + j));
        const __m256 mean = _mm256_set1_ps(sum_of(sum) * share);
        for (long j = 0; j < hidden; j += LANES) {
            const __m256 apart = _mm256_sub_ps(_mm256_loadu_ps(row + j), mean);
            squares = _mm256_fmadd_ps(apart, apart, squares);
        }
        const __m256 factor = _mm256_div_ps(
            _mm256_set1_ps(1.0f), _mm256_sqrt_ps(_mm256_set1_ps(sum_of(squares) * share + eps))
        );
        for (long j = 0; j < hidden; j += LANES) {
            const __m256 apart = _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(row + j), mean), factor);
            _mm256_storeu_ps(row + j, _mm256_fmadd_ps(apart, _mm256_loadu_ps(weight + j), _mm256_loadu_ps(bias + j)));
        }
    }
}

typedef struct {
    const int16_t *panels;
    const float *scales, *bias;
} Map;

typedef struct {
    Map qkv, output, up, down;
    const float *attention_weight, *attention_bias, *output_weight, *output_bias;
} Layer;

// Some layers of a BERT-like model, one after the other, on texts that lie end to end; in place.
// states: float [rows, hidden]; spans: [groups][3]: first row, texts and length of texts of one length;
// room: float [rows * 4 * hidden + 48 * (inner + hidden)], whatever it holds.
// Limits are those of linear and attention; else -1, and nothing is touched.
int layers(
    float *states, const Layer *all, const long *spans, float *room, long count, long groups, long rows, long hidden,
    long inner, long heads, float eps, float scale
) {
    if (hidden < COLUMNS || hidden > MOST_INPUTS || hidden % COLUMNS) return -1;
    if (inner < COLUMNS || inner > MOST_INPUTS || inner % COLUMNS) return -1;
    if (!attends(spans, groups, rows, hidden, heads)) return -1;
    float *qkv = room, *attended = qkv + rows * 3 * hidden, *wide = attended + rows * hidden;
    float *sums = wide + BLOCK * inner;
    for (const Layer *layer = all; layer < all + count; layer++) {
        const Map *map = &layer->qkv;
        linear(states, map->panels, map->scales, map->bias, qkv, qkv, rows, hidden, 3 * hidden, PLAIN);
        attention(qkv, attended, spans, groups, rows, hidden, heads, scale);
        // Block by block to the end of the layer, so that what lies between the maps stays in the cache.
        for (long first = 0; first < rows; first += BLOCK) {
            const long some = rows - first < BLOCK ? rows - first : BLOCK;
            float *block = states + first * hidden;
            map = &layer->output;
            linear(attended + first * hidden, map->panels, map->scales, map->bias, block, sums, some, hidden, hidden, PLUS);
            normalize(sums, layer->attention_weight, layer->attention_bias, some, hidden, eps);
            map = &layer->up;
            linear(sums, map->panels, map->scales, map->bias, wide, wide, some, hidden, inner, GELU);
            map = &layer->down;
            linear(wide, map->panels, map->scales, map->bias, sums, block, some, inner, hidden, PLUS);
            normalize(block, layer->output_weight, layer->output_bias, some, hidden, eps);
        }
    }
    return 0;
}
