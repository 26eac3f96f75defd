// The Unix socket that peers connect to: its folder, its file, what killed processes left there,
// and visitors that have not said yet whose they are.
//
// Leans on state.h. Nothing blocks. Thread-safety: the driver's. Must never remove what another
// live process listens on, nor trust a folder that another user can write to.
#ifndef TENT_PLUGINS_SHM_LISTEN_H
#define TENT_PLUGINS_SHM_LISTEN_H

#include "state.h"

namespace tent::shm {

// Where the folder may be made, best first. runtime: $XDG_RUNTIME_DIR, may be nullptr.
std::vector<std::string> listener_bases(const Options &options, const char *runtime);
// Listens in the first that serves; not OK: none does, and the sentence says why.
int32_t listener_open(Instance &instance, const std::vector<std::string> &bases,
                      std::string *sentence);
void listener_close(Instance &instance);
// Takes who has connected, shows out whom we do not know.
void listener_accept(Instance &instance);
// Visitors that said nothing for too long; a listener that paused for lack of descriptors.
void listener_step(Instance &instance, uint64_t now_ns);
uint64_t listener_due_ns(const Instance &instance);
bool user_allowed(const Instance &instance, uint32_t uid);
// The visitor stops being one; its descriptor stays open, and watched.
void visitor_forget(Instance &instance, int fd);

}  // namespace tent::shm

#endif
