// crypto.h - HMAC-SHA256 and constant-time comparison, from the machine's libcrypto.
//
// Leans on OpenSSL 3 or 1.1 opened at run time (dlopen), so the library itself links no
// cryptography and an engine that cannot find one says so at open. Must never implement a primitive
// of its own, nor go on without one: where libcrypto is missing every function here fails closed.
//
// Thread-safety: every function may be called from any thread; the library is opened once, by
// whoever asks first.
#ifndef TENT_WIRE_CRYPTO_H
#define TENT_WIRE_CRYPTO_H

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>

namespace tent {

inline constexpr size_t SHA256_SIZE = 32;

using Bytes = std::span<const uint8_t>;

// TENT_OK when HMAC-SHA256 is usable; otherwise TENT_E_SYSTEM with a sentence that says what to
// install. To be asked once at engine open; the functions below then do not fail for want of a
// library.
[[nodiscard]] int32_t crypto_available();

// HMAC-SHA256 of `data` under `key` (RFC 2104). False (and out zeroed) only when libcrypto is
// missing or refuses: the caller must treat that as a failed check, never as a tag.
[[nodiscard]] bool hmac_sha256(Bytes key, Bytes data, uint8_t out[SHA256_SIZE]);

// The same over the concatenation of `parts`, which together are at most HMAC_PARTS_MAX bytes
// (more: false). The caller keeps the concatenation unambiguous: fixed sizes, or length prefixes
// inside the parts.
inline constexpr size_t HMAC_PARTS_MAX = 2048;
[[nodiscard]] bool hmac_sha256_parts(Bytes key, std::initializer_list<Bytes> parts,
                                     uint8_t out[SHA256_SIZE]);

// Whether two secrets of one size are equal, in time that depends on `size` only (CRYPTO_memcmp).
// False without libcrypto.
[[nodiscard]] bool equal_constant_time(const void *a, const void *b, size_t size);

}  // namespace tent
#endif
