// See verbs.h.
#include "verbs.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <mutex>

namespace tent::rdma {
namespace {

constexpr char LIBRARY[] = "libibverbs.so.1";

// The library's own ibv_query_port fills the struct of its first versions, which is shorter than
// today's: what it does not know stays 0.
using OldQueryPort = int (*)(ibv_context *, uint8_t, void *);
OldQueryPort old_query_port;

// As the inline ___ibv_query_port of infiniband/verbs.h, without naming the library's function.
int query_port(ibv_context *context, uint8_t port, ibv_port_attr *attr) {
    memset(attr, 0, sizeof *attr);
    verbs_context *extended = verbs_get_ctx_op(context, query_port);
    if (extended == nullptr) return old_query_port(context, port, attr);
    return extended->query_port(context, port, attr, sizeof *attr);
}

template <typename Function>
bool symbol(void *library, const char *name, Function *out) {
    *out = reinterpret_cast<Function>(dlsym(library, name));
    return *out != nullptr;
}

bool symbols(void *library, Verbs *verbs, const char **missing) {
#define TENT_VERBS_LOAD(name)                           \
    if (!symbol(library, "ibv_" #name, &verbs->name)) { \
        *missing = "ibv_" #name;                        \
        return false;                                   \
    }
    TENT_VERBS_TABLE(TENT_VERBS_LOAD)
    TENT_VERBS_LOAD(reg_mr)
#undef TENT_VERBS_LOAD
    if (!symbol(library, "ibv_query_port", &old_query_port)) {
        *missing = "ibv_query_port";
        return false;
    }
    verbs->query_port = query_port;
    symbol(library, "ibv_reg_dmabuf_mr", &verbs->reg_dmabuf_mr);
    symbol(library, "_ibv_query_gid_table", &verbs->query_gid_table);
    return true;
}

const Verbs *load(std::string *why) {
    static Verbs verbs;
    const char *named = getenv("TENT_LIBIBVERBS");
    const bool own = named != nullptr && *named != '\0';
    const char *file = own ? named : LIBRARY;
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
        const char *said = dlerror();
        *why = std::string(file) + " cannot be opened: " + (said != nullptr ? said : "no reason") +
               (own ? "; TENT_LIBIBVERBS names it"
                    : "; apt-get install libibverbs1 ibverbs-providers (Debian, Ubuntu), dnf "
                      "install libibverbs (Fedora, RHEL)");
        return nullptr;
    }
    const char *missing = nullptr;
    if (symbols(library, &verbs, &missing)) return &verbs;
    *why = std::string(file) + " has no " + missing +
           ": it is older than rdma-core 17, or no libibverbs; install a newer one";
    return nullptr;
}

}  // namespace

const Verbs *verbs_load(std::string *why) {
    static std::mutex mutex;
    static const Verbs *loaded;
    const std::lock_guard lock(mutex);
    // A library that was missing may be installed later.
    if (loaded == nullptr) loaded = load(why);
    return loaded;
}

}  // namespace tent::rdma
