// See mutant.h.
#include "base/mutant.h"

#ifdef TENT_MUTANTS
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace tent {

namespace {

int read_alive() {
    const char *wanted = getenv("TENT_MUTANT");
    if (!wanted || !*wanted) return -1;
    if (strncmp(wanted, "shm_", 4) == 0 || strncmp(wanted, "rdma_", 5) == 0)
        return -1;  // a plugin's
    int index = 0;
#define TENT_MUTANT_MATCH(name, what)             \
    if (strcmp(wanted, #name) == 0) return index; \
    index++;
    TENT_MUTANT_TABLE(TENT_MUTANT_MATCH)
#undef TENT_MUTANT_MATCH
    fprintf(stderr, "TENT_MUTANT=%s names no mutant\n", wanted);
    abort();
}

}  // namespace

bool mutant(Mutant which) {
    static const int alive = read_alive();
    return alive == static_cast<int>(which);
}

}  // namespace tent
#endif
