// Registrations and windows of libibverbs_loop. See loop.h.
#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#include <cstring>

#include "state.h"

namespace loop {

namespace {

constexpr unsigned REMOTE_WRITES = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC;
constexpr unsigned KNOWN = IBV_ACCESS_LOCAL_WRITE | REMOTE_WRITES | IBV_ACCESS_REMOTE_READ |
                           IBV_ACCESS_MW_BIND | IBV_ACCESS_ON_DEMAND | IBV_ACCESS_RELAXED_ORDERING;

// As the kernel finds out by taking the pages.
bool mapped(uint64_t begin, uint64_t end, bool writable) {
    FILE *maps = fopen("/proc/self/maps", "re");
    if (maps == nullptr) return true;
    char line[512];
    uint64_t reached = begin;
    while (reached < end && fgets(line, sizeof line, maps) != nullptr) {
        uint64_t from = 0, to = 0;
        char rights[5] = "";
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s", &from, &to, rights) != 3) continue;
        if (to <= reached) continue;
        if (from > reached || rights[0] != 'r' || (writable && rights[1] != 'w')) break;
        reached = to;
    }
    fclose(maps);
    return reached >= end;
}

uint32_t fresh_index(World &w) {
    for (;;) {
        const uint32_t index = w.random() & NUMBER_MASK;
        if (index != 0 && w.window_keys.count(index) == 0 &&
            w.remote_keys.count(index << 8 | 0x42) == 0)
            return index;
    }
}

ibv_mr *region_make(Call &call, ibv_pd *handle, uint64_t address, uint64_t length, int access) {
    World &w = call.w;
    auto *pd = living<Pd>(w, handle, "pd", "reg_mr");
    const auto flags = static_cast<unsigned>(access);
    const Device &device = *pd->context->device;
    if (call.error != 0) return call.refused<ibv_mr>(call.error);
    if (pd->context->gone()) return call.refused<ibv_mr>(EIO);
    // As the kernel's ib_access_writable.
    const bool writes =
        (flags & (IBV_ACCESS_LOCAL_WRITE | REMOTE_WRITES | IBV_ACCESS_MW_BIND)) != 0;
    if (length == 0 || address + length < address || length > device.limits.max_mr_size ||
        (flags & ~KNOWN) != 0)
        return call.refused<ibv_mr>(EINVAL);
    if ((flags & REMOTE_WRITES) != 0 && (flags & IBV_ACCESS_LOCAL_WRITE) == 0)
        return call.refused<ibv_mr>(EINVAL);
    if ((flags & IBV_ACCESS_ON_DEMAND) != 0 && !device.limits.on_demand)
        return call.refused<ibv_mr>(EOPNOTSUPP);
    if ((flags & IBV_ACCESS_MW_BIND) != 0 && !device.limits.windows)
        return call.refused<ibv_mr>(EOPNOTSUPP);
    uint32_t count = 0;
    for (const auto &[key, mr] : w.remote_keys)
        count += mr->pd->context->device == &device;
    if (count >= device.limits.max_mr) return call.refused<ibv_mr>(ENOMEM);
    if (!mapped(address, address + length, writes)) return call.refused<ibv_mr>(EFAULT);
    auto *mr = new Mr;
    mr->pd = pd;
    mr->address = address;
    mr->length = length;
    mr->access = flags;
    mr->mr.context = handle->context;
    mr->mr.pd = handle;
    mr->mr.addr = reinterpret_cast<void *>(address);
    mr->mr.length = length;
    const uint32_t index = fresh_index(w);
    mr->mr.lkey = index << 8 | 0x17;
    mr->mr.rkey = index << 8 | 0x42;
    w.local_keys[mr->mr.lkey] = mr;
    w.remote_keys[mr->mr.rkey] = mr;
    pd->children++;
    w.alive[&mr->mr] = {"mr", mr};
    return &mr->mr;
}

}  // namespace

const Mr *local_key(const World &w, const Qp &qp, const ibv_sge &sge, unsigned access) {
    const auto found = w.local_keys.find(sge.lkey);
    if (found == w.local_keys.end()) return nullptr;
    const Mr *mr = found->second;
    const bool inside = sge.addr >= mr->address && sge.length <= mr->length &&
                        sge.addr - mr->address <= mr->length - sge.length;
    return mr->pd == qp.pd && inside && (mr->access & access) == access ? mr : nullptr;
}

bool remote_key(const World &w, const Qp &qp, uint32_t rkey, uint64_t address, uint64_t length,
                unsigned access) {
    if ((qp.attr.qp_access_flags & access) != access) return false;
    const auto inside = [&](uint64_t begin, uint64_t size) {
        return address >= begin && length <= size && address - begin <= size - length;
    };
    const auto region = w.remote_keys.find(rkey);
    if (region != w.remote_keys.end()) {
        const Mr &mr = *region->second;
        return mr.pd == qp.pd && (mr.access & access) == access && inside(mr.address, mr.length);
    }
    const auto window = w.window_keys.find(rkey >> 8);
    if (window == w.window_keys.end()) return false;
    const Mw &mw = *window->second;
    return mw.mr != nullptr && mw.rkey == rkey && mw.pd == qp.pd && mw.qp == qp.number &&
           (mw.access & access) == access && inside(mw.address, mw.length);
}

bool window_bind(World &w, const Qp &qp, const ibv_send_wr &wr) {
    auto *mw = living<Mw>(w, wr.bind_mw.mw, "mw", "bind");
    const ibv_mw_bind_info &info = wr.bind_mw.bind_info;
    auto *mr = living<Mr>(w, info.mr, "mr", "bind");
    const unsigned access = info.mw_access_flags;
    if (mw->mr != nullptr || mw->pd != qp.pd || mr->pd != qp.pd || info.length == 0) return false;
    if (wr.bind_mw.rkey >> 8 != mw->rkey >> 8 || wr.bind_mw.rkey == mw->rkey) return false;
    if ((mr->access & IBV_ACCESS_MW_BIND) == 0) return false;
    if ((access & ~(REMOTE_WRITES | IBV_ACCESS_REMOTE_READ)) != 0) return false;
    if ((access & REMOTE_WRITES) != 0 && (mr->access & IBV_ACCESS_LOCAL_WRITE) == 0) return false;
    if (info.addr < mr->address || info.length > mr->length ||
        info.addr - mr->address > mr->length - info.length)
        return false;
    mw->mr = mr;
    mw->qp = qp.number;
    mw->rkey = wr.bind_mw.rkey;
    mw->address = info.addr;
    mw->length = info.length;
    mw->access = access;
    mr->bound++;
    return true;
}

ibv_mw *window_alloc(ibv_pd *handle, ibv_mw_type type) {
    Call call("alloc_mw");
    World &w = call.w;
    auto *pd = living<Pd>(w, handle, "pd", "alloc_mw");
    if (call.error != 0) return call.refused<ibv_mw>(call.error);
    const Device &device = *pd->context->device;
    if (pd->context->gone()) return call.refused<ibv_mw>(EIO);
    if (!device.limits.windows || type != IBV_MW_TYPE_2) return call.refused<ibv_mw>(EOPNOTSUPP);
    uint32_t count = 0;
    for (const auto &[index, mw] : w.window_keys)
        count += mw->pd->context->device == &device;
    if (count >= device.limits.max_mw) return call.refused<ibv_mw>(ENOMEM);
    auto *mw = new Mw;
    mw->pd = pd;
    const uint32_t index = fresh_index(w);
    mw->rkey = index << 8 | (w.random() & 0xff);
    mw->mw.context = handle->context;
    mw->mw.pd = handle;
    mw->mw.rkey = mw->rkey;
    mw->mw.type = type;
    w.window_keys[index] = mw;
    pd->children++;
    w.alive[&mw->mw] = {"mw", mw};
    return &mw->mw;
}

int window_dealloc(ibv_mw *handle) {
    Call call("dealloc_mw");
    World &w = call.w;
    auto *mw = living<Mw>(w, handle, "mw", "dealloc_mw");
    if (call.error != 0) return call.error;
    for (const auto &[number, qp] : w.qps)
        for (const Request &request : qp->requests)
            if (request.wr.opcode == IBV_WR_BIND_MW && !request.done &&
                request.wr.bind_mw.mw == handle && qp->attr.qp_state == IBV_QPS_RTS)
                misuse("dealloc_mw: a bind of it is under way");
    if (mw->mr != nullptr) mw->mr->bound--;
    mw->pd->children--;
    w.window_keys.erase(mw->rkey >> 8);
    w.alive.erase(handle);
    delete mw;
    return 0;
}

}  // namespace loop

using namespace loop;

ibv_mr *ibv_reg_mr(ibv_pd *pd, void *address, size_t length, int access) {
    Call call("reg_mr");
    return region_make(call, pd, reinterpret_cast<uintptr_t>(address), length, access);
}

ibv_mr *ibv_reg_dmabuf_mr(ibv_pd *pd, uint64_t offset, size_t length, uint64_t iova, int fd,
                          int access) {
    Call call("reg_dmabuf_mr");
    if (fd < 0 || offset % 4096 != 0) return call.refused<ibv_mr>(EINVAL);
    return region_make(call, pd, iova, length, access);
}

int ibv_dereg_mr(ibv_mr *handle) {
    Call call("dereg_mr");
    World &w = call.w;
    auto *mr = living<Mr>(w, handle, "mr", "dereg_mr");
    if (call.error != 0) return call.error;
    if (mr->bound != 0) return EBUSY;
    mr->pd->children--;
    w.local_keys.erase(mr->mr.lkey);
    w.remote_keys.erase(mr->mr.rkey);
    w.alive.erase(handle);
    delete mr;
    return 0;
}
