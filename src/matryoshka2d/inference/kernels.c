// Linear maps, attention, embeddings and LayerNorm for bf16 on processors with AVX512-BF16, for texts that are laid
// end to end.
// Compiled by kernels.py at first use; everything here has a plain torch form in packed.py that it must equal.

#include <immintrin.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

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

// Two rows of 32 bf16 as one row of pairs for the first 16 columns, and one for the others.
static inline void interleave(__m512i even, __m512i odd, __m512i *first, __m512i *second) {
    int16_t low[32] __attribute__((aligned(64))), high[32] __attribute__((aligned(64)));
    for (int i = 0; i < 16; i++) {
        low[2 * i] = (int16_t)i;
        low[2 * i + 1] = (int16_t)(32 + i);
        high[2 * i] = (int16_t)(16 + i);
        high[2 * i + 1] = (int16_t)(48 + i);
    }
    *first = _mm512_permutex2var_epi16(even, _mm512_load_si512(low), odd);
    *second = _mm512_permutex2var_epi16(even, _mm512_load_si512(high), odd);
}

// Two vectors of floats as pairs of bf16.
static inline __m512i paired(__m512 even, __m512 odd) {
    __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(even));
    __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(odd));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

// One head of one text: sixteen queries at a time, a query a lane, so that nothing is summed across lanes.
// Both products multiply pairs: of dims for the scores, of keys for the values.
__attribute__((always_inline)) static inline void attend(
    const bf16 *query, const bf16 *key, const bf16 *value, bf16 *out, long length, long from, long to,
    float scale, const int width
) {
    static __thread float scores[LONGEST * LANES] __attribute__((aligned(64)));
    static __thread int32_t weights[LONGEST / 2 * LANES] __attribute__((aligned(64)));
    static __thread int32_t keys[LONGEST * 32] __attribute__((aligned(64)));
    static __thread int32_t values[LONGEST / 2 * 64] __attribute__((aligned(64)));
    float shares[LANES] __attribute__((aligned(64)));
    const int pairs = width / 2, rows = LANES * 32 / width / 2, parts = width / LANES;
    // Keys one after the other: as they lie among queries and values, many of them share a line of the cache.
    for (long j = 0; j < length; j++)
        for (int half = 0; half < width; half += 32)
            _mm512_store_si512(keys + (j * width + half) / 2, _mm512_loadu_si512(key + j * from + half));
    // Values as [pair of keys][dim].
    for (long j = 0; j < length; j += 2)
        for (int half = 0; half < width; half += 32) {
            __m512i even = _mm512_loadu_si512(value + j * from + half);
            __m512i odd = j + 1 < length ? _mm512_loadu_si512(value + (j + 1) * from + half) : _mm512_setzero_si512();
            __m512i one, other;
            interleave(even, odd, &one, &other);
            _mm512_store_si512(values + j / 2 * width + half, one);
            _mm512_store_si512(values + j / 2 * width + half + LANES, other);
        }
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
            const int32_t *dims = keys + j * pairs;
            __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
            for (int p = 0; p < pairs; p += 2) {
                even = _mm512_dpbf16_ps(even, (__m512bh)turned[p], (__m512bh)_mm512_set1_epi32(dims[p]));
                odd = _mm512_dpbf16_ps(odd, (__m512bh)turned[p + 1], (__m512bh)_mm512_set1_epi32(dims[p + 1]));
            }
            __m512 score = _mm512_add_ps(even, odd);
            largest = _mm512_max_ps(largest, score);
            _mm512_store_ps(scores + j * LANES, score);
        }
        if (length % 2) _mm512_store_ps(scores + length * LANES, _mm512_set1_ps(-3.0e38f));
        const __m512 factor = _mm512_set1_ps(scale), shift = _mm512_mul_ps(largest, _mm512_set1_ps(-scale));
        __m512 total = _mm512_setzero_ps();
        for (long j = 0; j < length; j += 2) {
            __m512 even = exp2_of(_mm512_fmadd_ps(_mm512_load_ps(scores + j * LANES), factor, shift));
            __m512 odd = exp2_of(_mm512_fmadd_ps(_mm512_load_ps(scores + (j + 1) * LANES), factor, shift));
            total = _mm512_add_ps(total, _mm512_add_ps(even, odd));
            _mm512_store_si512(weights + j / 2 * LANES, paired(even, odd));
        }
        _mm512_store_ps(shares, _mm512_div_ps(_mm512_set1_ps(1.0f), total));
        for (long row = 0; row < queries; row += rows) {
            __m512 sums[LANES];
            for (int i = 0; i < LANES; i++) sums[i] = _mm512_setzero_ps();
            for (long pair = 0; pair < (length + 1) / 2; pair++) {
                const int32_t *weight = weights + pair * LANES + row;
                for (int part = 0; part < parts; part++) {
                    __m512bh dims = (__m512bh)_mm512_load_si512(values + pair * width + part * LANES);
                    for (int i = 0; i < rows; i++)
                        sums[i * parts + part] = _mm512_dpbf16_ps(
                            sums[i * parts + part], (__m512bh)_mm512_set1_epi32(weight[i]), dims
                        );
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

#ifdef __AMX_BF16__

#define TILE 16
#define PADDED (LONGEST + 2 * TILE)

// Every tile holds 16 rows of 64 bytes: 16 x 32 bf16, or 16 x 16 float.
static void configure_tiles(void) {
    struct {
        uint8_t palette, first_row, unused[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } config __attribute__((aligned(64))) = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.bytes[i] = 64;
        config.rows[i] = TILE;
    }
    _tile_loadconfig(&config);
}

// One head of one longer text on the matrix unit: sixteen queries against sixteen keys at a time.
__attribute__((always_inline)) static inline void attend_in_tiles(
    const bf16 *query, const bf16 *key, const bf16 *value, bf16 *out, long length, long from, long to,
    float scale, const int width
) {
    static __thread bf16 keys[PADDED * 64] __attribute__((aligned(64)));
    static __thread bf16 values[PADDED * 64] __attribute__((aligned(64)));
    static __thread float scores[TILE * PADDED] __attribute__((aligned(64)));
    static __thread bf16 weights[TILE * PADDED] __attribute__((aligned(64)));
    bf16 rows[TILE * 64] __attribute__((aligned(64)));
    float sums[TILE * TILE] __attribute__((aligned(64))), shares[TILE];
    const int steps = width / 32, parts = width / TILE;
    const long padded = (length + 31) / 32 * 32;
    // Keys of each block as [pair of dims][key], values as [pair of keys][dim].
    for (long first = 0; first < padded; first += TILE)
        for (int step = 0; step < steps; step++) {
            __m512i r[LANES];
            for (int i = 0; i < LANES; i++)
                r[i] = first + i < length ? _mm512_loadu_si512(key + (first + i) * from + 32 * step)
                                          : _mm512_setzero_si512();
            transpose(r);
            for (int i = 0; i < LANES; i++) _mm512_store_si512(keys + (first * steps + TILE * step + i) * 32, r[i]);
        }
    for (long first = 0; first < padded; first += 2)
        for (int step = 0; step < steps; step++) {
            __m512i even = first < length ? _mm512_loadu_si512(value + first * from + 32 * step) : _mm512_setzero_si512();
            __m512i odd =
                first + 1 < length ? _mm512_loadu_si512(value + (first + 1) * from + 32 * step) : _mm512_setzero_si512();
            __m512i one, other;
            interleave(even, odd, &one, &other);
            bf16 *place = values + first / 32 * 32 * width + first % 32 / 2 * 32;
            _mm512_store_si512(place + (2 * step) * 16 * 32, one);
            _mm512_store_si512(place + (2 * step + 1) * 16 * 32, other);
        }
    for (long first = 0; first < length; first += TILE) {
        const long queries = length - first < TILE ? length - first : TILE;
        for (int i = 0; i < TILE; i++)
            for (int step = 0; step < steps; step++)
                _mm512_store_si512(
                    rows + i * width + 32 * step,
                    i < queries ? _mm512_loadu_si512(query + (first + i) * from + 32 * step) : _mm512_setzero_si512()
                );
        _tile_loadd(1, rows, width * 2);
        if (steps == 2) _tile_loadd(2, rows + 32, width * 2);
        for (long block = 0; block < padded; block += TILE) {
            _tile_zero(0);
            _tile_loadd(3, keys + block * steps * 32, 64);
            _tile_dpbf16ps(0, 1, 3);
            if (steps == 2) {
                _tile_loadd(3, keys + (block * steps + TILE) * 32, 64);
                _tile_dpbf16ps(0, 2, 3);
            }
            _tile_stored(0, scores + block, PADDED * 4);
        }
        for (int i = 0; i < TILE; i++) {
            float *score = scores + i * PADDED;
            bf16 *weight = weights + i * PADDED;
            for (long j = length; j < padded; j++) score[j] = -3.0e38f;
            __m512 largest = _mm512_load_ps(score);
            for (long j = LANES; j < padded; j += LANES) largest = _mm512_max_ps(largest, _mm512_load_ps(score + j));
            const __m512 shift = _mm512_set1_ps(-_mm512_reduce_max_ps(largest) * scale);
            __m512 total = _mm512_setzero_ps();
            for (long j = 0; j < padded; j += LANES) {
                __m512 x = exp2_of(_mm512_fmadd_ps(_mm512_load_ps(score + j), _mm512_set1_ps(scale), shift));
                total = _mm512_add_ps(total, x);
                narrow(weight + j, x);
            }
            shares[i] = 1.0f / _mm512_reduce_add_ps(total);
        }
        for (int part = 0; part < parts; part++) {
            _tile_zero(0);
            for (long block = 0; block < padded; block += 32) {
                _tile_loadd(1, weights + block, PADDED * 2);
                _tile_loadd(2, values + block * width + part * 16 * 32, 64);
                _tile_dpbf16ps(0, 1, 2);
            }
            _tile_stored(0, sums, TILE * 4);
            for (int i = 0; i < queries; i++)
                narrow(
                    out + (first + i) * to + part * TILE,
                    _mm512_mul_ps(_mm512_load_ps(sums + i * TILE), _mm512_set1_ps(shares[i]))
                );
        }
    }
}

// Ask the kernel for the use of tiles; 0 if this process may.
int permit_tiles(void) { return (int)syscall(SYS_arch_prctl, 0x1023, 18); }

#else

int permit_tiles(void) { return -1; }

#endif

// qkv: bf16 [texts * length, 3 * heads * width]; out: bf16 [texts * length, heads * width].
// width is 32 or 64, length at most 512; else -1. scale holds 1 / sqrt(width) times log2(e). tiles: whether to use them.
int attention(
    const bf16 *qkv, bf16 *out, long texts, long length, long heads, long width, float scale, int tiles
) {
    if (length < 1 || length > LONGEST || (width != 32 && width != 64)) return -1;
    const long hidden = heads * width;
#ifdef __AMX_BF16__
    if (tiles) configure_tiles();
#endif
    for (long text = 0; text < texts; text++)
        for (long head = 0; head < heads; head++) {
            const bf16 *query = qkv + text * length * 3 * hidden + head * width;
            const bf16 *key = query + hidden, *value = query + 2 * hidden;
            bf16 *target = out + text * length * hidden + head * width;
#ifdef __AMX_BF16__
            if (tiles) {
                if (width == 32) attend_in_tiles(query, key, value, target, length, 3 * hidden, hidden, scale, 32);
                else attend_in_tiles(query, key, value, target, length, 3 * hidden, hidden, scale, 64);
                continue;
            }
#endif
            if (width == 32) attend(query, key, value, target, length, 3 * hidden, hidden, scale, 32);
            else attend(query, key, value, target, length, 3 * hidden, hidden, scale, 64);
        }
#ifdef __AMX_BF16__
    if (tiles) _tile_release();
#else
    (void)tiles;
#endif
    return 0;
}

// row: float [hidden], overwritten; sum: its values, summed lane by lane.
static inline void normalize(
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

// words, places: float tables of rows of hidden; ids and positions: which rows to add for each token. hidden is a
// multiple of 16, at most 4096; else -1.
int embed(
    const int64_t *ids, const int64_t *positions, const float *words, const float *places, bf16 *out,
    const float *weight, const float *bias, long rows, long hidden, float eps
) {
    float row[WIDEST] __attribute__((aligned(64)));
    if (hidden < LANES || hidden > WIDEST || hidden % LANES) return -1;
    for (long i = 0; i < rows; i++, out += hidden) {
        const float *word = words + ids[i] * hidden, *place = places + positions[i] * hidden;
        __m512 sum = _mm512_setzero_ps();
        for (long j = 0; j < hidden; j += LANES) {
            __m512 x = _mm512_add_ps(_mm512_loadu_ps(word + j), _mm512_loadu_ps(place + j));
            sum = _mm512_add_ps(sum, x);
            _mm512_store_ps(row + j, x);
        }
        normalize(row, sum, out, weight, bias, hidden, eps);
    }
    return 0;
}

// states, out: bf16 [rows, hidden]; weight, bias: float [hidden]; hidden a multiple of 16, at most 4096; else -1.
int layer_norm(
    const bf16 *states, bf16 *out, const float *weight, const float *bias, long rows, long hidden, float eps
) {
    float row[WIDEST] __attribute__((aligned(64)));
    if (hidden < LANES || hidden > WIDEST || hidden % LANES) return -1;
    for (long i = 0; i < rows; i++, states += hidden, out += hidden) {
        __m512 sum = _mm512_setzero_ps();
        for (long j = 0; j < hidden; j += LANES) {
            __m512 x = widen(states + j);
            sum = _mm512_add_ps(sum, x);
            _mm512_store_ps(row + j, x);
        }
        normalize(row, sum, out, weight, bias, hidden, eps);
    }
    return 0;
}

// Linear maps: fourteen rows by 32 columns are summed in registers, over pairs of inputs.

#define ROWS 14
#define COLUMNS 32
#define BLOCKS 8
#define MOST_INPUTS 4096

enum { PLAIN, GELU, PLUS };

// x / 2 * (1 + erf(x / sqrt(2))), with erf to about 2e-7: Abramowitz and Stegun, 7.1.26.
static inline __m512 gelu(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f), z = _mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(0.70710678f));
    const __m512 t = _mm512_rcp14_ps(_mm512_fmadd_ps(z, _mm512_set1_ps(0.3275911f), one));
    __m512 y = _mm512_set1_ps(1.061405429f);
    y = _mm512_fmadd_ps(y, t, _mm512_set1_ps(-1.453152027f));
    y = _mm512_fmadd_ps(y, t, _mm512_set1_ps(1.421413741f));
    y = _mm512_fmadd_ps(y, t, _mm512_set1_ps(-0.284496736f));
    y = _mm512_fmadd_ps(y, t, _mm512_set1_ps(0.254829592f));
    const __m512 square = _mm512_mul_ps(_mm512_mul_ps(z, z), _mm512_set1_ps(-1.44269504f));
    const __m512 rest = _mm512_mul_ps(_mm512_mul_ps(y, t), exp2_of(square));
    // The rest is 1 - erf(|x| / sqrt(2)): what is missing on the side of x, and all there is on the other.
    const __mmask16 negative = _mm512_movepi32_mask(_mm512_castps_si512(x));
    const __m512 share = _mm512_mask_sub_ps(rest, (__mmask16)~negative, _mm512_set1_ps(2.0f), rest);
    return _mm512_mul_ps(_mm512_mul_ps(x, _mm512_set1_ps(0.5f)), share);
}

// x: bf16 [rows, inputs]; packed: [pair of inputs][row], ROWS rows.
static inline void pack_rows(const bf16 *x, int32_t *packed, long rows, long inputs) {
    const long pairs = inputs / 2;
    for (long first = 0; first < pairs; first += LANES) {
        const __mmask16 some = pairs - first < LANES ? (__mmask16)((1 << (pairs - first)) - 1) : (__mmask16)0xffff;
        __m512i r[LANES];
        for (int i = 0; i < LANES; i++)
            r[i] = i < rows ? _mm512_maskz_loadu_epi32(some, x + i * inputs + 2 * first) : _mm512_setzero_si512();
        transpose(r);
        for (int i = 0; i < LANES && first + i < pairs; i++)
            _mm512_mask_storeu_epi32(packed + (first + i) * ROWS, (1 << ROWS) - 1, r[i]);
    }
}

__attribute__((always_inline)) static inline void multiply(
    const int32_t *packed, const bf16 *panel, const float *bias, const bf16 *other, bf16 *out, long pairs,
    long outputs, int then, const int rows
) {
    __m512 sums[ROWS][2];
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++) {
        sums[r][0] = _mm512_loadu_ps(bias);
        sums[r][1] = _mm512_loadu_ps(bias + LANES);
    }
    for (long p = 0; p < pairs; p++, packed += ROWS, panel += 2 * COLUMNS) {
        const __m512bh left = (__m512bh)_mm512_loadu_si512(panel), right = (__m512bh)_mm512_loadu_si512(panel + COLUMNS);
#pragma GCC unroll 14
        for (int r = 0; r < rows; r++) {
            const __m512bh x = (__m512bh)_mm512_set1_epi32(packed[r]);
            sums[r][0] = _mm512_dpbf16_ps(sums[r][0], x, left);
            sums[r][1] = _mm512_dpbf16_ps(sums[r][1], x, right);
        }
    }
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            __m512 y = sums[r][half];
            if (then == GELU) y = gelu(y);
            if (then == PLUS) y = _mm512_add_ps(y, widen(other + r * outputs + half * LANES));
            narrow(out + r * outputs + half * LANES, y);
        }
}

// x: bf16 [rows, inputs]; panels: bf16 [outputs / 32, inputs / 2, 32, 2]; bias: float [outputs]; out, and other where
// it is added: bf16 [rows, outputs]. inputs is even and at most 4096, outputs a multiple of 32; else -1.
int linear(
    const bf16 *x, const bf16 *panels, const float *bias, const bf16 *other, bf16 *out, long rows, long inputs,
    long outputs, int then
) {
    static __thread int32_t packed[BLOCKS * ROWS * MOST_INPUTS / 2] __attribute__((aligned(64)));
    const long pairs = inputs / 2;
    if (inputs < 2 || inputs > MOST_INPUTS || inputs % 2 || outputs % COLUMNS) return -1;
    // A panel of weights stays in the nearest cache while a few blocks of rows pass.
    for (long start = 0; start < rows; start += BLOCKS * ROWS) {
        const long stop = rows - start < BLOCKS * ROWS ? rows : start + BLOCKS * ROWS;
        for (long first = start; first < stop; first += ROWS)
            pack_rows(
                x + first * inputs, packed + (first - start) * pairs, stop - first < ROWS ? stop - first : ROWS, inputs
            );
        for (long column = 0; column < outputs; column += COLUMNS)
            for (long first = start; first < stop; first += ROWS) {
                const int32_t *block = packed + (first - start) * pairs;
                const bf16 *panel = panels + column * inputs, *added = other + first * outputs + column;
                bf16 *place = out + first * outputs + column;
                switch (stop - first) {
#define CASE(n) \
    case n: multiply(block, panel, bias + column, added, place, pairs, outputs, then, n); break;
                    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7)
                    CASE(8) CASE(9) CASE(10) CASE(11) CASE(12) CASE(13)
                    default: multiply(block, panel, bias + column, added, place, pairs, outputs, then, ROWS);
                }
            }
    }
    return 0;
}
