// See mutant.h.
#include "mutant.h"

#ifdef TENT_MUTANTS
#include <cstdlib>
#include <cstring>

namespace tent::rdma {

namespace {

int read_alive() {
    const char *wanted = getenv("TENT_MUTANT");
    if (!wanted) return -1;
    int index = 0;
#define TENT_RDMA_MUTANT_MATCH(name, what)        \
    if (strcmp(wanted, #name) == 0) return index; \
    index++;
    TENT_RDMA_MUTANT_TABLE(TENT_RDMA_MUTANT_MATCH)
#undef TENT_RDMA_MUTANT_MATCH
    return -1;  // one of the core's
}

}  // namespace

bool mutant(Mutant which) {
    static const int alive = read_alive();
    return alive == static_cast<int>(which);
}

}  // namespace tent::rdma
#endif
