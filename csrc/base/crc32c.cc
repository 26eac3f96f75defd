// CRC32C by processor instruction, three streams at a time, or by tables. See crc32c.h.
//
// The instruction has a latency of three cycles and a throughput of one, so one stream leaves two
// thirds idle. Three neighbouring blocks are summed at once and joined: appending n zero bytes to a
// message multiplies its remainder by x^(8n), a linear map kept as four tables of 256 (the method
// of M. Adler's crc32c.c; own code). Must never read outside [data, data+size).
#include "base/crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
#endif

namespace tent {

namespace {

constexpr uint32_t POLYNOMIAL = 0x82f63b78;  // reflected: bit 31 is x^0

// a * b modulo the polynomial.
constexpr uint32_t multiply(uint32_t a, uint32_t b) {
    uint32_t product = 0;
    for (uint32_t bit = 1u << 31; bit != 0; bit >>= 1) {
        if ((a & bit) != 0) product ^= b;
        b = (b & 1) != 0 ? (b >> 1) ^ POLYNOMIAL : b >> 1;
    }
    return product;
}

// x^n modulo the polynomial, by squaring.
constexpr uint32_t power_of_x(uint64_t n) {
    uint32_t result = 1u << 31;
    uint32_t square = 1u << 30;
    for (; n != 0; n >>= 1) {
        if ((n & 1) != 0) result = multiply(result, square);
        square = multiply(square, square);
    }
    return result;
}

using Table = std::array<uint32_t, 256>;

// Slicing by eight: TABLES[k][b] is the remainder of byte b followed by k zero bytes.
constexpr std::array<Table, 8> make_tables() {
    std::array<Table, 8> tables{};
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc & 1) != 0 ? (crc >> 1) ^ POLYNOMIAL : crc >> 1;
        tables[0][byte] = crc;
    }
    for (size_t k = 1; k < tables.size(); k++) {
        for (uint32_t byte = 0; byte < 256; byte++) {
            const uint32_t before = tables[k - 1][byte];
            tables[k][byte] = (before >> 8) ^ tables[0][before & 0xff];
        }
    }
    return tables;
}

constexpr std::array<Table, 8> TABLES = make_tables();

uint32_t update_portable(uint32_t crc, const uint8_t *at, size_t size) {
    for (; size >= 8; at += 8, size -= 8) {
        uint64_t word = 0;
        memcpy(&word, at, sizeof word);
        word ^= crc;
        crc = 0;
        for (size_t k = 0; k < 8; k++)
            crc ^= TABLES[7 - k][(word >> (8 * k)) & 0xff];
    }
    for (; size > 0; at++, size--)
        crc = (crc >> 8) ^ TABLES[0][(crc ^ *at) & 0xff];
    return crc;
}

#if defined(__x86_64__) || (defined(__aarch64__) && defined(__ARM_FEATURE_CRC32))
#define TENT_CRC_INSTRUCTION 1

#if defined(__x86_64__)
#define TENT_CRC_TARGET __attribute__((target("sse4.2")))
TENT_CRC_TARGET inline uint32_t step8(uint32_t crc, const uint8_t *at) {
    uint64_t word = 0;
    memcpy(&word, at, sizeof word);
    return static_cast<uint32_t>(_mm_crc32_u64(crc, word));
}
TENT_CRC_TARGET inline uint32_t step1(uint32_t crc, uint8_t byte) {
    return _mm_crc32_u8(crc, byte);
}
bool have_instruction() {
    return __builtin_cpu_supports("sse4.2") != 0;
}
#else
#define TENT_CRC_TARGET
inline uint32_t step8(uint32_t crc, const uint8_t *at) {
    uint64_t word = 0;
    memcpy(&word, at, sizeof word);
    return __crc32cd(crc, word);
}
inline uint32_t step1(uint32_t crc, uint8_t byte) {
    return __crc32cb(crc, byte);
}
bool have_instruction() {
    return true;
}
#endif

using Shift = std::array<Table, 4>;

constexpr Shift make_shift(uint64_t bytes) {
    const uint32_t factor = power_of_x(8 * bytes);
    Shift shift{};
    for (size_t k = 0; k < 4; k++) {
        for (uint32_t byte = 0; byte < 256; byte++) {
            shift[k][byte] = multiply(factor, byte << (8 * k));
        }
    }
    return shift;
}

// Two block lengths: the long one amortises the joins, the short one serves sizes of a few KiB.
constexpr size_t LONG_SIZE = 4096;
constexpr size_t SHORT_SIZE = 256;
constexpr Shift SHIFT_LONG = make_shift(LONG_SIZE);
constexpr Shift SHIFT_SHORT = make_shift(SHORT_SIZE);

inline uint32_t append_zeros(const Shift &shift, uint32_t crc) {
    return shift[0][crc & 0xff] ^ shift[1][(crc >> 8) & 0xff] ^ shift[2][(crc >> 16) & 0xff] ^
           shift[3][crc >> 24];
}

TENT_CRC_TARGET inline uint32_t three_streams(uint32_t crc, const uint8_t *at, size_t block,
                                              const Shift &shift) {
    uint32_t second = 0;
    uint32_t third = 0;
    for (size_t i = 0; i < block; i += 8) {
        crc = step8(crc, at + i);
        second = step8(second, at + block + i);
        third = step8(third, at + 2 * block + i);
    }
    return append_zeros(shift, append_zeros(shift, crc) ^ second) ^ third;
}

TENT_CRC_TARGET uint32_t update_instruction(uint32_t crc, const uint8_t *at, size_t size) {
    for (; size >= 3 * LONG_SIZE; at += 3 * LONG_SIZE, size -= 3 * LONG_SIZE) {
        crc = three_streams(crc, at, LONG_SIZE, SHIFT_LONG);
    }
    for (; size >= 3 * SHORT_SIZE; at += 3 * SHORT_SIZE, size -= 3 * SHORT_SIZE) {
        crc = three_streams(crc, at, SHORT_SIZE, SHIFT_SHORT);
    }
    for (; size >= 8; at += 8, size -= 8)
        crc = step8(crc, at);
    for (; size > 0; at++, size--)
        crc = step1(crc, *at);
    return crc;
}
#endif

}  // namespace

uint32_t crc32c_portable(uint32_t crc, const void *data, size_t size) {
    return ~update_portable(~crc, static_cast<const uint8_t *>(data), size);
}

uint32_t crc32c(uint32_t crc, const void *data, size_t size) {
#if defined(TENT_CRC_INSTRUCTION)
    static const bool fast = have_instruction();
    if (fast) return ~update_instruction(~crc, static_cast<const uint8_t *>(data), size);
#endif
    return crc32c_portable(crc, data, size);
}

}  // namespace tent
