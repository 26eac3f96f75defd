// A test harness of one header: TEST, CHECK, CHECK_EQ and a main that runs what it is told.
//
// Leans on the standard library only. Must never hide a failure: a failing check is printed with
// its file, line and values, the test goes on, and the process ends non-zero. A support file that
// includes this beside the test's own file defines CHECK_NO_MAIN first.
//
//     TEST(ring_is_full_at_its_capacity) { CHECK(!ring.try_push(1)); CHECK_EQ(ring.size(), 4u); }
//
// Run: base_test [-l] [part of a test's name ...]
#ifndef TENT_TESTS_CHECK_H
#define TENT_TESTS_CHECK_H

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>

namespace check {

struct Test {
    const char *name;
    void (*run)();
    Test *next;
};

inline Test *first_test = nullptr;
inline Test **last_test = &first_test;
// Checks may fail in threads that a test started.
inline std::atomic<int> failure_count{0};

struct Registration {
    explicit Registration(Test *test) {
        *last_test = test;
        last_test = &test->next;
    }
};

inline void report(const char *file, int line, const std::string &what) {
    failure_count.fetch_add(1, std::memory_order_relaxed);
    fprintf(stderr, "%s:%d: %s\n", file, line, what.c_str());
}

template <class T>
std::string show(const T &value) {
    if constexpr (std::is_same_v<T, bool>) {
        return value ? "true" : "false";
    } else if constexpr (std::is_same_v<T, std::nullptr_t>) {
        return "nullptr";
    } else if constexpr (std::is_enum_v<T>) {
        return std::to_string(static_cast<std::underlying_type_t<T>>(value));
    } else if constexpr (std::is_arithmetic_v<T>) {
        return std::to_string(value);
    } else if constexpr (std::is_convertible_v<const T &, std::string_view>) {
        return "\"" + std::string(std::string_view(value)) + "\"";
    } else if constexpr (std::is_pointer_v<T>) {
        char text[32];
        snprintf(text, sizeof text, "%p", static_cast<const void *>(value));
        return text;
    } else {
        return "(a value)";
    }
}

// Texts compare by content: a char pointer is never meant as an address here.
template <class A, class B>
bool equal(const A &a, const B &b) {
    if constexpr (std::is_convertible_v<const A &, std::string_view> &&
                  std::is_convertible_v<const B &, std::string_view>) {
        return std::string_view(a) == std::string_view(b);
    } else {
        return a == b;
    }
}

template <class A, class B>
bool check_eq(const A &a, const B &b, const char *text, const char *file, int line) {
    if (equal(a, b)) return true;
    report(file, line, std::string(text) + ": " + show(a) + " is not " + show(b));
    return false;
}

inline bool check_true(bool ok, const char *text, const char *file, int line) {
    if (!ok) report(file, line, std::string(text) + " is false");
    return ok;
}

inline bool selected(const char *name, int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (strstr(name, argv[i]) != nullptr) return true;
    }
    return argc < 2;
}

inline int run_all(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "-l") == 0) {
        for (const Test *test = first_test; test != nullptr; test = test->next)
            puts(test->name);
        return 0;
    }
    int run_count = 0;
    int failed_count = 0;
    for (const Test *test = first_test; test != nullptr; test = test->next) {
        if (!selected(test->name, argc, argv)) continue;
        const int before = failure_count.load();
        printf("%s ... ", test->name);
        fflush(stdout);
        test->run();
        const bool ok = failure_count.load() == before;
        puts(ok ? "ok" : "FAILED");
        run_count++;
        failed_count += ok ? 0 : 1;
    }
    printf("%d run, %d failed\n", run_count, failed_count);
    if (run_count == 0) {
        fprintf(stderr, "no test was selected; -l lists them\n");
        return 2;
    }
    return failed_count == 0 ? 0 : 1;
}

}  // namespace check

#define TEST(name)                                                          \
    static void test_##name();                                              \
    static check::Test test_entry_##name = {#name, test_##name, nullptr};   \
    static const check::Registration test_added_##name(&test_entry_##name); \
    static void test_##name()

// Both are expressions that give true when the check held: `if (!CHECK_EQ(status, TENT_OK))
// return;`
#define CHECK(condition) check::check_true(bool(condition), #condition, __FILE__, __LINE__)
#define CHECK_EQ(a, b) check::check_eq((a), (b), #a " == " #b, __FILE__, __LINE__)

#ifndef CHECK_NO_MAIN
int main(int argc, char **argv) {
    return check::run_all(argc, argv);
}
#endif

#endif
