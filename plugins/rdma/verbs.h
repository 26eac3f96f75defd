// libibverbs, opened at run time: what of it this transport calls, as a table.
//
// Leans on <infiniband/verbs.h> for types and for the functions that are inline there (post_send,
// poll_cq, req_notify_cq, alloc_mw, dealloc_mw go through the context's own table). Must never call
// a function of the library by its name: a machine without the library loads this plugin all the
// same. Thread-safety: verbs_load by any thread; verbs themselves are thread-safe.
#ifndef TENT_PLUGINS_RDMA_VERBS_H
#define TENT_PLUGINS_RDMA_VERBS_H

#include <infiniband/verbs.h>

#include <string>

// Macros around two of them would take their names.
#undef ibv_reg_mr
#undef ibv_query_port

namespace tent::rdma {

// X(function): without `ibv_`. Each is in every libibverbs since rdma-core 17.
#define TENT_VERBS_TABLE(X) \
    X(get_device_list)      \
    X(free_device_list)     \
    X(get_device_name)      \
    X(open_device)          \
    X(close_device)         \
    X(query_device)         \
    X(query_gid)            \
    X(query_qp)             \
    X(alloc_pd)             \
    X(dealloc_pd)           \
    X(dereg_mr)             \
    X(create_comp_channel)  \
    X(destroy_comp_channel) \
    X(create_cq)            \
    X(destroy_cq)           \
    X(get_cq_event)         \
    X(ack_cq_events)        \
    X(create_qp)            \
    X(modify_qp)            \
    X(destroy_qp)           \
    X(get_async_event)      \
    X(ack_async_event)      \
    X(event_type_str)       \
    X(wc_status_str)

struct Verbs {
#define TENT_VERBS_MEMBER(name) decltype(&::ibv_##name) name = nullptr;
    TENT_VERBS_TABLE(TENT_VERBS_MEMBER)
#undef TENT_VERBS_MEMBER
    ibv_mr *(*reg_mr)(ibv_pd *, void *, size_t, int) = nullptr;
    int (*query_port)(ibv_context *, uint8_t, ibv_port_attr *) = nullptr;  // see verbs.cc
    // Later ones; nullptr where the library is older.
    ibv_mr *(*reg_dmabuf_mr)(ibv_pd *, uint64_t, size_t, uint64_t, int, int) = nullptr;
    ssize_t (*query_gid_table)(ibv_context *, ibv_gid_entry *, size_t, uint32_t, size_t) = nullptr;
};

// The library, opened once for the process and never closed; nullptr: *why says what is missing and
// what to install. TENT_LIBIBVERBS names another file than libibverbs.so.1.
const Verbs *verbs_load(std::string *why);

}  // namespace tent::rdma

#endif
