// key.h - finding the secret that all engines which may talk to each other share.
//
// Leans on the file system only. A key is raw bytes, KEY_SIZE_MIN to KEY_SIZE_MAX of them; one
// trailing newline of a key file does not belong to it. Must never log key bytes, nor accept a file
// that other users could have read or written.
//
// Thread-safety: may be called from any thread; reads the environment (getenv). Blocks for file
// operations. Several processes that make the per-user file at the same time end with the same key.
#ifndef TENT_WIRE_KEY_H
#define TENT_WIRE_KEY_H

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tent {

inline constexpr size_t KEY_SIZE_MIN = 16;
inline constexpr size_t KEY_SIZE_MAX = 4096;
inline constexpr size_t USER_KEY_SIZE = 32;

// Where a key may come from, in this order; the first that is given decides, and if it is bad
// nothing later is tried.
struct KeySources {
    const void *bytes = nullptr;  // given by the caller
    uint64_t size = 0;
    const char *file = nullptr;  // named by the caller; NULL or "": not given
    // then TENT_KEY_FILE from the environment, then, if this is true (the engine binds to loopback
    // only), the per-user file, made on first use.
    bool allow_user_file = false;
};

// Loads the key. *from_user_file (may be NULL) tells whether it is the per-user one, with which an
// engine must not listen beyond loopback. A named file must be regular, owned by us with no access
// for group and others, or owned by root with at most group read (mounted secrets); symlinks to
// such a file are followed. The per-user file is stricter: no symlink, owned by us, 0600 or less,
// in a folder of ours with 0700 or less. Errors: INVALID (size of the explicit bytes), AUTH (no key
// given and allow_user_file is false; a file is unsafe, empty, too short or too long), SYSTEM (a
// file cannot be opened, read or made). The sentence names file and cure.
[[nodiscard]] int32_t load_key(const KeySources &sources, bool *from_user_file,
                               std::vector<uint8_t> *key);

}  // namespace tent
#endif
