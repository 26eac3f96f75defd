// What every fuzz_*.cc defines: the function under test and the inputs to begin with.
//
// With libFuzzer the first is driven by it; with other compilers standalone.cc mutates the corpus.
// A finding is an abort (FUZZ_REQUIRE, a sanitizer, an assertion of the library), nothing else.
#ifndef TENT_TESTS_FUZZ_H
#define TENT_TESTS_FUZZ_H

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// Valid inputs, and invalid ones that once were findings. At least one; the same ones on every
// call.
std::vector<std::vector<uint8_t>> fuzz_corpus();

inline std::vector<uint8_t> fuzz_bytes(std::string_view text) {
    return std::vector<uint8_t>(text.begin(), text.end());
}

#define FUZZ_REQUIRE(condition)                                                       \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "%s:%d: required: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                  \
        }                                                                             \
    } while (0)

#endif
