/* select.c - which kernel tables this build holds and which of them this processor runs. */
#if !defined(_WIN32) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* syscall */
#endif
#include <string.h>

#include "isa.h"

#if LN_X86_64

#include <cpuid.h>

/* Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E. */
#define LEAF1_ECX_FMA (1u << 12)
#define LEAF1_ECX_OSXSAVE (1u << 27)
#define LEAF1_ECX_AVX (1u << 28)
#define LEAF1_ECX_F16C (1u << 29)
#define LEAF7_EBX_AVX2 (1u << 5)
#define LEAF7_EBX_AVX512 (1u << 16 | 1u << 17 | 1u << 30 | 1u << 31) /* F, DQ, BW, VL */
#define LEAF7_ECX_VNNI (1u << 11)
#define LEAF7_EDX_AMX (1u << 24 | 1u << 25) /* tiles, products of int8 */
#define XCR0_YMM 0x06u /* xmm and ymm registers are saved on a context switch */
#define XCR0_ZMM 0xe6u /* and the mask registers and both parts of zmm */
#define XCR0_TILES 0x60000u /* configuration and data of tiles */

static int has_all(unsigned value, unsigned wanted) {
    return (value & wanted) == wanted;
}

/* XCR0, the register state the operating system saves; written as bytes because the
 * intrinsic would need this file to be compiled for processors that have XSAVE. */
static unsigned saved_state(void) {
    unsigned low, high;
    __asm__ volatile(".byte 0x0f, 0x01, 0xd0" : "=a"(low), "=d"(high) : "c"(0));
    (void)high;
    return low;
}

int ln_cpu_runs_avx2(void) {
    unsigned eax, ebx, ecx, edx;
    unsigned leaf1 = LEAF1_ECX_FMA | LEAF1_ECX_OSXSAVE | LEAF1_ECX_AVX | LEAF1_ECX_F16C;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !has_all(ecx, leaf1) || !has_all(saved_state(), XCR0_YMM)) {
        return 0;
    }
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && has_all(ebx, LEAF7_EBX_AVX2);
}

int ln_cpu_runs_avx512(void) {
    unsigned eax, ebx, ecx, edx;
    if (!ln_cpu_runs_avx2() || !has_all(saved_state(), XCR0_ZMM)) {
        return 0;
    }
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && has_all(ebx, LEAF7_EBX_AVX512) &&
           has_all(ecx, LEAF7_ECX_VNNI);
}

#if defined(__linux__)

#include <sys/syscall.h>
#include <unistd.h>

/* Linux keeps tiles for a process only once it has asked (Documentation/arch/x86/xstate.rst). */
static int may_use_tiles(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

#else

static int may_use_tiles(void) {
    return 0; /* nobody to ask */
}

#endif

int ln_cpu_runs_amx(void) {
    unsigned eax, ebx, ecx, edx;
    if (!ln_cpu_runs_avx512() || !has_all(saved_state(), XCR0_TILES)) {
        return 0;
    }
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && has_all(edx, LEAF7_EDX_AMX) && may_use_tiles();
}

/* amx stands behind avx512 as long as nobody has measured it: it is used when it is asked for by name. */
static const ln_kernels *const tables[] = {
    &ln_avx512_kernels, &ln_amx_kernels, &ln_avx2_kernels, &ln_scalar_kernels, NULL,
};

#elif LN_AARCH64

int ln_cpu_runs_neon(void) {
    return 1; /* part of every ARMv8-A processor */
}

#if defined(__ARM_FEATURE_DOTPROD)

int ln_cpu_runs_dotprod(void) {
    return 1; /* the whole core is compiled for processors that have it: Apple silicon */
}

#elif defined(__APPLE__)

#include <sys/sysctl.h>

int ln_cpu_runs_dotprod(void) {
    int has = 0;
    size_t size = sizeof has;
    return sysctlbyname("hw.optional.arm.FEAT_DotProd", &has, &size, NULL, 0) == 0 && has;
}

#elif defined(__linux__)

#include <asm/hwcap.h>
#include <sys/auxv.h>

int ln_cpu_runs_dotprod(void) {
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
}

#elif defined(_WIN32)

#define WIN32_LEAN_AND_MEAN
#include <windows.h>

int ln_cpu_runs_dotprod(void) {
    return IsProcessorFeaturePresent(PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE) != 0;
}

#else

int ln_cpu_runs_dotprod(void) {
    return 0; /* nobody to ask */
}

#endif

static const ln_kernels *const tables[] = {&ln_neon_dotprod_kernels, &ln_neon_kernels, &ln_scalar_kernels, NULL};

#else

static const ln_kernels *const tables[] = {&ln_scalar_kernels, NULL};

#endif

const ln_kernels *const *ln_kernels_all(void) {
    return tables;
}

const ln_kernels *ln_kernels_select(const char *name) {
    for (const ln_kernels *const *table = tables; *table != NULL; table++) {
        int wanted = name[0] == '\0' || strcmp(name, (*table)->name) == 0;
        if (wanted && (*table)->available()) {
            return *table;
        }
    }
    return NULL;
}
