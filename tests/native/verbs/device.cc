// Devices, contexts, protection domains and events of libibverbs_loop. See loop.h.
#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "state.h"

namespace loop {

World &world() {
    static World *const made = [] {
        auto *w = new World;
        w->number_next = w->random() & NUMBER_MASK;
        devices_make(*w);
        return w;
    }();
    return *made;
}

void misuse(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("libibverbs_loop: ", stderr);
    vfprintf(stderr, format, arguments);
    fputs("\n", stderr);
    va_end(arguments);
    abort();
}

Call::Call(const char *verb, bool may_fail) : hold(world().mutex), w(world()) {
    error = strike(verb, may_fail);
}

int Call::strike(const char *verb, bool may_fail) {
    w.calls[verb]++;
    Failure &failure = w.failure;
    if (!may_fail || failure.verb.empty() || failure.left == 0) return 0;
    if (failure.verb != verb && failure.verb != "any") return 0;
    if (failure.left > 1) {
        failure.left--;
        return 0;
    }
    if (!failure.for_good) failure.left = 0;
    w.struck++;
    return failure.error;
}

void Call::wait_while(const bool &flag, uint32_t &waiting) {
    waiting++;
    w.changed.wait(hold, [&] { return !flag; });
    waiting--;
}

uint32_t count_live(const World &w, const std::string &kind) {
    uint32_t count = 0;
    for (const auto &[handle, alive] : w.alive)
        count += kind == "all" || kind == alive.kind;
    return count;
}

namespace {

void ring(int fd) {
    const uint64_t one = 1;
    if (write(fd, &one, sizeof one) != sizeof one) misuse("an event's descriptor is full");
}

}  // namespace

void event_push(Context &context, const ibv_async_event &event) {
    context.events.push_back(event);
    ring(context.verbs.context.async_fd);
}

void port_event(Device &device, ibv_event_type type) {
    ibv_async_event event{};
    event.element.port_num = 1;
    event.event_type = type;
    for (Context *context : device.contexts)
        if (context->life == device.life) event_push(*context, event);
}

void events_forget(Context &context, const void *object) {
    // The count in the descriptor stays: a get that finds nothing says EAGAIN.
    std::erase_if(context.events, [&](const ibv_async_event &event) {
        const bool of_qp = event.event_type == IBV_EVENT_QP_FATAL ||
                           event.event_type == IBV_EVENT_QP_REQ_ERR ||
                           event.event_type == IBV_EVENT_QP_ACCESS_ERR;
        return of_qp && event.element.qp == object;
    });
}

namespace {

Context *context_of(const World &w, ibv_context *handle, const char *verb) {
    return living<Context>(w, handle, "context", verb);
}

int port_query(ibv_context *handle, uint8_t port, ibv_port_attr *attr, size_t size) {
    Call call("query_port");
    Context *context = context_of(call.w, handle, "query_port");
    if (call.error != 0) return call.error;
    if (context->gone()) return EIO;
    if (port != 1) return EINVAL;
    const Device &device = *context->device;
    ibv_port_attr made{};
    made.state = device.port_up ? IBV_PORT_ACTIVE : IBV_PORT_DOWN;
    made.max_mtu = IBV_MTU_4096;
    made.active_mtu = static_cast<ibv_mtu>(device.limits.active_mtu);
    made.gid_tbl_len = GIDS;
    made.max_msg_sz = device.limits.max_msg_sz;
    made.pkey_tbl_len = 1;
    made.active_width = 2;   // 4 lanes
    made.active_speed = 32;  // of 25 Gbit/s
    made.phys_state = device.port_up ? 5 : 3;
    made.link_layer = IBV_LINK_LAYER_ETHERNET;
    memcpy(attr, &made, std::min(size, sizeof made));
    return 0;
}

void attr_fill(const Device &device, ibv_device_attr *attr) {
    const loop_limits &limits = device.limits;
    *attr = {};
    attr->max_mr_size = limits.max_mr_size;
    attr->page_size_cap = 4096;
    attr->max_qp = static_cast<int>(limits.max_qp);
    attr->max_qp_wr = static_cast<int>(limits.max_qp_wr);
    attr->device_cap_flags =
        limits.windows ? IBV_DEVICE_MEM_WINDOW | IBV_DEVICE_MEM_WINDOW_TYPE_2B : 0;
    attr->max_sge = 1;
    attr->max_sge_rd = 1;
    attr->max_cq = 64;
    attr->max_cqe = static_cast<int>(limits.max_cqe);
    attr->max_mr = static_cast<int>(limits.max_mr);
    attr->max_pd = 64;
    attr->max_qp_rd_atom = attr->max_qp_init_rd_atom = static_cast<int>(limits.max_rd_atomic);
    attr->max_mw = limits.windows ? static_cast<int>(limits.max_mw) : 0;
    attr->max_pkeys = 1;
    attr->phys_port_cnt = 1;
}

int device_ex_query(ibv_context *handle, const ibv_query_device_ex_input *input,
                    ibv_device_attr_ex *attr, size_t size) {
    Call call("query_device_ex");
    Context *context = context_of(call.w, handle, "query_device_ex");
    if (input != nullptr && input->comp_mask != 0) return EINVAL;
    if (call.error != 0) return call.error;
    if (context->gone()) return EIO;
    ibv_device_attr_ex made{};
    attr_fill(*context->device, &made.orig_attr);
    if (context->device->limits.on_demand) {
        made.odp_caps.general_caps = IBV_ODP_SUPPORT;
        made.odp_caps.per_transport_caps.rc_odp_caps = IBV_ODP_SUPPORT_WRITE | IBV_ODP_SUPPORT_READ;
    }
    memcpy(attr, &made, std::min(size, sizeof made));
    return 0;
}

bool gid_is_set(const uint8_t *gid) {
    static const uint8_t none[16] = {};
    return memcmp(gid, none, sizeof none) != 0;
}

}  // namespace

}  // namespace loop

using namespace loop;

ibv_device **ibv_get_device_list(int *count) {
    Call call("get_device_list");
    if (count != nullptr) *count = 0;
    if (call.error != 0) return call.refused<ibv_device *>(call.error);
    auto **list = new ibv_device *[LOOP_DEVICES + 1] {};
    int found = 0;
    for (Device &device : call.w.devices) {
        device.device.transport_type = device.limits.iwarp ? IBV_TRANSPORT_IWARP : IBV_TRANSPORT_IB;
        if (device.present) list[found++] = &device.device;
    }
    if (count != nullptr) *count = found;
    call.w.alive[list] = {"list", list};
    return list;
}

void ibv_free_device_list(ibv_device **list) {
    Call call("free_device_list", false);
    living<void>(call.w, list, "list", "free_device_list");
    call.w.alive.erase(list);
    delete[] list;
}

const char *ibv_get_device_name(ibv_device *device) {
    return device->name;
}

ibv_context *ibv_open_device(ibv_device *handle) {
    Call call("open_device");
    if (call.error != 0) return call.refused<ibv_context>(call.error);
    for (Device &device : call.w.devices) {
        if (&device.device != handle) continue;
        if (!device.present) return call.refused<ibv_context>(ENODEV);
        auto *context = new Context;
        context->device = &device;
        context->life = device.life;
        verbs_context &verbs = context->verbs;
        verbs.sz = sizeof verbs;
        verbs.query_port = port_query;
        verbs.query_device_ex = device_ex_query;
        verbs.context.device = handle;
        verbs.context.cmd_fd = -1;
        verbs.context.async_fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
        verbs.context.num_comp_vectors = 1;
        verbs.context.abi_compat = __VERBS_ABI_IS_EXTENDED;
        verbs.context.ops.alloc_mw = window_alloc;
        verbs.context.ops.dealloc_mw = window_dealloc;
        verbs.context.ops.poll_cq = queue_poll;
        verbs.context.ops.req_notify_cq = queue_notify;
        verbs.context.ops.post_send = send_post;
        device.contexts.push_back(context);
        call.w.alive[&verbs.context] = {"context", context};
        return &verbs.context;
    }
    misuse("open_device is given %p, which is no device", static_cast<void *>(handle));
}

int ibv_close_device(ibv_context *handle) {
    Call call("close_device", false);
    Context *context = context_of(call.w, handle, "close_device");
    if (context->children != 0)
        misuse("close_device: %u objects of it are left", context->children);
    if (context->unacknowledged != 0)
        misuse("close_device: %u events are not acknowledged", context->unacknowledged);
    close(handle->async_fd);
    std::erase(context->device->contexts, context);
    if (!context->device->present) folder_remove(*context->device);
    call.w.alive.erase(handle);
    delete context;
    return 0;
}

int ibv_query_device(ibv_context *handle, ibv_device_attr *attr) {
    Call call("query_device");
    const Context *context = context_of(call.w, handle, "query_device");
    if (call.error != 0) return call.error;
    if (context->gone()) return EIO;
    attr_fill(*context->device, attr);
    return 0;
}

int ibv_query_port(ibv_context *context, uint8_t port, _compat_ibv_port_attr *attr) {
    // What callers of old have room for ends before port_cap_flags2.
    return port_query(context, port, reinterpret_cast<ibv_port_attr *>(attr),
                      offsetof(ibv_port_attr, port_cap_flags2));
}

int ibv_query_gid(ibv_context *handle, uint8_t port, int index, ibv_gid *gid) {
    Call call("query_gid");
    const Context *context = context_of(call.w, handle, "query_gid");
    if (call.error != 0 || context->gone() || port != 1 || index < 0 ||
        index >= static_cast<int>(GIDS)) {
        errno = call.error != 0 ? call.error : EINVAL;
        return -1;
    }
    memcpy(gid->raw, context->device->gids[index], 16);
    return 0;
}

ssize_t _ibv_query_gid_table(ibv_context *handle, ibv_gid_entry *entries, size_t room,
                             uint32_t flags, size_t entry_size) {
    Call call("query_gid_table");
    const Context *context = context_of(call.w, handle, "query_gid_table");
    if (call.error != 0) return -call.error;
    if (context->gone()) return -EIO;
    if (flags != 0 || entry_size != sizeof(ibv_gid_entry)) return -EINVAL;
    size_t count = 0;
    for (uint32_t i = 0; i < GIDS && count < room; i++) {
        if (!gid_is_set(context->device->gids[i])) continue;
        ibv_gid_entry &entry = entries[count++];
        memcpy(entry.gid.raw, context->device->gids[i], 16);
        entry.gid_index = i;
        entry.port_num = 1;
        entry.gid_type = i % 2 == 0 ? IBV_GID_TYPE_ROCE_V1 : IBV_GID_TYPE_ROCE_V2;
        entry.ndev_ifindex = 1;
    }
    return static_cast<ssize_t>(count);
}

ibv_pd *ibv_alloc_pd(ibv_context *handle) {
    Call call("alloc_pd");
    Context *context = context_of(call.w, handle, "alloc_pd");
    if (call.error != 0 || context->gone())
        return call.refused<ibv_pd>(call.error != 0 ? call.error : EIO);
    auto *pd = new Pd;
    pd->context = context;
    pd->pd.context = handle;
    context->children++;
    call.w.alive[&pd->pd] = {"pd", pd};
    return &pd->pd;
}

int ibv_dealloc_pd(ibv_pd *handle) {
    Call call("dealloc_pd");
    auto *pd = living<Pd>(call.w, handle, "pd", "dealloc_pd");
    if (call.error != 0) return call.error;
    if (pd->children != 0) return EBUSY;
    pd->context->children--;
    call.w.alive.erase(handle);
    delete pd;
    return 0;
}

int ibv_get_async_event(ibv_context *handle, ibv_async_event *event) {
    uint64_t one = 0;
    // As the library does: waits where the descriptor is one that waits.
    if (read(handle->async_fd, &one, sizeof one) != sizeof one) return -1;
    Call call("get_async_event", false);
    Context *context = context_of(call.w, handle, "get_async_event");
    if (context->events.empty()) {
        errno = EAGAIN;
        return -1;
    }
    *event = context->events.front();
    context->events.pop_front();
    switch (event->event_type) {
        case IBV_EVENT_QP_FATAL:
        case IBV_EVENT_QP_REQ_ERR:
        case IBV_EVENT_QP_ACCESS_ERR:
            living<Qp>(call.w, event->element.qp, "qp", "get_async_event")->unacknowledged++;
            break;
        default: context->unacknowledged++;
    }
    return 0;
}

void ibv_ack_async_event(ibv_async_event *event) {
    Call call("ack_async_event", false);
    switch (event->event_type) {
        case IBV_EVENT_QP_FATAL:
        case IBV_EVENT_QP_REQ_ERR:
        case IBV_EVENT_QP_ACCESS_ERR: {
            auto *qp = living<Qp>(call.w, event->element.qp, "qp", "ack_async_event");
            if (qp->unacknowledged-- == 0) misuse("ack_async_event: a queue pair's twice");
            return;
        }
        default:
            // The event does not tell whose it is: any that has one to acknowledge.
            for (Device &device : call.w.devices)
                for (Context *context : device.contexts)
                    if (context->unacknowledged != 0) {
                        context->unacknowledged--;
                        return;
                    }
            misuse("ack_async_event: of one that was not got");
    }
}

const char *ibv_event_type_str(ibv_event_type type) {
    static thread_local char text[32];
    snprintf(text, sizeof text, "event %d", type);
    return text;
}

const char *ibv_wc_status_str(ibv_wc_status status) {
    switch (status) {
        case IBV_WC_SUCCESS: return "success";
        case IBV_WC_LOC_LEN_ERR: return "local length error";
        case IBV_WC_LOC_PROT_ERR: return "local protection error";
        case IBV_WC_WR_FLUSH_ERR: return "Work Request Flushed Error";
        case IBV_WC_REM_ACCESS_ERR: return "remote access error";
        case IBV_WC_RETRY_EXC_ERR: return "transport retry counter exceeded";
        default: return "another error";
    }
}
