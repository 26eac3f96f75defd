// How fast this processor copies by the shm transport's ways: for each way, block size, number of
// threads, page size and footprint (sources and destinations together). Prints one JSON object per
// line. Leans on plugins/shm/copy.cc alone. Must never time pages that are not there yet.
#include <linux/futex.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "shm/copy.h"

using namespace tent::shm;

namespace {

constexpr size_t KIB = 1024, MIB = 1024 * KIB;
constexpr size_t HUGE_SIZE = 2 * MIB;

using Copy = void (*)(void *, const void *, size_t);

struct Way {
    std::string name;
    Copy copy;
};

#if defined(__x86_64__)
void copy_movsb(void *to, const void *from, size_t size) {
    asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
}
#endif

std::vector<Way> ways() {
    std::vector<Way> made = {{"memcpy", copy_cached}};
    for (uint32_t i = 0; i < STREAMING_WAY_COUNT; i++)
        if (STREAMING_WAYS[i].usable() && STREAMING_WAYS[i].copy != copy_cached)
            made.push_back({STREAMING_WAYS[i].name, STREAMING_WAYS[i].copy});
#if defined(__x86_64__)
    made.push_back({"movsb", copy_movsb});
#endif
    return made;
}

double median(std::vector<double> values) {
    std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
    return values[values.size() / 2];
}

double now_s() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

// Memory whose pages are all there.
struct Memory {
    char *whole, *begin;
    size_t size;

    Memory(size_t length, bool huge) : size(length) {
        whole = static_cast<char *>(mmap(nullptr, size + HUGE_SIZE, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        if (whole == MAP_FAILED) exit(1);
        begin = whole + (-reinterpret_cast<uintptr_t>(whole) % HUGE_SIZE);
        madvise(begin, size, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
        memset(begin, 1, size);
    }
    ~Memory() { munmap(whole, size + HUGE_SIZE); }
    Memory(const Memory &) = delete;
    Memory &operator=(const Memory &) = delete;
};

uint64_t sum_of(const char *bytes, size_t size) {
    uint64_t sum = 0, word;
    for (size_t at = 0; at < size; at += sizeof word) {
        memcpy(&word, bytes + at, sizeof word);
        sum += word;
    }
    return sum;
}
std::atomic<uint64_t> sink{0};

struct Setting {
    Way way;
    size_t block, footprint;
    unsigned threads;
    bool huge;
    bool read;  // the destination is read right after each copy, by the same thread
};

struct Rate {
    double median, best;  // of windows of about WINDOW_BYTES, GB/s, all threads together
};
constexpr size_t WINDOW_BYTES = 8 * MIB;

// Blocks in a random order, each once a round, the rounds until `seconds` are over.
Rate run(const Setting &setting, double seconds) {
    const size_t share = std::max(setting.footprint / 2 / setting.threads, setting.block);
    std::barrier sync(static_cast<ptrdiff_t>(setting.threads));
    std::vector<Rate> rates(setting.threads);
    const auto one = [&](unsigned index) {
        Memory from(share, setting.huge), to(share, setting.huge);
        std::vector<size_t> order(share / setting.block);
        std::iota(order.begin(), order.end(), 0);
        std::shuffle(order.begin(), order.end(), std::mt19937_64(index));
        const size_t count = std::max<size_t>(WINDOW_BYTES / setting.block, 1);
        size_t next = 0;
        const auto window = [&] {
            for (size_t i = 0; i < count; i++) {
                const size_t at = order[next] * setting.block;
                next = next + 1 < order.size() ? next + 1 : 0;
                setting.way.copy(to.begin + at, from.begin + at, setting.block);
                if (setting.read) sink += sum_of(to.begin + at, setting.block);
            }
        };
        for (size_t done = 0; done < order.size(); done += count)
            window();
        sync.arrive_and_wait();
        std::vector<double> times;
        const double begin = now_s();
        for (double last = begin; last - begin < seconds || times.size() < 3;) {
            window();
            const double now = now_s();
            times.push_back(now - last);
            last = now;
        }
        const double bytes = static_cast<double>(count * setting.block) / 1e9;
        const double shortest = *std::min_element(times.begin(), times.end());
        rates[index] = {bytes / median(times), bytes / shortest};
    };
    std::vector<std::thread> threads;
    for (unsigned i = 1; i < setting.threads; i++)
        threads.emplace_back(one, i);
    one(0);
    for (std::thread &thread : threads)
        thread.join();
    Rate sum{};
    for (const Rate &rate : rates)
        sum = {sum.median + rate.median, sum.best + rate.best};
    return sum;
}

void table(const std::vector<size_t> &blocks, const std::vector<size_t> &footprints, bool read,
           double seconds) {
    for (bool huge : {false, true})
        for (unsigned threads : {1u, 2u})
            for (size_t footprint : footprints)
                for (size_t block : blocks) {
                    if (block * 2 * threads > footprint) continue;
                    for (const Way &way : ways()) {
                        const Rate rate =
                            run({way, block, footprint, threads, huge, read}, seconds);
                        printf(
                            "{\"way\": \"%s\", \"block\": %zu, \"footprint\": %zu, "
                            "\"threads\": %u, \"huge\": %d, \"read\": %d, \"median\": %.2f, "
                            "\"best\": %.2f}\n",
                            way.name.c_str(), block, footprint, threads, huge, read, rate.median,
                            rate.best);
                        fflush(stdout);
                    }
                }
}

// ---- one block by one thread, or by two when the second one sleeps -----------------------------

struct Helper {
    std::atomic<uint32_t> turn{0};
    std::atomic<uint32_t> done{0};
    std::atomic<char *> to{nullptr};
    std::atomic<const char *> from{nullptr};
    std::atomic<size_t> size{0};

    void sleep_and_copy() {
        for (uint32_t seen = 0;;) {
            while (turn.load() == seen)
                syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
            seen = turn.load();
            if (size.load() == 0) return;
            memcpy(to.load(), from.load(), size.load());
            done.store(seen);
        }
    }
    void call(char *out, const char *in, size_t bytes) {
        to = out, from = in, size = bytes;
        turn.fetch_add(1);
        syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
    }
};

void splitting(int rounds) {
    Memory from(64 * MIB, true), to(64 * MIB, true);
    Helper helper;
    std::thread thread([&] { helper.sleep_and_copy(); });
    for (size_t size = 128 * KIB; size <= 8 * MIB; size *= 2) {
        std::vector<double> alone, split, wake;
        for (int i = 0; i < rounds; i++) {
            const size_t at = static_cast<size_t>(i) * size % (64 * MIB);
            char *out = to.begin + at;
            const char *in = from.begin + at;
            // The helper is asleep by then.
            std::this_thread::sleep_for(std::chrono::microseconds(200));
            double begin = now_s();
            memcpy(out, in, size);
            alone.push_back(now_s() - begin);
            // Other memory, as cold as that before.
            out = to.begin + (at + 32 * MIB) % (64 * MIB);
            in = from.begin + (at + 32 * MIB) % (64 * MIB);
            begin = now_s();
            helper.call(out + size / 2, in + size / 2, size / 2);
            wake.push_back(now_s() - begin);
            memcpy(out, in, size / 2);
            while (helper.done.load() != helper.turn.load())
                continue;
            split.push_back(now_s() - begin);
        }
        printf("{\"split\": %zu, \"alone_us\": %.1f, \"split_us\": %.1f, \"wake_us\": %.2f}\n",
               size, median(alone) * 1e6, median(split) * 1e6, median(wake) * 1e6);
    }
    helper.call(nullptr, nullptr, 0);
    thread.join();
}

}  // namespace

int main(int argc, char **argv) {
    const std::string what = argc > 1 ? argv[1] : "";
    const double seconds = argc > 2 ? atof(argv[2]) : 0.03;
    if (what == "blocks") {
        table({4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB},
              {512 * KIB, 8 * MIB, 256 * MIB}, false, seconds);
    } else if (what == "footprints") {
        table({256 * KIB},
              {MIB, 4 * MIB, 8 * MIB, 12 * MIB, 16 * MIB, 24 * MIB, 32 * MIB, 48 * MIB, 64 * MIB,
               128 * MIB},
              false, seconds);
    } else if (what == "reader") {
        table({16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB}, {8 * MIB, 32 * MIB, 256 * MIB}, true,
              seconds);
    } else if (what == "split") {
        splitting(200);
    } else {
        fprintf(stderr, "usage: shm_copy blocks|footprints|reader|split [seconds a figure]\n");
        return 2;
    }
    return 0;
}
