// Drives a fuzz_*.cc without libFuzzer: its corpus first, then mutations of it, the same for the
// same seed.
//
// Run: fuzz_plan [cases] [seed]      random cases (default 20000, seed 1)      fuzz_plan FILE ...
// replays files, e.g. findings of libFuzzer No coverage feedback: it finds what lies near the
// corpus. When a case aborts, its bytes are written to standard error as hexadecimal and to the
// file named by TENT_FUZZ_FINDING, if set.
#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <fstream>
#include <iterator>

#include "base/random.h"
#include "base/units.h"
#include "fuzz.h"

using namespace tent;
using Bytes = std::vector<uint8_t>;

namespace {

constexpr size_t INPUT_SIZE_MAX = 1 << 16;
// What parsers tend to trip over: zeros, all ones, signs, lengths one off, and the separators of
// texts.
constexpr const char *TOKENS[] = {"\n", "\r\n", " ",  "\t", "#",  "=",    ":",
                                  ";",  "|",    "[",  "]",  "..", ".",    "0",
                                  "-1", "64",   "1k", "\"", "%s", "\x7f", "\xff"};
constexpr uint64_t NUMBERS[] = {0,
                                1,
                                0x7f,
                                0x80,
                                0xff,
                                0x7fff,
                                0xffff,
                                0x7fffffff,
                                0xffffffff,
                                0x7fffffffffffffff,
                                0xffffffffffffffff};

// The case that runs now, for the signal handler.
Bytes current;
uint64_t current_case = 0;
int finding_fd = -1;

void write_text(const char *text) {
    // A failed write leaves nothing to be done here.
    if (write(STDERR_FILENO, text, strlen(text)) < 0) return;
}

// Only calls that are safe in a signal handler.
void report_finding(int signal_number) {
    char number[24];
    write_text("\ncase ");
    size_t at = sizeof number;
    number[--at] = '\0';
    uint64_t rest = current_case;
    do {
        number[--at] = static_cast<char>('0' + rest % 10);
        rest /= 10;
    } while (rest != 0);
    write_text(number + at);
    write_text(" of this seed, in hexadecimal:\n");
    for (const uint8_t byte : current) {
        const char digits[] = {"0123456789abcdef"[byte >> 4], "0123456789abcdef"[byte & 15], '\0'};
        write_text(digits);
    }
    write_text("\n");
    if (finding_fd >= 0 && write(finding_fd, current.data(), current.size()) < 0) {
        write_text("the finding could not be written\n");
    }
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

void insert(Bytes &bytes, size_t at, const uint8_t *from, size_t size) {
    bytes.insert(bytes.begin() + static_cast<ptrdiff_t>(at), from, from + size);
}

void erase(Bytes &bytes, size_t at, size_t size) {
    bytes.erase(bytes.begin() + static_cast<ptrdiff_t>(at),
                bytes.begin() + static_cast<ptrdiff_t>(at + size));
}

void mutate(Bytes &bytes, const std::vector<Bytes> &corpus, Random &random) {
    const size_t at = random.below(bytes.size() + 1);
    const size_t rest = bytes.size() - at;
    switch (random.below(9)) {
        case 0:  // flip a bit
            if (rest > 0) bytes[at] ^= static_cast<uint8_t>(1u << random.below(8));
            break;
        case 1:  // any byte
            if (rest > 0) bytes[at] = static_cast<uint8_t>(random.u64());
            break;
        case 2: bytes.resize(at); break;  // truncate
        case 3: erase(bytes, at, random.below(1 + (rest < 32 ? rest : 32))); break;
        case 4: {  // a telling number, little-endian, over what is there
            const uint64_t number = NUMBERS[random.below(std::size(NUMBERS))];
            const size_t width = size_t{1} << random.below(4);
            if (rest > 0) memcpy(bytes.data() + at, &number, width < rest ? width : rest);
            break;
        }
        case 5: {  // a telling token
            const char *token = TOKENS[random.below(std::size(TOKENS))];
            insert(bytes, at, reinterpret_cast<const uint8_t *>(token), strlen(token));
            break;
        }
        case 6: {  // a piece of some seed
            const Bytes &other = corpus[random.below(corpus.size())];
            const size_t from = random.below(other.size() + 1);
            insert(bytes, at, other.data() + from, random.below(other.size() - from + 1));
            break;
        }
        case 7: {  // a piece of itself, again
            const Bytes piece(bytes.begin() + static_cast<ptrdiff_t>(at),
                              bytes.begin() + static_cast<ptrdiff_t>(at + random.below(rest + 1)));
            insert(bytes, at, piece.data(), piece.size());
            break;
        }
        default:  // the next value
            if (rest > 0) bytes[at]++;
            break;
    }
    if (bytes.size() > INPUT_SIZE_MAX) bytes.resize(INPUT_SIZE_MAX);
}

void run_case(uint64_t number, Bytes bytes) {
    current_case = number;
    current = std::move(bytes);
    // A copy of exactly its size on the heap, so that a sanitizer sees the first byte read past the
    // end.
    const Bytes exact(current.begin(), current.end());
    LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

int run_random(uint64_t cases, uint64_t seed) {
    const std::vector<Bytes> corpus = fuzz_corpus();
    if (corpus.empty()) {
        fprintf(stderr, "the corpus is empty\n");
        return 2;
    }
    uint64_t number = 0;
    for (const Bytes &bytes : corpus)
        run_case(number++, bytes);
    Random random;
    random.seed(seed);
    for (; number < corpus.size() + cases; number++) {
        Bytes bytes = corpus[random.below(corpus.size())];
        // Mostly small steps: they stay valid long enough to get deep.
        for (uint64_t steps = 1 + random.below(2) * random.below(6); steps > 0; steps--) {
            mutate(bytes, corpus, random);
        }
        run_case(number, std::move(bytes));
    }
    printf("%llu cases with seed %llu, no finding\n", static_cast<unsigned long long>(number),
           static_cast<unsigned long long>(seed));
    return 0;
}

}  // namespace

int main(int argc, char **argv) {
    if (const char *path = getenv("TENT_FUZZ_FINDING"); path != nullptr) {
        finding_fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    }
    signal(SIGABRT, report_finding);
    signal(SIGSEGV, report_finding);
    uint64_t cases = 20000;
    uint64_t seed = 1;
    const bool numbers = argc < 2 || parse_count(argv[1], &cases);
    if (numbers) {
        if (argc > 3 || (argc == 3 && !parse_count(argv[2], &seed))) {
            fprintf(stderr, "usage: %s [cases] [seed] | FILE ...\n", argv[0]);
            return 2;
        }
        return run_random(cases, seed);
    }
    for (int i = 1; i < argc; i++) {
        std::ifstream file(argv[i], std::ios::binary);
        if (!file) {
            fprintf(stderr, "%s cannot be read\n", argv[i]);
            return 2;
        }
        run_case(static_cast<uint64_t>(i),
                 Bytes(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()));
    }
    printf("%d files, no finding\n", argc - 1);
    return 0;
}
