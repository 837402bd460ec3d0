/* avx512.c - kernels for x86-64 with AVX-512 F, BW, VL, DQ and VNNI; with AMX, products of many vectors are those of
 * amx.c. */
#include "isa.h"

#if LN_X86_64

#include "amx.h"
#include "avx512_vectors.h"

#include "float_kernels.h"

#define CODES_FILL_BYTES 1

static inline __m512i four_columns(const int8_t *x) {
    int32_t columns;
    memcpy(&columns, x, sizeof columns);
    return _mm512_set1_epi32(columns);
}

#include "panel_formats.h"

static LN_ALWAYS_INLINE ivec code_operand(ln_panel_format f, ivec codes) {
    (void)f;
    return codes;
}

/* VNNI multiplies unsigned by signed bytes: the codes stay unsigned and the bias takes their offset off. */
static LN_ALWAYS_INLINE vec dot(ln_panel_format f, const ivec *codes, int n, const int8_t *x, int32_t bias) {
    __m512i sum = _mm512_set1_epi32(f.offset != 0 ? bias : 0);
    LN_UNROLL for (int k = 0; k < n; k++) {
        sum = _mm512_dpbusd_epi32(sum, codes[k], four_columns(x + 4 * k));
    }
    return _mm512_cvtepi32_ps(sum);
}

#include "panel_kernels.h"

#include "attention_kernels.h"

/* What both tables have in common. */
#define FLOAT_MATMULS [LN_TYPE_F32] = matmul_f32, [LN_TYPE_F16] = matmul_f16, [LN_TYPE_BF16] = matmul_bf16
#define SHARED_KERNELS                                                                                               \
    .quantize_q8 = ln_quantize_q8_avx2, .rms_norm = rms_norm, .layer_norm = layer_norm, .activate = ACTIVATIONS,     \
    .soft_cap = soft_cap, .add = add, .f32_to_f16 = f32_to_f16, .attend = attend, .merge = merge

const ln_kernels ln_avx512_kernels = {
    .name = "avx512",
    .available = ln_cpu_runs_avx512,
    .matmul = {FLOAT_MATMULS, PANEL_MATMULS},
    SHARED_KERNELS,
};

const ln_kernels ln_amx_kernels = {
    .name = "amx",
    .available = ln_cpu_runs_amx,
    .matmul = {FLOAT_MATMULS, AMX_MATMULS},
    SHARED_KERNELS,
};

#endif
