// See options.h. Must never guess: a bad value is an error with a sentence.
#include "options.h"

#include <strings.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <span>
#include <string>

namespace tent::rdma {
namespace {

constexpr uint32_t RAIL = TENT_OPTION_OF_RAIL;
constexpr uint32_t PLACE = TENT_OPTION_OF_TRANSPORT;
constexpr uint32_t BOTH = RAIL | PLACE;
constexpr char AUTO[] = "auto";

constexpr tent_option_info number(const char *name, uint32_t kind, uint32_t scope,
                                  const char *preset, const char *least, const char *most,
                                  const char *meaning, const char *choices = "") {
    return {name, preset, least, most, choices, meaning, kind, scope};
}

constexpr tent_option_info toggle(const char *name, const char *preset, const char *meaning) {
    return {name, preset, "", "", "yes,no", meaning, TENT_OPTION_SWITCH, PLACE};
}

}  // namespace

const tent_option_info OPTION_INFOS[] = {
    number("gid", TENT_OPTION_COUNT, RAIL, AUTO, "0", "255",
           "index of the port's GID; auto: RoCE v2 of an IPv4 address, of an IPv6 one, link-local, "
           "RoCE v1",
           AUTO),
    {"mtu", "port", "", "", "port,256,512,1024,2048,4096",
     "bytes of a packet at most; the smaller of both ends counts", TENT_OPTION_CHOICE, BOTH},
    number("service_level", TENT_OPTION_COUNT, BOTH, "0", "0", "15", "InfiniBand service level"),
    number("traffic_class", TENT_OPTION_COUNT, BOTH, "0", "0", "255",
           "RoCE v2: the IP header's traffic class, DSCP * 4 + ECN"),
    number("hop_limit", TENT_OPTION_COUNT, BOTH, "64", "1", "255",
           "routers that a packet may pass, and one"),
    number("queue_pairs", TENT_OPTION_COUNT, BOTH, "2", "1", "16",
           "queue pairs of an endpoint; the smaller of both ends counts"),
    number("pkey_index", TENT_OPTION_COUNT, RAIL, "0", "0", "65535",
           "InfiniBand: index of the partition key in the port's table"),
    toggle("strict", "no", "memory that cannot be registered on every rail is refused"),
    toggle("windows", "yes",
           "a key for each peer and piece of memory (type 2B windows) where the device can"),
    toggle("on_demand", "no",
           "memory is not pinned but paged in by the device (ODP) where the device can"),
    toggle("dma_buf", "yes",
           "GPU memory is registered as a dma-buf; no: by the peer memory module alone"),
    toggle("relaxed_ordering", "no",
           "the device may write in any order (PCIe relaxed ordering) where it can"),
    number("piece_size", TENT_OPTION_SIZE, PLACE, AUTO, "1m", "64t",
           "largest registration, several make a region; auto: as the device allows", AUTO),
    number("send_depth", TENT_OPTION_COUNT, PLACE, "256", "4", "8192",
           "work requests of a queue pair at a time"),
    number("inline_max", TENT_OPTION_SIZE, PLACE, "220", "0", "4k",
           "writes up to this go inside the work request, where the device can"),
    number("signal_interval", TENT_OPTION_COUNT, PLACE, "16", "1", "4096",
           "of small requests in a row one of so many asks for a completion"),
    number("signal_min", TENT_OPTION_SIZE, PLACE, "64k", "0", "1g",
           "slices from this size on always ask for a completion"),
    // InfiniBand specification 1.5, 9.7.6.1.3: the device may wait up to four times as long.
    number("ack_timeout", TENT_OPTION_COUNT, PLACE, "14", "1", "31",
           "t: the device sends again after 4.096 us * 2^t, and gives up after 4.096 us * 2^t * "
           "(retry_count + 1): 0.54 s"),
    number("retry_count", TENT_OPTION_COUNT, PLACE, "7", "0", "7",
           "times that an unacknowledged packet is sent again"),
    number("rnr_retry", TENT_OPTION_COUNT, PLACE, "7", "0", "7",
           "times that a packet is sent again to a receiver that was not ready; 7: for ever"),
    number("min_rnr_timer", TENT_OPTION_COUNT, PLACE, "12", "0", "31",
           "code of the time that a sender shall wait when we are not ready; 12: 0.64 ms"),
    number("rd_atomic", TENT_OPTION_COUNT, PLACE, "16", "1", "255",
           "READs under way on a queue pair; the device's and the peer's bounds count too"),
    number("connect_timeout", TENT_OPTION_DURATION, PLACE, "2s", "1ms", "600s",
           "from the peer's answer until the endpoint stands"),
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

// "port" is 0.
bool choice_read(const char *text, const tent_option_info &info, uint64_t *value) {
    const size_t length = strlen(text);
    for (const char *word = info.choices; *word != '\0';) {
        const size_t size = strcspn(word, ",");
        if (size == length && memcmp(word, text, size) == 0) {
            *value = strtoull(word, nullptr, 10);
            return true;
        }
        word += size + (word[size] == ',');
    }
    return false;
}

bool value_read(const char *text, const tent_option_info &info, uint64_t *value) {
    switch (info.kind) {
        case TENT_OPTION_SWITCH:
            *value = strcmp(text, "yes") == 0;
            return *value == 1 || strcmp(text, "no") == 0;
        case TENT_OPTION_CHOICE: return choice_read(text, info, value);
        default:
            if (*info.choices == '\0' || strcmp(text, AUTO) != 0) return within(text, info, value);
            *value = UINT64_MAX;
            return true;
    }
}

bool rail_number_set(const char *name, uint64_t value, RailOptions *out) {
    const auto is = [name](const char *other) { return strcmp(name, other) == 0; };
    const auto number = static_cast<uint32_t>(value);
    if (is("gid")) return out->gid = static_cast<int32_t>(number), true;  // auto: -1
    if (is("mtu")) return out->mtu = number, true;
    if (is("service_level")) return out->service_level = number, true;
    if (is("traffic_class")) return out->traffic_class = number, true;
    if (is("hop_limit")) return out->hop_limit = number, true;
    if (is("queue_pairs")) return out->queue_pairs = number, true;
    if (is("pkey_index")) return out->pkey_index = number, true;
    return false;
}

void number_set(const char *name, uint64_t value, Options *out) {
    if (rail_number_set(name, value, &out->rail)) return;
    const auto is = [name](const char *other) { return strcmp(name, other) == 0; };
    const auto number = static_cast<uint32_t>(value);
    if (is("strict")) out->strict = value != 0;
    if (is("windows")) out->windows = value != 0;
    if (is("on_demand")) out->on_demand = value != 0;
    if (is("dma_buf")) out->dma_buf = value != 0;
    if (is("relaxed_ordering")) out->relaxed_ordering = value != 0;
    if (is("piece_size")) out->piece_size = value == UINT64_MAX ? 0 : value;
    if (is("send_depth")) out->send_depth = number;
    if (is("inline_max")) out->inline_max = number;
    if (is("signal_interval")) out->signal_interval = number;
    if (is("signal_min")) out->signal_min = value;
    if (is("ack_timeout")) out->ack_timeout = number;
    if (is("retry_count")) out->retry_count = number;
    if (is("rnr_retry")) out->rnr_retry = number;
    if (is("min_rnr_timer")) out->min_rnr_timer = number;
    if (is("rd_atomic")) out->rd_atomic = number;
    if (is("connect_timeout")) out->connect_timeout_ns = value;
}

std::string expected_of(const tent_option_info &info) {
    if (info.kind == TENT_OPTION_SWITCH) return "yes or no";
    if (info.kind == TENT_OPTION_CHOICE) return std::string("one of ") + info.choices;
    const char *kind = info.kind == TENT_OPTION_SIZE       ? "a size"
                       : info.kind == TENT_OPTION_DURATION ? "a time"
                                                           : "a number";
    return std::string(kind) + " from " + info.least + " to " + info.most +
           (*info.choices != '\0' ? std::string(", or ") + info.choices : "");
}

std::string names_in(uint32_t scope) {
    std::string all;
    for (const tent_option_info &info : OPTION_INFOS)
        if (info.scope & scope) all += (all.empty() ? "" : ", ") + std::string(info.name);
    return all;
}

const tent_option_info *find(const tent_option &option, uint32_t scope, uint64_t *value,
                             char *sentence, size_t sentence_size) {
    for (const tent_option_info &info : OPTION_INFOS) {
        if (strcmp(info.name, option.name) != 0 || !(info.scope & scope)) continue;
        const char *text = option.value != nullptr ? option.value : "";
        if (value_read(text, info, value)) return &info;
        snprintf(sentence, sentence_size, "rdma option %s=%s: expected %s", info.name, text,
                 expected_of(info).c_str());
        return nullptr;
    }
    snprintf(sentence, sentence_size, "rdma has no %s option '%s'; it knows %s",
             scope == RAIL ? "rail" : "transport", option.name, names_in(scope).c_str());
    return nullptr;
}

}  // namespace

int32_t option_read(const tent_option &option, Options *out, char *sentence, size_t sentence_size) {
    uint64_t value = 0;
    const tent_option_info *info = find(option, PLACE, &value, sentence, sentence_size);
    if (info == nullptr) return TENT_E_INVALID;
    number_set(info->name, value, out);
    return TENT_OK;
}

int32_t rail_option_read(const tent_option &option, RailOptions *out, char *sentence,
                         size_t sentence_size) {
    uint64_t value = 0;
    const tent_option_info *info = find(option, RAIL, &value, sentence, sentence_size);
    if (info == nullptr) return TENT_E_INVALID;
    rail_number_set(info->name, value, out);
    return TENT_OK;
}

}  // namespace tent::rdma
