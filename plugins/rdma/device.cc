// See device.h. A device is opened once for each rail, so that rails share nothing that one of them
// could fill or break.
#include "device.h"

#include <fcntl.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "sysfs.h"

namespace tent::rdma {
namespace {

constexpr uint32_t CQ_SIZE = 65536;
constexpr uint32_t GID_TABLE_MAX = 4096;  // of all ports together

ibv_context *context_open(const Rail &rail, std::string *why) {
    const Verbs &verbs = *rail.instance->verbs;
    errno = 0;
    ibv_device **list = verbs.get_device_list(nullptr);
    if (list == nullptr) {
        *why = list_trouble(errno);
        return nullptr;
    }
    ibv_context *context = nullptr;
    ibv_device *device = nullptr;
    for (ibv_device **each = list; *each != nullptr; each++)
        if (rail.device == verbs.get_device_name(*each)) device = *each;
    if (device == nullptr) {
        *why = "there is no RDMA device " + rail.device + "; there is " + devices_list(verbs);
    } else if (device->transport_type == IBV_TRANSPORT_IWARP) {
        *why = rail.device +
               " speaks iWARP, which connects through rdma_cm alone; use the tcp transport on its "
               "network interface";
    } else if (device->transport_type != IBV_TRANSPORT_IB) {
        *why = rail.device + " has no reliable connections (RC); use another device or transport";
    } else if ((context = verbs.open_device(device)) == nullptr) {
        *why = open_trouble(*device, errno);
    }
    verbs.free_device_list(list);
    return context;
}

bool on_demand_read(const Rail &rail) {
    verbs_context *extended = verbs_get_ctx_op(rail.context, query_device_ex);
    ibv_device_attr_ex attr{};
    if (extended == nullptr ||
        extended->query_device_ex(rail.context, nullptr, &attr, sizeof attr) != 0)
        return false;
    const uint32_t needed = IBV_ODP_SUPPORT_WRITE | IBV_ODP_SUPPORT_READ;
    return attr.odp_caps.general_caps & IBV_ODP_SUPPORT &&
           (attr.odp_caps.per_transport_caps.rc_odp_caps & needed) == needed;
}

bool limits_read(Rail &rail, std::string *why) {
    const Instance &instance = *rail.instance;
    const int error = instance.verbs->query_device(rail.context, &rail.limits);
    if (error != 0) {
        *why =
            format("%s does not tell its limits: %s", rail.device.c_str(), strerrordesc_np(error));
        return false;
    }
    if (rail.port > rail.limits.phys_port_cnt) {
        *why = format("%s has no port %u, but %u", rail.device.c_str(), rail.port,
                      rail.limits.phys_port_cnt);
        return false;
    }
    rail.windows =
        instance.options.windows && rail.limits.device_cap_flags & IBV_DEVICE_MEM_WINDOW_TYPE_2B;
    rail.on_demand = instance.options.on_demand && on_demand_read(rail);
    return true;
}

std::string port_silent(const Rail &rail, int error) {
    return format("port %u of %s cannot be asked: %s", rail.port, rail.device.c_str(),
                  strerrordesc_np(error));
}

// Sets the GID and the address that peers are told: once, for the core has told them by then.
bool gid_settle(Rail &rail, std::string *why) {
    if (rail.address[0] != '\0') return true;
    const int error = rail.instance->verbs->query_port(rail.context, rail.port, &rail.port_attr);
    if (error != 0) {
        *why = port_silent(rail, error);
        return false;
    }
    const std::vector<Gid> gids = gids_of(rail);
    const Gid *gid = gid_choose(gids);
    if (rail.options.gid >= 0) {
        const auto named = std::find_if(gids.begin(), gids.end(), [&](const Gid &each) {
            return each.index == static_cast<uint32_t>(rail.options.gid);
        });
        gid = named == gids.end() ? nullptr : &*named;
    }
    if (gid == nullptr) {
        *why = format("port %u of %s has no GID", rail.port, rail.device.c_str());
        if (rail.options.gid >= 0) *why += format(" at index %d", rail.options.gid);
        *why +=
            gids.empty() ? "; set its network interface up and give it an IP address" : "; has:";
        for (const Gid &each : gids)
            *why += format(
                " %u (%s)", each.index,
                gid_address(each.link, each.bytes, gid_prefix(each.link, each.bytes)).c_str());
        return false;
    }
    rail.link = gid->link;
    rail.gid_index = static_cast<uint8_t>(gid->index);
    rail.netdev = gid->netdev;
    memcpy(rail.gid, gid->bytes, sizeof rail.gid);
    const std::string address =
        gid_address(gid->link, gid->bytes, gid_prefix(gid->link, gid->bytes));
    address.copy(rail.address, sizeof rail.address - 1);
    return true;
}

bool watch(const Rail &rail, int fd, Watched kind) {
    const int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) return false;
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = watched_tag(kind, rail.slot);
    return epoll_ctl(rail.instance->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0;
}

bool queues_make(Rail &rail, std::string *why) {
    const Verbs &verbs = *rail.instance->verbs;
    const char *step = "ibv_alloc_pd";
    rail.pd = verbs.alloc_pd(rail.context);
    if (rail.pd != nullptr) {
        step = "ibv_create_comp_channel";
        rail.channel = verbs.create_comp_channel(rail.context);
    }
    if (rail.channel != nullptr) {
        step = "ibv_create_cq";
        const int size = std::min<int>(rail.limits.max_cqe, CQ_SIZE);
        const int vectors = std::max(1, rail.context->num_comp_vectors);
        rail.cq = verbs.create_cq(rail.context, size, nullptr, rail.channel,
                                  static_cast<int>(rail.slot) % vectors);
        rail.cq_free = static_cast<uint32_t>(size);
    }
    if (rail.cq != nullptr) {
        step = "epoll";
        if (watch(rail, rail.channel->fd, Watched::COMPLETIONS) &&
            watch(rail, rail.context->async_fd, Watched::ASYNC))
            return true;
    }
    const int error = errno;
    *why = format("%s on %s: %s%s", step, rail.device.c_str(), strerrordesc_np(error),
                  error == ENOMEM ? "; raise the limit of locked memory (ulimit -l)" : "");
    return false;
}

// What the port's own state says against using it; "": nothing.
std::string port_trouble(const Rail &rail) {
    const char *device = rail.device.c_str();
    switch (rail.port_attr.state) {
        case IBV_PORT_ACTIVE:
        case IBV_PORT_ACTIVE_DEFER: return "";
        case IBV_PORT_INIT:
        case IBV_PORT_ARMED:
            return format(
                "port %u of %s waits for a subnet manager to make it active: start one (opensm, or "
                "the switch's)",
                rail.port, device);
        default: break;
    }
    const std::string mend = rail.netdev.empty() ? "" : "ip link set " + rail.netdev + " up, or ";
    return format("port %u of %s is down: %ssee to its cable, or to the switch's port", rail.port,
                  device, mend.c_str());
}

void endpoints_move(const Rail &rail, const char *what) {
    for (Endpoint *endpoint : std::vector<Endpoint *>(rail.endpoints))
        endpoint_fail(*endpoint, TENT_E_TRANSPORT, "the %s of %s port %u changed; built anew", what,
                      rail.device.c_str(), rail.port);
}

}  // namespace

std::string devices_list(const Verbs &verbs) {
    std::string names;
    ibv_device **list = verbs.get_device_list(nullptr);
    if (list == nullptr) return "none";
    for (ibv_device **each = list; *each != nullptr; each++)
        names += (names.empty() ? "" : ", ") + std::string(verbs.get_device_name(*each));
    verbs.free_device_list(list);
    return names.empty() ? "none" : names;
}

std::string list_trouble(int error) {
    return format("the RDMA devices of this machine cannot be listed: %s%s", strerrordesc_np(error),
                  error == ENOSYS ? ": modprobe ib_uverbs" : "");
}

std::string open_trouble(const ibv_device &device, int error) {
    const std::string node = std::string("/dev/infiniband/") + device.dev_name;
    std::string mend;
    if (error == EACCES || error == EPERM)
        mend = ": this user needs to read and write " + node +
               " (its group; in a container the device must be let in, --device=" + node + ")";
    else if (error == ENOENT || error == ENXIO || error == ENODEV)
        mend =
            ": " + node + " is missing: modprobe ib_uverbs (in a container: --device=" + node + ")";
    else if (error == EMFILE || error == ENFILE)
        mend = ": raise the limit of open files (ulimit -n)";
    return format("%s cannot be opened: %s%s", device.name, strerrordesc_np(error), mend.c_str());
}

std::vector<Gid> gids_of(const Rail &rail) {
    const Verbs &verbs = *rail.instance->verbs;
    const bool infiniband = rail.port_attr.link_layer == IBV_LINK_LAYER_INFINIBAND;
    if (verbs.query_gid_table == nullptr) return gids_read(rail.folder, rail.port, infiniband);
    const uint32_t room = std::min<uint32_t>(
        static_cast<uint32_t>(rail.port_attr.gid_tbl_len) * rail.limits.phys_port_cnt,
        GID_TABLE_MAX);
    std::vector<ibv_gid_entry> entries(room);
    const ssize_t count =
        verbs.query_gid_table(rail.context, entries.data(), room, 0, sizeof entries[0]);
    if (count < 0) return gids_read(rail.folder, rail.port, infiniband);
    std::vector<Gid> gids;
    for (const ibv_gid_entry &entry : std::span(entries).first(static_cast<size_t>(count))) {
        if (entry.port_num != rail.port || entry.gid_index >= GIDS_MAX) continue;
        Gid gid;
        gid.index = entry.gid_index;
        memcpy(gid.bytes, entry.gid.raw, GID_SIZE);
        gid.link = entry.gid_type == IBV_GID_TYPE_ROCE_V2   ? Link::ROCE_V2
                   : entry.gid_type == IBV_GID_TYPE_ROCE_V1 ? Link::ROCE_V1
                                                            : Link::INFINIBAND;
        char name[IF_NAMESIZE];
        if (if_indextoname(entry.ndev_ifindex, name) != nullptr) gid.netdev = name;
        gids.push_back(gid);
    }
    return gids;
}

int port_look(Rail &rail) {
    ibv_port_attr attr;  // all of it is set
    const int error = rail.instance->verbs->query_port(rail.context, rail.port, &attr);
    if (error != 0) return error;
    const bool infiniband = rail.link == Link::INFINIBAND;
    if (infiniband && rail.port_attr.lid != 0 && attr.lid != 0 && attr.lid != rail.port_attr.lid)
        endpoints_move(rail, "LID");
    rail.port_attr = attr;
    rail.why = port_trouble(rail);
    const std::vector<Gid> gids = gids_of(rail);
    const Gid *gid = gid_find(gids, rail.link, rail.gid, rail.gid_index);
    // A plan that names an index means it.
    if (gid != nullptr && rail.options.gid >= 0 && gid->index != rail.gid_index) gid = nullptr;
    if (gid == nullptr) {
        const std::string mend =
            rail.netdev.empty() ? "" : "give " + rail.netdev + " that address again, or ";
        rail.why += format("%sport %u of %s lost its GID %s: %sinstall the plan again",
                           rail.why.empty() ? "" : "; ", rail.port, rail.device.c_str(),
                           rail.address, mend.c_str());
    } else if (gid->index != rail.gid_index) {
        rail.gid_index = static_cast<uint8_t>(gid->index);
        endpoints_move(rail, "GID's index");
    }
    rail.state = rail.why.empty() ? RailState::UP : RailState::DOWN;
    return 0;
}

bool device_there(const Rail &rail) {
    return (rail.folder.empty() || sysfs_exists(rail.folder)) &&
           (rail.verbs_folder.empty() || sysfs_exists(rail.verbs_folder));
}

bool device_open(Rail &rail, std::string *why) {
    rail.context = context_open(rail, why);
    if (rail.context == nullptr) return false;
    rail.folder = rail.context->device->ibdev_path;
    rail.verbs_folder = rail.context->device->dev_path;
    bool ok = limits_read(rail, why) && gid_settle(rail, why) && queues_make(rail, why);
    const int error = ok ? port_look(rail) : 0;
    if (error != 0) *why = port_silent(rail, error);
    ok = ok && error == 0;
    if (!ok) device_close(rail);
    rail.generation += ok;
    rail.armed = false;
    return ok;
}

void device_unwatch(const Rail &rail) {
    const int epoll = rail.instance->epoll_fd;
    if (rail.channel != nullptr) epoll_ctl(epoll, EPOLL_CTL_DEL, rail.channel->fd, nullptr);
    if (rail.context != nullptr) epoll_ctl(epoll, EPOLL_CTL_DEL, rail.context->async_fd, nullptr);
}

void device_close(Rail &rail) {
    const Verbs &verbs = *rail.instance->verbs;
    device_unwatch(rail);
    int error = 0;
    const auto ended = [&](int result) { error = result != 0 ? result : error; };
    if (rail.cq != nullptr) {
        if (rail.cq_events != 0) verbs.ack_cq_events(rail.cq, rail.cq_events);
        ended(verbs.destroy_cq(rail.cq));
    }
    if (rail.channel != nullptr) ended(verbs.destroy_comp_channel(rail.channel));
    if (rail.pd != nullptr) ended(verbs.dealloc_pd(rail.pd));
    if (rail.context != nullptr) ended(verbs.close_device(rail.context));
    rail.cq = nullptr;
    rail.channel = nullptr;
    rail.pd = nullptr;
    rail.context = nullptr;
    rail.verbs_folder.clear();  // it may come back by another number
    rail.cq_events = 0;
    rail.armed = false;
    if (error != 0)
        say(*rail.instance, TENT_E_TRANSPORT, "%s does not close whole: %s", rail.device.c_str(),
            strerrordesc_np(error < 0 ? errno : error));
}

int devices_socket() {
    const int fd =
        socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);
    sockaddr_nl address{};
    address.nl_family = AF_NETLINK;
    address.nl_groups = 1;  // what the kernel says, not udev
    if (fd < 0) return -1;
    if (bind(fd, reinterpret_cast<const sockaddr *>(&address), sizeof address) == 0) return fd;
    close(fd);
    return -1;
}

bool devices_news(int fd) {
    // "remove@/devices/virtual/infiniband_verbs/uverbs0", and more behind it.
    constexpr uint32_t messages_max = 256;
    bool any = false;
    for (uint32_t i = 0; i < messages_max; i++) {
        char text[512];
        const ssize_t size = recv(fd, text, sizeof text, 0);
        if (size < 0 && errno == EINTR) continue;
        if (size < 0) return any || errno == ENOBUFS;
        any |= memmem(text, static_cast<size_t>(size), "infiniband", 10) != nullptr;
    }
    return any;
}

}  // namespace tent::rdma
