// See copy.h. Streaming stores exist here for x86-64 alone; elsewhere memcpy serves.
//
// Leans on the compiler's intrinsics. Must never need a compiler flag: each way is compiled for its
// own instructions and chosen by what the processor says.
#include "copy.h"

#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tent::shm {

void copy_cached(void *to, const void *from, size_t size) {
    if (to != from) memcpy(to, from, size);
}

#if defined(__x86_64__)

namespace {

// Stores are aligned to a whole line, so that each leaves for memory without its old content being
// read. What lies before the first and behind the last line goes by memcpy.
constexpr size_t LINE_SIZE = 64;
constexpr size_t BLOCK_SIZE = 4 * LINE_SIZE;
// How far ahead the source is asked for: the processor's own prefetcher stops at each page.
constexpr size_t AHEAD_SIZE = 1024;

// AVX-512 is left out: one store a line brought nothing (README.md).
size_t head_size(const void *to, size_t size) {
    const size_t head = -reinterpret_cast<uintptr_t>(to) % LINE_SIZE;
    return head < size ? head : size;
}

__attribute__((target("avx2"))) void copy_avx2(void *to, const void *from, size_t size) {
    const size_t head = head_size(to, size);
    memcpy(to, from, head);
    auto *out = static_cast<char *>(to) + head;
    const auto *in = static_cast<const char *>(from) + head;
    size_t left = size - head;
    for (; left >= BLOCK_SIZE; left -= BLOCK_SIZE) {
        __m256i parts[BLOCK_SIZE / sizeof(__m256i)];
        for (size_t line = 0; line < BLOCK_SIZE; line += LINE_SIZE)
            _mm_prefetch(in + AHEAD_SIZE + line, _MM_HINT_T0);
#pragma GCC unroll 8
        for (size_t i = 0; i < BLOCK_SIZE / sizeof(__m256i); i++)
            parts[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(in) + i);
#pragma GCC unroll 8
        for (size_t i = 0; i < BLOCK_SIZE / sizeof(__m256i); i++)
            _mm256_stream_si256(reinterpret_cast<__m256i *>(out) + i, parts[i]);
        in += BLOCK_SIZE;
        out += BLOCK_SIZE;
    }
    _mm_sfence();
    memcpy(out, in, left);
}

// Every x86-64 has it.
void copy_sse2(void *to, const void *from, size_t size) {
    const size_t head = head_size(to, size);
    memcpy(to, from, head);
    auto *out = static_cast<char *>(to) + head;
    const auto *in = static_cast<const char *>(from) + head;
    size_t left = size - head;
    for (; left >= BLOCK_SIZE; left -= BLOCK_SIZE) {
        __m128i parts[BLOCK_SIZE / sizeof(__m128i)];
        for (size_t line = 0; line < BLOCK_SIZE; line += LINE_SIZE)
            _mm_prefetch(in + AHEAD_SIZE + line, _MM_HINT_T0);
#pragma GCC unroll 16
        for (size_t i = 0; i < BLOCK_SIZE / sizeof(__m128i); i++)
            parts[i] = _mm_loadu_si128(reinterpret_cast<const __m128i *>(in) + i);
#pragma GCC unroll 16
        for (size_t i = 0; i < BLOCK_SIZE / sizeof(__m128i); i++)
            _mm_stream_si128(reinterpret_cast<__m128i *>(out) + i, parts[i]);
        in += BLOCK_SIZE;
        out += BLOCK_SIZE;
    }
    _mm_sfence();
    memcpy(out, in, left);
}

// The compiler's word for it looks at the operating system's part (XCR0), too.
bool usable_avx2() {
    return __builtin_cpu_supports("avx2");
}
bool usable_sse2() {
    return true;
}

const StreamingWay *chosen() {
    static const StreamingWay *const way = [] {
        const StreamingWay *best = STREAMING_WAYS;
        while (!best->usable())
            best++;
        return best;
    }();
    return way;
}

}  // namespace

const StreamingWay STREAMING_WAYS[] = {
    {"avx2", usable_avx2, copy_avx2},
    {"sse2", usable_sse2, copy_sse2},
};
const uint32_t STREAMING_WAY_COUNT = 2;

void copy_streaming(void *to, const void *from, size_t size) {
    if (to != from) chosen()->copy(to, from, size);
}
bool copy_streaming_exists() {
    return true;
}

#else

const StreamingWay STREAMING_WAYS[] = {{"memcpy", copy_streaming_exists, copy_cached}};
const uint32_t STREAMING_WAY_COUNT = 1;

void copy_streaming(void *to, const void *from, size_t size) {
    copy_cached(to, from, size);
}
bool copy_streaming_exists() {
    return false;
}

#endif

}  // namespace tent::shm
