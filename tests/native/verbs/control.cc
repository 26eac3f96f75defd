// How a test rules libibverbs_loop. See loop.h.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "state.h"

namespace loop {

namespace {

void limits_default(loop_limits *limits) {
    *limits = {};
    limits->max_mr_size = uint64_t{1} << 40;
    limits->max_msg_sz = 8u << 20;  // as software devices
    limits->max_mr = 4096;
    limits->max_mw = 65536;
    limits->max_qp = 1024;
    limits->max_qp_wr = 1024;
    limits->max_cqe = 32767;
    limits->max_inline = 256;
    limits->max_rd_atomic = 16;
    limits->active_mtu = IBV_MTU_1024;
    limits->windows = 1;
}

void gids_default(Device &device) {
    memset(device.gids, 0, sizeof device.gids);
    const auto host = static_cast<uint8_t>(device.index + 1);
    for (uint8_t *gid : {device.gids[0], device.gids[1]}) {  // fe80::1 ... of v1, v2
        gid[0] = 0xfe;
        gid[1] = 0x80;
        gid[15] = host;
    }
    for (uint8_t *gid : {device.gids[2], device.gids[3]}) {  // ::ffff:10.99.0.1 ...
        gid[10] = gid[11] = 0xff;
        gid[12] = 10;
        gid[13] = 99;
        gid[15] = host;
    }
}

void write_line(const std::string &path, const std::string &text) {
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::ofstream(path) << text << "\n";
}

}  // namespace

void folder_make(const Device &device) {
    const std::string base = device.device.ibdev_path, port = base + "/ports/1/";
    write_line(std::string(device.device.dev_path) + "/ibdev", device.device.name);
    write_line(base + "/node_type", "1: CA");
    write_line(port + "state", device.port_up ? "4: ACTIVE" : "1: DOWN");
    write_line(port + "rate", "100 Gb/sec (4X EDR)");
    write_line(port + "link_layer", "Ethernet");
    for (uint32_t i = 0; i < GIDS; i++) {
        char text[40] = "";
        for (uint32_t byte = 0; byte < 16; byte += 2)
            snprintf(text + strlen(text), sizeof text - strlen(text), "%s%02x%02x",
                     byte == 0 ? "" : ":", device.gids[i][byte], device.gids[i][byte + 1]);
        const std::string number = std::to_string(i);
        write_line(port + "gids/" + number, text);
        write_line(port + "gid_attrs/types/" + number, i % 2 == 0 ? "IB/RoCE v1" : "RoCE v2");
        write_line(port + "gid_attrs/ndevs/" + number, "lo");
    }
}

void folder_remove(const Device &device) {
    std::error_code ignored;
    std::filesystem::remove_all(device.device.dev_path, ignored);
    if (device.contexts.empty()) std::filesystem::remove_all(device.device.ibdev_path, ignored);
}

namespace {

// A number that was free, as in the kernel's: another one in each life.
void path_of_verbs(const World &w, Device &device) {
    const auto number = static_cast<uint32_t>(device.index + LOOP_DEVICES * (device.life - 1));
    snprintf(device.device.dev_path, sizeof device.device.dev_path, "%s/verbs/uverbs%u",
             w.folder.c_str(), number);
}

struct Cleaner {
    std::string folder;
    pid_t owner = 0;
    ~Cleaner() {
        std::error_code ignored;
        if (owner == getpid()) std::filesystem::remove_all(folder, ignored);
    }
};
Cleaner cleaner;

Device &device_at(World &w, uint32_t index) {
    if (index >= LOOP_DEVICES) misuse("there is no device %u", index);
    return w.devices[index];
}

uint32_t reset() {
    const Call call("reset", false);
    World &w = call.w;
    w.failure = {};
    w.calls.clear();
    w.struck = w.landed = w.refused = 0;
    w.network.clear();
    w.own_modes.clear();
    w.rtr_blocked = false;
    w.changed.notify_all();
    for (Device &device : w.devices) {
        limits_default(&device.limits);
        device.mode = LOOP_PASS;
        if (device.changed) gids_default(device);
        if (!device.present) device.life++;
        device.present = device.port_up = true;
        if (device.changed) folder_make(device);
        device.changed = false;
    }
    return count_live(w, "all");
}

loop_limits *limits(uint32_t device) {
    const Call call("limits", false);
    return &device_at(call.w, device).limits;
}

void mode(uint32_t device, loop_mode mode) {
    const Call call("mode", false);
    device_at(call.w, device).mode = mode;
    wire_step(call.w);
}

void qp_mode(uint32_t number, loop_mode mode) {
    const Call call("qp_mode", false);
    if (mode == LOOP_PASS)
        call.w.own_modes.erase(number);
    else
        call.w.own_modes[number] = mode;
    wire_step(call.w);
}

void step() {
    const Call call("step", false);
    wire_step(call.w);
}

void expire(uint32_t index) {
    const Call call("expire", false);
    World &w = call.w;
    const Device &device = device_at(w, index);
    wire_step(w);
    for (auto &[number, qp] : w.qps) {
        if (qp->context->device != &device || qp->attr.qp_state != IBV_QPS_RTS) continue;
        if (qp->requests.empty()) continue;
        qp->requests.front().done = true;
        qp->requests.front().status = IBV_WC_RETRY_EXC_ERR;
        qp_break(*qp);
    }
    wire_step(w);
}

void qp_fatal(uint32_t number) {
    const Call call("qp_fatal", false);
    const auto found = call.w.qps.find(number);
    if (found == call.w.qps.end()) misuse("there is no queue pair %u", number);
    qp_break(*found->second);
    ibv_async_event event{};
    event.element.qp = &found->second->qp;
    event.event_type = IBV_EVENT_QP_FATAL;
    event_push(*found->second->context, event);
}

void fail(const char *verb, uint64_t nth, int error, int for_good) {
    const Call call("fail", false);
    call.w.failure = {verb, nth, error, for_good != 0};
    if (nth != 0) call.w.struck = 0;
}

uint64_t struck() {
    const Call call("struck", false);
    return call.w.struck;
}

uint64_t calls(const char *verb) {
    const Call call("calls", false);
    const auto found = call.w.calls.find(verb);
    return found != call.w.calls.end() ? found->second : 0;
}

void port(uint32_t index, int up) {
    const Call call("port", false);
    Device &device = device_at(call.w, index);
    device.changed = true;
    device.port_up = up != 0;
    folder_make(device);
    port_event(device, up ? IBV_EVENT_PORT_ACTIVE : IBV_EVENT_PORT_ERR);
}

void event(uint32_t index, int type) {
    const Call call("event", false);
    port_event(device_at(call.w, index), static_cast<ibv_event_type>(type));
}

void gid(uint32_t index, const uint8_t *bytes) {
    const Call call("gid", false);
    Device &device = device_at(call.w, index);
    device.changed = true;
    if (bytes != nullptr)
        memcpy(device.gids[GIDS - 1], bytes, 16);
    else
        memset(device.gids[GIDS - 1], 0, 16);
    folder_make(device);
    port_event(device, IBV_EVENT_GID_CHANGE);
}

void remove(uint32_t index, int tell) {
    const Call call("remove", false);
    Device &device = device_at(call.w, index);
    if (!device.present) return;
    port_event(device, tell ? IBV_EVENT_DEVICE_FATAL : IBV_EVENT_PORT_ERR);
    device.present = false;
    device.changed = true;
    folder_remove(device);
}

void bring_back(uint32_t index) {
    const Call call("bring_back", false);
    Device &device = device_at(call.w, index);
    if (device.present) return;
    device.present = true;
    device.port_up = true;
    device.life++;
    path_of_verbs(call.w, device);
    folder_make(device);
}

uint32_t contexts(uint32_t index) {
    const Call call("contexts", false);
    return static_cast<uint32_t>(device_at(call.w, index).contexts.size());
}

uint32_t block_rtr(int block) {
    const Call call("block_rtr", false);
    call.w.rtr_blocked = block != 0;
    if (!block) call.w.changed.notify_all();
    return call.w.rtr_waiting;
}

uint32_t live(const char *kind) {
    const Call call("live", false);
    return count_live(call.w, kind);
}

uint32_t qps(uint32_t index, uint32_t *numbers, uint32_t room) {
    const Call call("qps", false);
    const Device &device = device_at(call.w, index);
    uint32_t count = 0;
    for (const uint32_t number : call.w.order) {
        if (call.w.qps[number]->context->device != &device) continue;
        if (count < room) numbers[count] = number;
        count++;
    }
    return count;
}

uint64_t landed() {
    const Call call("landed", false);
    return call.w.landed;
}

uint64_t refused() {
    const Call call("refused", false);
    return call.w.refused;
}

const loop_api API = {reset,      limits,   mode,      qp_mode, step,  expire, qp_fatal,
                      fail,       struck,   calls,     port,    event, gid,    remove,
                      bring_back, contexts, block_rtr, live,    qps,   landed, refused};

}  // namespace

void devices_make(World &w) {
    const char *base = getenv("TMPDIR");
    w.folder = std::string(base != nullptr && *base != '\0' ? base : "/tmp") + "/tent-loop-XXXXXX";
    if (mkdtemp(w.folder.data()) == nullptr)
        misuse("no folder can be made in %s", w.folder.c_str());
    cleaner.folder = w.folder;
    cleaner.owner = getpid();
    for (uint32_t i = 0; i < LOOP_DEVICES; i++) {
        Device &device = w.devices[i];
        device.index = i;
        ibv_device &handle = device.device;
        handle.node_type = IBV_NODE_CA;
        handle.transport_type = IBV_TRANSPORT_IB;
        snprintf(handle.name, sizeof handle.name, "loop%u", i);
        handle.dev_name[0] = '\0';  // it has no node in /dev
        path_of_verbs(w, device);
        snprintf(handle.ibdev_path, sizeof handle.ibdev_path, "%s/infiniband/loop%u",
                 w.folder.c_str(), i);
        limits_default(&device.limits);
        gids_default(device);
        folder_make(device);
    }
}

}  // namespace loop

const loop_api *tent_loop(void) {
    loop::world();
    return &loop::API;
}
