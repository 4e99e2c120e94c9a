// A scan plugin in C, without a libc call that would need WASI: the SHA-256 of the content, to find duplicates by.
// The algorithm is that of FIPS 180-4; tests compare it with its example values.

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "gen/plugin.h"

#define BLOCK 64
#define DIGEST 32

// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotate(uint32_t x, int by) { return x >> by | x << (32 - by); }

static void hash_block(uint32_t state[8], const uint8_t *block) {
    uint32_t w[64];
    for (int i = 0; i < 16; i++) {
        const uint8_t *at = block + 4 * i;
        w[i] = (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
    }
    for (int i = 16; i < 64; i++) {
        uint32_t s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }

    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int i = 0; i < 64; i++) {
        uint32_t s1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
        uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + K[i] + w[i];
        uint32_t s0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
        uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
        h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

static void sha256(const uint8_t *data, size_t len, uint8_t digest[DIGEST]) {
    // The first 32 bits of the fractional parts of the square roots of the first 8 primes.
    uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    size_t whole = len / BLOCK * BLOCK;
    for (size_t at = 0; at < whole; at += BLOCK) hash_block(state, data + at);

    // The rest, a 1 bit, zeros, and the length in bits fill one block or two.
    uint8_t last[2 * BLOCK] = {0};
    size_t rest = len - whole, end = rest < BLOCK - 8 ? BLOCK : 2 * BLOCK;
    if (rest > 0) memcpy(last, data + whole, rest);
    last[rest] = 0x80;
    uint64_t bits = (uint64_t)len * 8;
    for (int i = 0; i < 8; i++) last[end - 1 - i] = bits >> (8 * i);
    for (size_t at = 0; at < end; at += BLOCK) hash_block(state, last + at);

    for (int i = 0; i < DIGEST; i++) digest[i] = state[i / 4] >> (24 - 8 * (i % 4));
}

// The caller frees what it is given, so every string in the answer is a copy of its own.
static void fact(plugin_tuple2_string_string_t *to, const char *name, const char *value) {
    plugin_string_dup(&to->f0, name);
    plugin_string_dup(&to->f1, value);
}

bool exports_plugin_inspect(plugin_file_t *file, plugin_report_t *ret, plugin_string_t *err) {
    (void)err; // Any content has a hash.
    uint8_t digest[DIGEST];
    sha256(file->content.ptr, file->content.len, digest);

    // No snprintf: it would bring stdio, and with it imports of WASI.
    char hex[2 * DIGEST + 1] = {0};
    for (int i = 0; i < DIGEST; i++) {
        hex[2 * i] = "0123456789abcdef"[digest[i] >> 4];
        hex[2 * i + 1] = "0123456789abcdef"[digest[i] & 15];
    }

    ret->facts.len = 1;
    ret->facts.ptr = malloc(sizeof *ret->facts.ptr);
    if (ret->facts.ptr == NULL) abort();
    fact(ret->facts.ptr, "sha256", hex);
    ret->findings.len = 0;
    ret->findings.ptr = NULL;
    plugin_file_free(file);
    return true;
}
