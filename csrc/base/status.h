// Status values, the thread's last-error sentence, and assertions of our own invariants.
//
// Leans on tent.h for the values. Must never allocate: it is called where memory has run out.
// Thread-safety: everything may be called from any thread; the sentence belongs to the calling
// thread.
#ifndef TENT_BASE_STATUS_H
#define TENT_BASE_STATUS_H

#include <cstddef>
#include <cstdint>

#include <tent/tent.h>

namespace tent {

// Most bytes of a sentence, its NUL included; a longer one is cut and ends in "...".
inline constexpr size_t LAST_ERROR_SIZE = 512;

// Sets the calling thread's last-error sentence and returns `status`, so that `return fail(...)`
// works. The arguments may point into last_error() itself: fail(s, "outer: %s", last_error()).
int32_t fail(int32_t status, const char *format, ...) __attribute__((format(printf, 2, 3)));

// The calling thread's sentence, "" when there is none. Valid until the thread's next fail or
// clear_error.
const char *last_error();
void clear_error();

// "TENT_E_RANGE" and a sentence on its meaning; "TENT_E_?" and "unknown status" for a foreign
// value. Static storage.
const char *status_name(int32_t status);
const char *status_text(int32_t status);

// Reports a broken invariant: the first one of the process is printed to stderr, every one is
// counted. Test builds (TENT_CHECKED) do not come here, they abort.
void broken_invariant(const char *file, int line, const char *what);

// How many invariants were found broken so far in this process. An engine that sees it rise refuses
// further work.
uint64_t broken_invariant_count();

// What they come to instead. In a build with mutants (base/mutant.h) it returns while one is alive,
// and has done what broken_invariant does: a harness has to notice, as if nothing were asserted.
#ifndef TENT_MUTANTS
[[noreturn]]
#endif
void abort_on_invariant(const char *file, int line, const char *what);

}  // namespace tent

// States something that only our own mistake can make false. Not for what a caller, a peer or the
// system may do. The condition is evaluated in every build, so it must be cheap and free of side
// effects.
#if defined(TENT_CHECKED)
#define TENT_ASSERT(condition)          \
    (__builtin_expect(!!(condition), 1) \
         ? (void)0                      \
         : ::tent::abort_on_invariant(__FILE__, __LINE__, #condition))
#else
#define TENT_ASSERT(condition)          \
    (__builtin_expect(!!(condition), 1) \
         ? (void)0                      \
         : ::tent::broken_invariant(__FILE__, __LINE__, #condition))
#endif

#endif
