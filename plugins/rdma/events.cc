// Asynchronous events of devices, and devices that go and come.
//
// A port that goes down, or loses its GID, takes its rail down until it is as before. A device
// that goes is closed at once, for the kernel's `rdma link delete` waits for that; it is looked for
// until it is back, and then opened again with all regions. Leans on device.h, rail.h. Must never
// wait.
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "device.h"
#include "mutant.h"
#include "rail.h"

namespace tent::rdma {
namespace {

constexpr uint64_t LOOK_NS = 250'000'000;    // at what may have changed without a word
constexpr uint64_t SUSPECT_NS = 10'000'000;  // at what a failed call hints at
constexpr uint32_t EVENTS_MAX = 256;         // of a device at a time

Endpoint *endpoint_of(const Instance &instance, const ibv_qp *qp) {
    for (const Qp *each : instance.qps)
        if (each != nullptr && each->qp == qp) return each->endpoint;
    return nullptr;
}

void rail_tell(Rail &rail) {
    const bool down = rail.state != RailState::UP;
    if (down == rail.told_down) return;
    rail.told_down = down;
    rail.instance->moved = true;
    const tent_host &host = *rail.instance->host;
    host.rail_state(host.ctx, rail.index, down ? TENT_E_TRANSPORT : TENT_OK,
                    down ? rail.why.c_str() : nullptr);
}

void rail_lose(Rail &rail, const std::string &why) {
    rail.state = RailState::GONE;
    rail.why = why;
    // Before its endpoints fail: the core then knows that not the peer is to blame.
    rail_tell(rail);
    device_unwatch(rail);
    endpoints_lose_device(rail);
    device_leave(rail);
}

std::string gone(const Rail &rail) {
    return rail.device + " was removed; it is taken up again when it is back";
}

// What an event asks for.
struct Wanted {
    bool look = false;
    std::string lost;  // the device is, and why
};

void event_take(const Rail &rail, ibv_async_event &event, Wanted *wanted) {
    const Verbs &verbs = *rail.instance->verbs;
    const ibv_event_type type = event.event_type;
    const char *name = verbs.event_type_str(type);
    Endpoint *endpoint = nullptr;
    uint32_t number = 0;
    switch (type) {
        case IBV_EVENT_QP_FATAL:
        case IBV_EVENT_QP_REQ_ERR:
        case IBV_EVENT_QP_ACCESS_ERR:
            endpoint = endpoint_of(*rail.instance, event.element.qp);
            number = event.element.qp->qp_num;
            break;
        case IBV_EVENT_CQ_ERR:
        case IBV_EVENT_DEVICE_FATAL:
            wanted->lost = rail.device + ": " + name + "; it is opened again";
            break;
        case IBV_EVENT_PORT_ACTIVE:
        case IBV_EVENT_PORT_ERR:
        case IBV_EVENT_LID_CHANGE:
        case IBV_EVENT_PKEY_CHANGE:
        case IBV_EVENT_SM_CHANGE:
        case IBV_EVENT_CLIENT_REREGISTER:
        case IBV_EVENT_GID_CHANGE: wanted->look = true; break;
        default: break;
    }
    // At once: the end of what it is about would wait for it.
    verbs.ack_async_event(&event);
    if (endpoint != nullptr)
        endpoint_fail(*endpoint, TENT_E_TRANSPORT, "queue pair %u on %s failed: %s", number,
                      rail.device.c_str(), name);
}

Wanted events_take(const Rail &rail) {
    Wanted wanted;
    for (uint32_t i = 0; i < EVENTS_MAX; i++) {
        ibv_async_event event{};
        if (rail.instance->verbs->get_async_event(rail.context, &event) == 0) {
            event_take(rail, event, &wanted);
            continue;
        }
        // After the kernel took the device away reading fails for good.
        if (errno == EIO || errno == ENODEV || errno == EBADF) wanted.lost = gone(rail);
        if (errno != EINTR) break;
    }
    return wanted;
}

bool look_due(const Rail &rail, uint64_t now_ns) {
    const uint64_t since = now_ns - rail.looked_ns;
    if (rail.suspect && since >= SUSPECT_NS) return true;
    return since >= LOOK_NS && (rail.state != RailState::UP || rail.instance->devices_fd < 0);
}

void rail_look(Rail &rail) {
    const int error = device_there(rail) ? port_look(rail) : ENODEV;
    rail.suspect = false;
    if (error == ENODEV || error == EIO || error == ENXIO || error == EBADF)
        rail_lose(rail, gone(rail));
    else if (error != 0)
        rail.suspect = true;
}

// The end of the errand, if it has come.
std::unique_ptr<Rejoin> rejoin_take(Rail &rail) {
    if (rail.rejoin == nullptr || !rail.rejoin->done.load(std::memory_order_acquire))
        return nullptr;
    rail.instance->rejoining--;
    return std::move(rail.rejoin);
}

// An errand's: pins pages, which may take seconds.
void rejoin_run(void *argument) {
    auto &rejoin = *static_cast<Rejoin *>(argument);
    const int wake_fd = rejoin.wake_fd;
    rejoin.complete = regions_pin(*rejoin.rail, &rejoin.why);
    rejoin.done.store(true, std::memory_order_release);
    const uint64_t one = 1;
    // It fails only where enough others have rung.
    [[maybe_unused]] const ssize_t rung = write(wake_fd, &one, sizeof one);
}

void device_return(Rail &rail) {
    Instance &instance = *rail.instance;
    std::string why;
    if (!device_there(rail)) return;
    // Where it fails, whoever made it may still be setting permissions, or the interface up.
    const std::string said = rail.why;
    const bool open = device_open(rail, &why);
    // So it stays for the core, until its regions are there.
    rail.state = RailState::GONE;
    rail.why = said;
    if (!open) return;
    rail.rejoin = std::make_unique<Rejoin>();
    rail.rejoin->rail = &rail;
    rail.rejoin->wake_fd = instance.wake_fd;
    instance.rejoining++;
    instance.host->errand(instance.host->ctx, rejoin_run, rail.rejoin.get());
}

// Its regions are registered, as far as they can be.
void device_returned(Rail &rail, const Rejoin &rejoin) {
    Instance &instance = *rail.instance;
    if (!rejoin.lost.empty()) return rail_lose(rail, rejoin.lost);
    if (!rejoin.complete && rail.why != rejoin.why)
        say(instance, TENT_E_TRANSPORT, "%s is back, %s: %s", rail.device.c_str(),
            instance.options.strict ? "and not used, for rdma.strict=yes"
                                    : "and some memory goes over other rails",
            rejoin.why.c_str());
    if (!rejoin.complete && instance.options.strict) {
        rail.why = rejoin.why;  // tried again, and not said again
        device_leave(rail);
        return;
    }
    rail_look(rail);
}

void rail_step(Rail &rail, uint64_t now_ns, bool news) {
    if (rail.leaving) {
        rail_end(rail);
        return;
    }
    if (const std::unique_ptr<Rejoin> rejoin = rejoin_take(rail)) {
        rail.looked_ns = now_ns;
        device_returned(rail, *rejoin);
    }
    if (rail.rejoin != nullptr) {
        // Read, or they would wake us again and again. Its end looks at the port anyway.
        const Wanted wanted = events_take(rail);
        if (!wanted.lost.empty()) rail.rejoin->lost = wanted.lost;
        return;
    }
    const bool open = rail.state != RailState::GONE;
    const Wanted wanted = open ? events_take(rail) : Wanted{};
    if (!wanted.lost.empty()) {
        rail_lose(rail, wanted.lost);
        rail.looked_ns = now_ns;
    } else if (!open && rail.context != nullptr) {
        device_leave(rail);
    } else if (news || wanted.look || look_due(rail, now_ns)) {
        rail.looked_ns = now_ns;
        if (open)
            rail_look(rail);
        else
            device_return(rail);
    }
    rail_tell(rail);
}

}  // namespace

bool device_leave(Rail &rail) {
    rejoin_take(rail);
    if (rail.rejoin != nullptr || !endpoints_left_device(rail)) return false;
    if (rail.joined) regions_part(rail);
    if (rail.registering.load(std::memory_order_acquire) != 0) return false;
    if (mutant(Mutant::rdma_device_kept) && !rail.leaving) return false;
    if (rail.context != nullptr) device_close(rail);
    return true;
}

void events_step(Instance &instance, uint64_t now_ns) {
    instance.looked_ns = now_ns;
    const bool news = instance.devices_fd >= 0 && devices_news(instance.devices_fd);
    for (Rail *rail : instance.rails)
        if (rail != nullptr) rail_step(*rail, now_ns, news);
}

void device_suspect(Rail &rail) {
    rail.suspect = true;
}

uint64_t events_due_ns(const Instance &instance) {
    uint64_t due = UINT64_MAX;
    for (const Rail *rail : instance.rails) {
        if (rail == nullptr) continue;
        const bool gone = rail->state == RailState::GONE;
        uint64_t own = UINT64_MAX;
        if (rail->rejoin != nullptr)
            own = UINT64_MAX;  // its end wakes us
        else if (rail->leaving || (gone && rail->context != nullptr))
            own = instance.looked_ns + SUSPECT_NS;
        else if (rail->suspect)
            own = rail->looked_ns + SUSPECT_NS;
        else if (rail->told_down != (rail->state != RailState::UP))
            own = 0;
        else if (rail->state != RailState::UP || instance.devices_fd < 0)
            own = rail->looked_ns + LOOK_NS;
        due = own < due ? own : due;
    }
    return due;
}

}  // namespace tent::rdma
