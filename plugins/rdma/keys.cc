// What a target gives away: the keys by which a peer names a region of ours on one endpoint.
//
// Leans on state.h, pin.h and messages.h. Must never give more than the endpoint's grant allows,
// nor let a peer have us hold more than our own regions call for: windows are made for pieces of
// regions that are granted, as they are asked for. The driver's alone.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "messages.h"
#include "mutant.h"
#include "pin.h"
#include "state.h"

namespace tent::rdma {
namespace {

constexpr uint32_t ASKED_MAX = 64;  // questions that wait; those past it are asked again

Region *region_find(Instance &instance, uint64_t number) {
    const std::lock_guard lock(instance.memory_mutex);
    // Numbers are given under the lock and only grow.
    const auto at = std::lower_bound(
        instance.regions.begin(), instance.regions.end(), number,
        [](const Region *region, uint64_t sought) { return region->number < sought; });
    return at != instance.regions.end() && (*at)->number == number ? *at : nullptr;
}

auto given_at(Endpoint &endpoint, uint64_t region) {
    return std::lower_bound(
        endpoint.given.begin(), endpoint.given.end(), region,
        [](const auto &given, uint64_t sought) { return given->region < sought; });
}

// What the endpoint was given of that region, made when it is the first time.
GivenKeys &given_take(Endpoint &endpoint, const Region &region, uint32_t access,
                      uint32_t piece_count) {
    auto at = given_at(endpoint, region.number);
    if (at == endpoint.given.end() || (*at)->region != region.number) {
        at = endpoint.given.insert(at, std::make_unique<GivenKeys>());
        (*at)->region = region.number;
        (*at)->access = access;
        (*at)->windows.resize(size_t{piece_count} * endpoint.qps.size());
    }
    return **at;
}

// False: some key is valid still, for the library does not take its window back now.
bool windows_free(Endpoint &endpoint, GivenKeys &given) {
    int refused = 0;
    for (Window &window : given.windows) {
        if (window.mw == nullptr) continue;
        const int error = ibv_dealloc_mw(window.mw);
        if (error != 0 && error != EIO && error != ENODEV)
            refused = error;
        else
            window.mw = nullptr;
    }
    if (refused == 0) return true;
    if (!given.failed)
        say(*endpoint.instance, TENT_E_SYSTEM,
            "rdma: %s does not take a memory window back yet: %s", endpoint.rail->device.c_str(),
            strerrordesc_np(refused));
    given.failed = true;
    return false;
}

uint32_t piece_count_of(const Region &region) {
    return static_cast<uint32_t>((region.length + region.piece_size - 1) / region.piece_size);
}

// One question of a peer.
struct Question {
    Endpoint &endpoint;
    const Region *region;
    const Registration *registration;
    uint32_t access;
    uint32_t piece, piece_end;  // that are answered now
};

enum class Outcome { ANSWERED, LATER };

Outcome reply(Endpoint &endpoint, KeysRead &keys) {
    uint8_t bytes[TENT_OFFER_MAX];
    const uint32_t size = keys_write(keys, bytes);
    const tent_host *host = endpoint.instance->host;
    // It has no room for now. Any other failure is the channel's, and the peer asks again.
    return host->control_send(host->ctx, endpoint.number, bytes, size) == TENT_E_AGAIN
               ? Outcome::LATER
               : Outcome::ANSWERED;
}

Outcome reply_no(Endpoint &endpoint, const Endpoint::Asked &asked, int32_t status) {
    KeysRead keys{};
    keys.head.type = Message::KEYS;
    keys.head.status = status;
    keys.head.region = asked.region;
    keys.head.piece = asked.piece;
    return reply(endpoint, keys);
}

Outcome reply_keys(const Question &question, uint32_t flags, const uint32_t *numbers) {
    const auto qp_count = static_cast<uint32_t>(question.endpoint.qps.size());
    KeysRead keys{};
    keys.head.type = Message::KEYS;
    keys.head.status = TENT_OK;
    keys.head.region = question.region->number;
    keys.head.piece = question.piece;
    keys.head.piece_count = question.piece_end - question.piece;
    keys.head.qp_count = qp_count;
    keys.head.access = question.access | flags;
    keys.count = keys.head.piece_count * qp_count;
    memcpy(keys.numbers, numbers, sizeof(uint32_t) * keys.count);
    return reply(question.endpoint, keys);
}

// Windows are bound to exactly the piece, and to the registration's piece that it lies in.
bool window_bind(const Question &question, GivenKeys &given, Window &window, Qp &qp,
                 uint32_t piece) {
    const Region &region = *question.region;
    const Registration &registration = *question.registration;
    const uint64_t begin = region.address + piece * region.piece_size;
    const uint64_t length = std::min(region.piece_size, region.address + region.length - begin);
    const uint64_t of = (begin - registration.address) / registration.piece_size;
    if (mutant(Mutant::rdma_window_range)) {
        window.bound = bind_post(qp, given, window, registration.pieces[of], registration.address,
                                 registration.length, given.access);
        given.binding += window.bound;
        return window.bound;
    }
    if (!bind_post(qp, given, window, registration.pieces[of], begin, length, given.access))
        return false;
    window.bound = true;
    given.binding++;
    return true;
}

Outcome give_windows(const Question &question) {
    Endpoint &endpoint = question.endpoint;
    const auto qp_count = static_cast<uint32_t>(endpoint.qps.size());
    const Endpoint::Asked asked{question.region->number, question.piece};
    GivenKeys &given =
        given_take(endpoint, *question.region, question.access, piece_count_of(*question.region));
    if (given.leaving) return Outcome::LATER;
    if (given.failed) return reply_no(endpoint, asked, TENT_E_TRANSPORT);
    uint32_t numbers[KEYS_PER_MESSAGE];
    uint32_t count = 0;
    bool all = true;
    for (uint32_t piece = question.piece; piece < question.piece_end; piece++) {
        for (uint32_t qp = 0; qp < qp_count; qp++) {
            Window &window = given.windows[size_t{piece} * qp_count + qp];
            if (window.mw == nullptr) window.mw = ibv_alloc_mw(endpoint.rail->pd, IBV_MW_TYPE_2);
            if (window.mw == nullptr) {
                say(*endpoint.instance, TENT_E_NO_MEMORY,
                    "rdma: %s makes no more memory windows (%s; %d at most): the peer reaches "
                    "0x%llx+%llu another way; set rdma.piece_size to more, queue_pairs to less, or "
                    "rdma.windows=no where peers are trusted",
                    endpoint.rail->device.c_str(), strerrordesc_np(errno),
                    endpoint.rail->limits.max_mw,
                    static_cast<unsigned long long>(question.region->address),
                    static_cast<unsigned long long>(question.region->length));
                return reply_no(endpoint, asked, TENT_E_TRANSPORT);
            }
            if (!window.bound)
                all = window_bind(question, given, window, *endpoint.qps[qp], piece) && all;
            numbers[count++] = window.rkey;
        }
    }
    if (!all || given.binding != 0) return Outcome::LATER;
    return reply_keys(question, KEYS_OF_WINDOWS, numbers);
}

// The registration's own key: it works on every queue pair of the device, for all that the
// registration allows.
Outcome give_registration(const Question &question) {
    Endpoint &endpoint = question.endpoint;
    const Instance &instance = *endpoint.instance;
    // Who asked for windows and has none on this device does not get less protection unawares.
    if (question.access != question.registration->access && instance.options.windows) {
        say(instance, TENT_E_UNSUPPORTED,
            "rdma: %s has no memory windows, so that a key of 0x%llx+%llu would allow more than "
            "its grant does: the peer goes another way; grant what the region allows, or set "
            "rdma.windows=no where peers are trusted",
            endpoint.rail->device.c_str(),
            static_cast<unsigned long long>(question.region->address),
            static_cast<unsigned long long>(question.region->length));
        return reply_no(endpoint, {question.region->number, question.piece}, TENT_E_TRANSPORT);
    }
    const auto qp_count = static_cast<uint32_t>(endpoint.qps.size());
    uint32_t numbers[KEYS_PER_MESSAGE];
    uint32_t count = 0;
    for (uint32_t piece = question.piece; piece < question.piece_end; piece++)
        for (uint32_t qp = 0; qp < qp_count; qp++)
            numbers[count++] = question.registration->pieces[piece].rkey;
    return reply_keys(question, 0, numbers);
}

Outcome serve(Endpoint &endpoint, const Endpoint::Asked &asked) {
    Instance &instance = *endpoint.instance;
    const Region *region = region_find(instance, asked.region);
    if (region == nullptr || region->leaving) return reply_no(endpoint, asked, TENT_E_RANGE);
    const uint32_t piece_count = piece_count_of(*region);
    if (asked.piece >= piece_count) return reply_no(endpoint, asked, TENT_E_RANGE);
    const tent_host *host = instance.host;
    const uint32_t granted =
        mutant(Mutant::rdma_grant)
            ? TENT_ACCESS_READ | TENT_ACCESS_WRITE
            : host->grant_access(host->ctx, endpoint.grant, region->address, region->length);
    const uint32_t access = region->access & granted;
    if (access == 0) return reply_no(endpoint, asked, TENT_E_DENIED);
    const Rail &rail = *endpoint.rail;
    const Registration *registration = registration_on(*region, rail);
    if (registration == nullptr) return reply_no(endpoint, asked, TENT_E_TRANSPORT);
    const auto qp_count = static_cast<uint32_t>(endpoint.qps.size());
    const uint32_t count = std::min(KEYS_PER_MESSAGE / qp_count, piece_count - asked.piece);
    const Question question{endpoint, region,      registration,
                            access,   asked.piece, asked.piece + count};
    return windows_on(rail) && !registration->read_only ? give_windows(question)
                                                        : give_registration(question);
}

void ask(Endpoint &endpoint, const Want &want) {
    for (Endpoint::Asked &asked : endpoint.asked)
        if (asked.region == want.region) {
            asked.piece = want.piece;
            return;
        }
    if (endpoint.asked.size() < ASKED_MAX) endpoint.asked.push_back({want.region, want.piece});
}

}  // namespace

void keys_serve(Endpoint &endpoint) {
    if (!endpoint.risen || endpoint.qps.empty() || endpoint.state >= EndpointState::FAILED) return;
    const size_t before = endpoint.asked.size();
    std::erase_if(endpoint.asked, [&](const Endpoint::Asked &asked) {
        return serve(endpoint, asked) == Outcome::ANSWERED;
    });
    if (endpoint.asked.size() != before) endpoint.instance->moved = true;
}

void keys_asked(Endpoint &endpoint, const void *bytes, uint32_t size) {
    Want want{};
    if (!want_read(bytes, size, &want)) return;
    ask(endpoint, want);
    keys_serve(endpoint);
}

void keys_bound(Endpoint &endpoint, GivenKeys &given, bool ok) {
    given.binding--;
    given.failed = given.failed || !ok;
    endpoint.instance->moved = true;
    if (given.binding != 0 || !given.leaving || !windows_free(endpoint, given)) return;
    std::erase_if(endpoint.given, [&](const auto &one) { return one.get() == &given; });
}

void keys_revoke(Endpoint &endpoint, uint64_t region) {
    const auto at = given_at(endpoint, region);
    if (at == endpoint.given.end() || (*at)->region != region) return;
    // A request that binds still names it.
    (*at)->leaving = true;
    if ((*at)->binding != 0 || !windows_free(endpoint, **at)) return;
    endpoint.given.erase(at);
}

bool keys_revoke_all(Endpoint &endpoint) {
    bool all = true;
    endpoint.asked.clear();
    std::erase_if(endpoint.given, [&](const auto &given) {
        given->leaving = true;
        const bool freed = windows_free(endpoint, *given);
        all = all && freed;
        return freed && given->binding == 0;
    });
    return all;
}

}  // namespace tent::rdma
