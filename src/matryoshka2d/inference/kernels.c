// Attention, embeddings and LayerNorm for bf16 on processors with AVX512-BF16, for texts that are laid end to end.
// Compiled by kernels.py at first use; everything here has a plain torch form in packed.py that it must equal.

#include <immintrin.h>
#include <stdint.h>

#define LANES 16
#define LONGEST 512
#define WIDEST 4096

typedef uint16_t bf16;

static inline __m512 widen(const bf16 *from) {
    __m256i half = _mm256_loadu_si256((const __m256i *)from);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

static inline void narrow(bf16 *to, __m512 values) {
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(values));
}

// 2^x for x <= 0, to about 2e-7.
static inline __m512 exp2_of(__m512 x) {
    x = _mm512_max_ps(x, _mm512_set1_ps(-126.0f));
    __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 part = _mm512_sub_ps(x, whole);
    __m512 y = _mm512_set1_ps(1.3333558e-3f);
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(9.6181291e-3f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(5.5504109e-2f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(2.4022651e-1f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(6.9314718e-1f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(y, whole);
}

static inline void transpose(__m512i r[LANES]) {
    __m512i t[LANES];
    for (int i = 0; i < LANES; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < LANES; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 8; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    }
}

// One head of one text: sixteen queries at a time, a query a lane, so that nothing is summed across lanes.
__attribute__((always_inline)) static inline void attend(
    const bf16 *query, const bf16 *key, const bf16 *value, bf16 *out, long length, long from, long to,
    float scale, const int width
) {
    float weights[LONGEST * LANES] __attribute__((aligned(64)));
    float shares[LANES] __attribute__((aligned(64)));
    const int pairs = width / 2, rows = LANES * 32 / width / 2, parts = width / LANES;
    for (long first = 0; first < length; first += LANES) {
        const long queries = length - first < LANES ? length - first : LANES;
        // Queries as [pair of dims][query].
        __m512i turned[32];
        for (int block = 0; block < pairs; block += LANES) {
            for (int i = 0; i < LANES; i++)
                turned[block + i] =
                    i < queries ? _mm512_loadu_si512(query + (first + i) * from + 2 * block) : _mm512_setzero_si512();
            transpose(turned + block);
        }
        __m512 largest = _mm512_set1_ps(-3.0e38f);
        for (long j = 0; j < length; j++) {
            const int32_t *keys = (const int32_t *)(key + j * from);
            __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
            for (int p = 0; p < pairs; p += 2) {
                even = _mm512_dpbf16_ps(even, (__m512bh)turned[p], (__m512bh)_mm512_set1_epi32(keys[p]));
                odd = _mm512_dpbf16_ps(odd, (__m512bh)turned[p + 1], (__m512bh)_mm512_set1_epi32(keys[p + 1]));
            }
            __m512 score = _mm512_mul_ps(_mm512_add_ps(even, odd), _mm512_set1_ps(scale));
            largest = _mm512_max_ps(largest, score);
            _mm512_store_ps(weights + j * LANES, score);
        }
        __m512 total = _mm512_setzero_ps();
        for (long j = 0; j < length; j++) {
            __m512 weight = exp2_of(_mm512_sub_ps(_mm512_load_ps(weights + j * LANES), largest));
            total = _mm512_add_ps(total, weight);
            _mm512_store_ps(weights + j * LANES, weight);
        }
        _mm512_store_ps(shares, _mm512_div_ps(_mm512_set1_ps(1.0f), total));
        for (long row = 0; row < queries; row += rows) {
            __m512 sums[LANES];
            for (int i = 0; i < LANES; i++) sums[i] = _mm512_setzero_ps();
            for (long j = 0; j < length; j++) {
                const float *weight = weights + j * LANES + row;
                for (int part = 0; part < parts; part++) {
                    __m512 values = widen(value + j * from + part * LANES);
                    for (int i = 0; i < rows; i++)
                        sums[i * parts + part] =
                            _mm512_fmadd_ps(_mm512_set1_ps(weight[i]), values, sums[i * parts + part]);
                }
            }
            for (int i = 0; i < rows; i++)
                if (row + i < queries)
                    for (int part = 0; part < parts; part++)
                        narrow(
                            out + (first + row + i) * to + part * LANES,
                            _mm512_mul_ps(sums[i * parts + part], _mm512_set1_ps(shares[row + i]))
                        );
        }
    }
}

// qkv: bf16 [texts * length, 3 * heads * width]; out: bf16 [texts * length, heads * width].
// width is 32 or 64, length at most 512. scale holds 1 / sqrt(width) times log2(e).
void attention(
    const bf16 *qkv, bf16 *out, long texts, long length, long heads, long width, float scale
) {
    const long hidden = heads * width;
    for (long text = 0; text < texts; text++)
        for (long head = 0; head < heads; head++) {
            const bf16 *query = qkv + text * length * 3 * hidden + head * width;
            bf16 *target = out + text * length * hidden + head * width;
            if (width == 32)
                attend(query, query + hidden, query + 2 * hidden, target, length, 3 * hidden, hidden, scale, 32);
            else
                attend(query, query + hidden, query + 2 * hidden, target, length, 3 * hidden, hidden, scale, 64);
        }
}

// row: float [hidden], overwritten; sum: its values, summed lane by lane.
static inline void normalise(
    float *row, __m512 sum, bf16 *out, const float *weight, const float *bias, long hidden, float eps
) {
    __m512 squares = _mm512_setzero_ps();
    const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / (float)hidden);
    for (long j = 0; j < hidden; j += LANES) {
        __m512 x = _mm512_sub_ps(_mm512_load_ps(row + j), mean);
        squares = _mm512_fmadd_ps(x, x, squares);
        _mm512_store_ps(row + j, x);
    }
    const float variance = _mm512_reduce_add_ps(squares) / (float)hidden + eps;
    const __m512 share = _mm512_set1_ps(1.0f / __builtin_sqrtf(variance));
    for (long j = 0; j < hidden; j += LANES) {
        __m512 x = _mm512_mul_ps(_mm512_load_ps(row + j), share);
        narrow(out + j, _mm512_fmadd_ps(x, _mm512_loadu_ps(weight + j), _mm512_loadu_ps(bias + j)));
    }
}

// words, places: float tables of rows of hidden; ids and positions: which rows to add for each token.
void embed(
    const int64_t *ids, const int64_t *positions, const float *words, const float *places, bf16 *out,
    const float *weight, const float *bias, long rows, long hidden, float eps
) {
    float row[WIDEST] __attribute__((aligned(64)));
    for (long i = 0; i < rows; i++, out += hidden) {
        const float *word = words + ids[i] * hidden, *place = places + positions[i] * hidden;
        __m512 sum = _mm512_setzero_ps();
        for (long j = 0; j < hidden; j += LANES) {
            __m512 x = _mm512_add_ps(_mm512_loadu_ps(word + j), _mm512_loadu_ps(place + j));
            sum = _mm512_add_ps(sum, x);
            _mm512_store_ps(row + j, x);
        }
        normalise(row, sum, out, weight, bias, hidden, eps);
    }
}

// states, out: bf16 [rows, hidden]; weight, bias: float [hidden]; hidden a multiple of 16, at most 4096.
void layer_norm(
    const bf16 *states, bf16 *out, const float *weight, const float *bias, long rows, long hidden, float eps
) {
    float row[WIDEST] __attribute__((aligned(64)));
    for (long i = 0; i < rows; i++, states += hidden, out += hidden) {
        __m512 sum = _mm512_setzero_ps();
        for (long j = 0; j < hidden; j += LANES) {
            __m512 x = widen(states + j);
            sum = _mm512_add_ps(sum, x);
            _mm512_store_ps(row + j, x);
        }
        normalise(row, sum, out, weight, bias, hidden, eps);
    }
}
