// The status table and the thread's sentence. See status.h.
//
// Leans on stdio's formatting into fixed buffers. Must never allocate.
#include "base/status.h"

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace tent {

namespace {

struct StatusRow {
    int32_t value;
    const char *name;
    const char *text;
};

#define TENT_ROW(name, text) {name, #name, text}
constexpr StatusRow STATUS_ROWS[] = {
    TENT_ROW(TENT_OK, "success"),
    TENT_ROW(TENT_IN_PROGRESS, "not finished yet"),
    TENT_ROW(TENT_E_INVALID, "an argument is wrong"),
    TENT_ROW(TENT_E_AGAIN, "a pool, ring or limit is full now; wait for completions, call again"),
    TENT_ROW(TENT_E_NO_MEMORY, "the system refused memory"),
    TENT_ROW(TENT_E_TIMEOUT, "the time given ran out; what was asked may still be going on"),
    TENT_ROW(TENT_E_CANCELLED, "cancelled by the application or by a close"),
    TENT_ROW(TENT_E_NOT_FOUND, "no such batch, region, segment or grant, or it is closed already"),
    TENT_ROW(TENT_E_RANGE, "an address range lies in no registered or granted region"),
    TENT_ROW(TENT_E_DENIED, "the region or the grant does not allow this, or it was revoked"),
    TENT_ROW(TENT_E_STALE, "the peer was restarted, or a token or descriptor is outdated"),
    TENT_ROW(TENT_E_NO_PATH, "no rail here reaches a rail of the peer with a common transport"),
    TENT_ROW(TENT_E_PEER, "the peer cannot be reached or was lost"),
    TENT_ROW(TENT_E_TRANSPORT, "a rail or endpoint failed and no other could finish the work"),
    TENT_ROW(TENT_E_CORRUPT, "a checksum did not match"),
    TENT_ROW(TENT_E_PROTOCOL, "bytes from outside are malformed"),
    TENT_ROW(TENT_E_AUTH, "the handshake failed: the peer has another key, or none"),
    TENT_ROW(TENT_E_PLAN, "the plan has a mistake"),
    TENT_ROW(TENT_E_PLUGIN, "a transport plugin is missing, of an unknown version or unavailable"),
    TENT_ROW(TENT_E_BUSY, "in use: a region with requests in flight, or a port that is taken"),
    TENT_ROW(TENT_E_CLOSED, "the engine, batch or segment is closed or closing"),
    TENT_ROW(TENT_E_FORKED, "this process is a fork of the one that opened the engine"),
    TENT_ROW(TENT_E_UNFENCED, "local memory is quiescent, the remote range may be written late"),
    TENT_ROW(TENT_E_UNFENCED_LOCAL, "a device may still touch local memory: it stays pinned"),
    TENT_ROW(TENT_E_INTERNAL, "a broken invariant of the engine; it refuses further work"),
    TENT_ROW(TENT_E_OVERLAP, "two destinations of one batch overlap"),
    TENT_ROW(TENT_E_SYSTEM, "the operating system refused"),
    TENT_ROW(TENT_E_UNSUPPORTED, "known, but not by this build, transport or mode"),
};
#undef TENT_ROW

const StatusRow *find_status(int32_t status) {
    for (const StatusRow &row : STATUS_ROWS) {
        if (row.value == status) return &row;
    }
    return nullptr;
}

thread_local char sentence[LAST_ERROR_SIZE];
std::atomic<uint64_t> broken_count{0};

}  // namespace

int32_t fail(int32_t status, const char *format, ...) {
    // Formatted aside first: an argument may be the old sentence.
    char text[LAST_ERROR_SIZE];
    va_list arguments;
    va_start(arguments, format);
    const int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (length < 0) {
        snprintf(text, sizeof text, "%s", status_text(status));
    } else if (static_cast<size_t>(length) >= sizeof text) {
        memcpy(text + sizeof text - 4, "...", 4);
    }
    memcpy(sentence, text, sizeof sentence);
    return status;
}

const char *last_error() {
    return sentence;
}

void clear_error() {
    sentence[0] = '\0';
}

const char *status_name(int32_t status) {
    const StatusRow *row = find_status(status);
    return row != nullptr ? row->name : "TENT_E_?";
}

const char *status_text(int32_t status) {
    const StatusRow *row = find_status(status);
    return row != nullptr ? row->text : "unknown status";
}

void broken_invariant(const char *file, int line, const char *what) {
    // Relaxed: only "first or not" and a count are wanted, nothing is published by it.
    if (broken_count.fetch_add(1, std::memory_order_relaxed) == 0) {
        fprintf(stderr,
                "tent: %s:%d: broken invariant: %s. This is a bug in TENT; its engines in this "
                "process refuse further work.\n",
                file, line, what);
    }
}

uint64_t broken_invariant_count() {
    return broken_count.load(std::memory_order_relaxed);
}

void abort_on_invariant(const char *file, int line, const char *what) {
#ifdef TENT_MUTANTS
    const char *alive = getenv("TENT_MUTANT");
    if (alive != nullptr && *alive != '\0') return broken_invariant(file, line, what);
#endif
    fprintf(stderr, "tent: %s:%d: broken invariant: %s\n", file, line, what);
    abort();
}

}  // namespace tent
