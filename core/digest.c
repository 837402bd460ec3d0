/* digest.c - 64 bits that stand for any number of bytes, as fast as memory is read. */
#include <string.h>

#include "core.h"

#define WORD sizeof(uint64_t)
#define LANES 4 /* chains of products side by side: one alone would wait for each of them */

static const uint64_t factors[LANES] = {0x9e3779b97f4a7c15u, 0xd1b54a32d192ed03u, 0xa0761d6478bd642fu,
                                        0xe7037ed1a0b428dbu}; /* odd: no product loses anything of what came before */

static uint64_t load(const uint8_t *p, size_t n) {
    uint64_t word = 0;
    memcpy(&word, p, n);
    return word;
}

/* A bijection of either argument: two inputs that differ in one word only never meet again. */
static uint64_t mixed(uint64_t lane, uint64_t word, uint64_t factor) {
    const uint64_t product = (lane ^ word) * factor;
    return product << 31 | product >> 33;
}

/* Every bit of the result depends on every bit of h (Steele et al. 2014, SplitMix64). */
static uint64_t finished(uint64_t h) {
    h = (h ^ h >> 30) * 0xbf58476d1ce4e5b9u;
    h = (h ^ h >> 27) * 0x94d049bb133111ebu;
    return h ^ h >> 31;
}

uint64_t ln_digest(const void *data, size_t size, uint64_t before) {
    const uint8_t *p = data;
    uint64_t lanes[LANES];
    for (int i = 0; i < LANES; i++) {
        lanes[i] = before + factors[i];
    }
    size_t left = size;
    for (; left >= LANES * WORD; left -= LANES * WORD, p += LANES * WORD) {
        for (int i = 0; i < LANES; i++) {
            lanes[i] = mixed(lanes[i], load(p + (size_t)i * WORD, WORD), factors[i]);
        }
    }
    for (; left > 0; left -= left < WORD ? left : WORD, p += WORD) {
        lanes[0] = mixed(lanes[0], load(p, left < WORD ? left : WORD), factors[0]);
    }
    uint64_t h = size;
    for (int i = 0; i < LANES; i++) {
        h = mixed(finished(lanes[i]), h, factors[i]);
    }
    return finished(h);
}
