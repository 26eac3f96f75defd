// crypto.cc - libcrypto by dlopen: see crypto.h.
//
// The three functions used (HMAC, EVP_sha256, CRYPTO_memcmp) have the same signature in OpenSSL 1.1
// and 3. The handle is never closed: other threads may be inside it at any time.
#include "wire/crypto.h"

#include <dlfcn.h>

#include <cstring>
#include <mutex>

#include <tent/tent.h>

#include "base/status.h"

namespace tent {
namespace {

using HmacFunction = unsigned char *(*)(const void *md, const void *key, int key_size,
                                        const unsigned char *data, size_t size, unsigned char *out,
                                        unsigned int *out_size);
using DigestFunction = const void *(*)();
using CompareFunction = int (*)(const void *a, const void *b, size_t size);

struct Library {
    HmacFunction hmac = nullptr;
    CompareFunction compare = nullptr;
    const void *sha256 = nullptr;
    [[nodiscard]] bool usable() const { return sha256 != nullptr; }
};

// Fills *library only when all of it is there.
bool load(void *handle, Library *library) {
    const auto hmac = reinterpret_cast<HmacFunction>(dlsym(handle, "HMAC"));
    const auto digest = reinterpret_cast<DigestFunction>(dlsym(handle, "EVP_sha256"));
    const auto compare = reinterpret_cast<CompareFunction>(dlsym(handle, "CRYPTO_memcmp"));
    if (hmac == nullptr || digest == nullptr || compare == nullptr) return false;
    const void *sha256 = digest();
    if (sha256 == nullptr) return false;
    *library = Library{hmac, compare, sha256};
    // A library in a mode that refuses HMAC-SHA256 must be found out now, not in a handshake.
    const uint8_t byte = 0;
    uint8_t tag[SHA256_SIZE];
    unsigned int size = 0;
    if (hmac(sha256, &byte, 1, &byte, 1, tag, &size) != nullptr && size == SHA256_SIZE) return true;
    *library = Library{};
    return false;
}

const Library &library() {
    static std::once_flag once;
    static Library loaded;
    std::call_once(once, [] {
        for (const char *name : {"libcrypto.so.3", "libcrypto.so.1.1", "libcrypto.so"}) {
            void *handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
            if (handle == nullptr) continue;
            if (load(handle, &loaded)) return;
            dlclose(handle);
        }
    });
    return loaded;
}

}  // namespace

int32_t crypto_available() {
    if (library().usable()) return TENT_OK;
    return fail(TENT_E_SYSTEM,
                "no usable libcrypto (tried libcrypto.so.3, libcrypto.so.1.1, "
                "libcrypto.so): engines prove themselves with its HMAC-SHA256; install "
                "OpenSSL 3 (packages libssl3, openssl-libs) or put it on the library path");
}

bool hmac_sha256(Bytes key, Bytes data, uint8_t out[SHA256_SIZE]) {
    std::memset(out, 0, SHA256_SIZE);
    const Library &crypto = library();
    if (!crypto.usable() || key.size() > INT32_MAX) return false;
    // HMAC() reads a NULL key as "keep the last one": an empty span must still be a pointer.
    static constexpr uint8_t nothing = 0;
    unsigned int size = 0;
    const unsigned char *tag = crypto.hmac(
        crypto.sha256, key.empty() ? &nothing : key.data(), static_cast<int>(key.size()),
        data.empty() ? &nothing : data.data(), data.size(), out, &size);
    if (tag != nullptr && size == SHA256_SIZE) return true;
    std::memset(out, 0, SHA256_SIZE);
    return false;
}

bool hmac_sha256_parts(Bytes key, std::initializer_list<Bytes> parts, uint8_t out[SHA256_SIZE]) {
    uint8_t whole[HMAC_PARTS_MAX];
    size_t used = 0;
    for (const Bytes part : parts) {
        if (part.size() > sizeof(whole) - used) {
            std::memset(out, 0, SHA256_SIZE);
            return false;
        }
        if (!part.empty()) std::memcpy(whole + used, part.data(), part.size());
        used += part.size();
    }
    return hmac_sha256(key, Bytes(whole, used), out);
}

bool equal_constant_time(const void *a, const void *b, size_t size) {
    const Library &crypto = library();
    return crypto.usable() && crypto.compare(a, b, size) == 0;
}

}  // namespace tent
