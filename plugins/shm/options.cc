// See options.h. Must never guess: a bad value is an error with a sentence.
#include "options.h"

#include <strings.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>

namespace tent::shm {

constexpr uint32_t PLACE = TENT_OPTION_OF_TRANSPORT;
constexpr uint32_t USERS_MAX = 64;

// ring_chunk's and ring_chunks' presets, and nontemporal_min's, are measured: README.md.
const tent_option_info OPTION_INFOS[] = {
    {.name = "mapped",
     .preset = "yes",
     .least = "",
     .most = "",
     .choices = "yes,no",
     .meaning = "memory that the engine allocated is mapped by peers, and theirs by us: one copy",
     .kind = TENT_OPTION_SWITCH,
     .scope = PLACE},
    {.name = "attach",
     .preset = "yes",
     .least = "",
     .most = "",
     .choices = "yes,no",
     .meaning = "other memory goes by process_vm_readv and process_vm_writev: one copy",
     .kind = TENT_OPTION_SWITCH,
     .scope = PLACE},
    {.name = "ring",
     .preset = "yes",
     .least = "",
     .most = "",
     .choices = "yes,no",
     .meaning = "where the kernel forbids both, a shared ring serves: two copies",
     .kind = TENT_OPTION_SWITCH,
     .scope = PLACE},
    {.name = "prefault",
     .preset = "yes",
     .least = "",
     .most = "",
     .choices = "yes,no",
     .meaning = "page tables of mapped memory are filled ahead, while nothing else is to do",
     .kind = TENT_OPTION_SWITCH,
     .scope = PLACE},
    {.name = "nontemporal_min",
     .preset = "1m",
     .least = "0",
     .most = "1t",
     .choices = "",
     .meaning = "from so many bytes in a row on, copies go past the caches",
     .kind = TENT_OPTION_SIZE,
     .scope = PLACE},
    {.name = "inline_max",
     .preset = "64k",
     .least = "0",
     .most = "16m",
     .choices = "",
     .meaning = "slices up to this are copied at once, by who drives the engine",
     .kind = TENT_OPTION_SIZE,
     .scope = PLACE},
    {.name = "ring_chunk",
     .preset = "128k",
     .least = "4k",
     .most = "16m",
     .choices = "",
     .meaning = "size of a ring's chunk; the smaller of both ends counts",
     .kind = TENT_OPTION_SIZE,
     .scope = PLACE},
    {.name = "ring_chunks",
     .preset = "32",
     .least = "2",
     .most = "1024",
     .choices = "",
     .meaning = "chunks of a ring; the smaller of both ends counts",
     .kind = TENT_OPTION_COUNT,
     .scope = PLACE},
    {.name = "directory",
     .preset = "",
     .least = "",
     .most = "",
     .choices = "",
     .meaning = "where the socket's folder is made; none: /dev/shm, $XDG_RUNTIME_DIR or /tmp",
     .kind = TENT_OPTION_TEXT,
     .scope = PLACE},
    {.name = "users",
     .preset = "",
     .least = "",
     .most = "",
     .choices = "",
     .meaning = "numbers of other users who are let in, separated by commas",
     .kind = TENT_OPTION_TEXT,
     .scope = PLACE},
    {.name = "connect_timeout",
     .preset = "2s",
     .least = "1ms",
     .most = "600s",
     .choices = "",
     .meaning = "from the peer's answer until the endpoint stands",
     .kind = TENT_OPTION_DURATION,
     .scope = PLACE},
};
const uint32_t OPTION_COUNT = std::size(OPTION_INFOS);

namespace {

struct Unit {
    const char *suffix;
    uint64_t factor;
};

constexpr Unit COUNT_UNITS[] = {{"", 1}};
constexpr Unit SIZE_UNITS[] = {
    {"", 1}, {"k", 1ull << 10}, {"m", 1ull << 20}, {"g", 1ull << 30}, {"t", 1ull << 40}};
constexpr Unit TIME_UNITS[] = {{"ns", 1}, {"us", 1000}, {"ms", 1000000}, {"s", 1000000000}};

std::span<const Unit> units_of(uint32_t kind) {
    switch (kind) {
        case TENT_OPTION_SIZE: return SIZE_UNITS;
        case TENT_OPTION_DURATION: return TIME_UNITS;
        default: return COUNT_UNITS;
    }
}

bool number_read(const char *text, uint32_t kind, uint64_t *value) {
    if (*text < '0' || *text > '9') return false;
    errno = 0;
    char *end = nullptr;
    const unsigned long long number = strtoull(text, &end, 10);
    if (errno != 0) return false;
    for (const Unit &unit : units_of(kind)) {
        if (strcasecmp(end, unit.suffix) == 0) {
            *value = number * unit.factor;
            return number <= UINT64_MAX / unit.factor;
        }
    }
    return false;
}

bool within(const char *text, const tent_option_info &info, uint64_t *value) {
    uint64_t least = 0, most = 0;
    return number_read(text, info.kind, value) && number_read(info.least, info.kind, &least) &&
           number_read(info.most, info.kind, &most) && *value >= least && *value <= most;
}

bool switch_read(const char *text, uint64_t *value) {
    *value = strcmp(text, "yes") == 0;
    return *value == 1 || strcmp(text, "no") == 0;
}

bool users_read(const char *text, std::vector<uint32_t> *users) {
    users->clear();
    while (*text != '\0') {
        char *end = nullptr;
        errno = 0;
        const unsigned long long user = *text >= '0' && *text <= '9' ? strtoull(text, &end, 10) : 0;
        // The last number stands for "nobody that is known here".
        if (end == nullptr || errno != 0 || user >= UINT32_MAX || users->size() == USERS_MAX)
            return false;
        if (*end != ',' && *end != '\0') return false;
        if (*end == ',' && end[1] == '\0') return false;
        users->push_back(static_cast<uint32_t>(user));
        text = *end == ',' ? end + 1 : end;
    }
    return true;
}

void number_set(const char *name, uint64_t value, Options *out) {
    const auto is = [name](const char *other) { return strcmp(name, other) == 0; };
    if (is("mapped")) out->mapped = value != 0;
    if (is("attach")) out->attach = value != 0;
    if (is("ring")) out->ring = value != 0;
    if (is("prefault")) out->prefault = value != 0;
    if (is("nontemporal_min")) out->nontemporal_min = value;
    if (is("inline_max")) out->inline_max = value;
    if (is("ring_chunk")) out->ring_chunk_size = static_cast<uint32_t>(value);
    if (is("ring_chunks")) out->ring_chunk_count = static_cast<uint32_t>(value);
    if (is("connect_timeout")) out->connect_timeout_ns = value;
}

std::string expected_of(const tent_option_info &info) {
    if (info.kind == TENT_OPTION_SWITCH) return "yes or no";
    if (info.kind == TENT_OPTION_TEXT)
        return strcmp(info.name, "users") == 0
                   ? "at most 64 user numbers, separated by commas: 1000,1001"
                   : "an absolute path";
    const char *kind = info.kind == TENT_OPTION_SIZE       ? "a size"
                       : info.kind == TENT_OPTION_DURATION ? "a time"
                                                           : "a number";
    return std::string(kind) + " from " + info.least + " to " + info.most;
}

bool value_read(const char *text, const tent_option_info &info, Options *out) {
    uint64_t value = 0;
    switch (info.kind) {
        case TENT_OPTION_TEXT:
            if (strcmp(info.name, "users") == 0) return users_read(text, &out->users);
            out->directory = text;
            return *text == '\0' || *text == '/';
        case TENT_OPTION_SWITCH:
            if (!switch_read(text, &value)) return false;
            break;
        default:
            if (!within(text, info, &value)) return false;
    }
    number_set(info.name, value, out);
    return true;
}

std::string names() {
    std::string all;
    for (const tent_option_info &info : OPTION_INFOS)
        all += (all.empty() ? "" : ", ") + std::string(info.name);
    return all;
}

}  // namespace

int32_t option_read(const tent_option &option, Options *out, char *sentence, size_t sentence_size) {
    const auto *info = std::find_if(
        std::begin(OPTION_INFOS), std::end(OPTION_INFOS),
        [&](const tent_option_info &known) { return strcmp(known.name, option.name) == 0; });
    if (info == std::end(OPTION_INFOS)) {
        snprintf(sentence, sentence_size, "shm has no option '%s'; it knows %s", option.name,
                 names().c_str());
        return TENT_E_INVALID;
    }
    const char *value = option.value != nullptr ? option.value : "";
    if (value_read(value, *info, out)) return TENT_OK;
    snprintf(sentence, sentence_size, "shm option %s=%s: expected %s", option.name, value,
             expected_of(*info).c_str());
    return TENT_E_INVALID;
}

}  // namespace tent::shm
