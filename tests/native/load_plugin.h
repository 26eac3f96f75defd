// Loads a plugin that the build has made, by name, as the core would: for tests of a plugin that
// needs another one. Must never leave its symbols to others.
#pragma once

#include <dlfcn.h>
#include <tent/plugin.h>

#include <cstdio>
#include <cstdlib>
#include <string>

inline const tent_plugin *load(const char *name) {
    const std::string path = std::string(TENT_TEST_PLUGIN_DIR "/libtent_plugin_") + name + ".so";
    void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
        fprintf(stderr, "%s\n", dlerror());
        abort();
    }
    using Query = const tent_plugin *(*)(uint32_t);
    return reinterpret_cast<Query>(dlsym(library, "tent_plugin_query"))(TENT_PLUGIN_ABI);
}
