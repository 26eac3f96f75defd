// opening.h - how a data connection proves which session, endpoint and connection number it belongs
// to.
//
// The initiator sends TENT_OPENING_SIZE bytes first (they begin with the word "TNTD"), the target
// answers with TENT_OPENING_REPLY_SIZE bytes; both carry an HMAC under the session's data key. The
// target finds the session by the parsed (not yet trusted) session id, then verifies. Leans on
// wire/crypto.h and wire/handshake.h. Must never let a parsed opening act before verify_opening
// said TENT_OK.
//
// Thread-safety: pure functions.
#ifndef TENT_WIRE_OPENING_H
#define TENT_WIRE_OPENING_H

#include <cstddef>
#include <cstdint>

#include <tent/plugin.h>

#include "wire/handshake.h"

namespace tent {

inline constexpr size_t OPENING_NONCE_SIZE = 16;
inline constexpr uint32_t CONNECTIONS_PER_ENDPOINT_MAX = 64;

struct Opening {
    uint64_t session_id = 0;
    uint64_t endpoint = 0;      // the initiator's endpoint number
    uint32_t connection = 0;    // number within the endpoint, < CONNECTIONS_PER_ENDPOINT_MAX
    uint64_t target_epoch = 0;  // the target's epoch as the initiator knows it
    uint8_t nonce[OPENING_NONCE_SIZE] = {};
};

// Initiator: writes the opening. Keep `opening` until the reply was checked. Errors: INVALID
// (connection number), SYSTEM.
[[nodiscard]] int32_t make_opening(const SessionKey &key, const Opening &opening,
                                   uint8_t out[TENT_OPENING_SIZE]);
// Target: reads the fields, trusting nothing. Errors: PROTOCOL (first word, version, reserved
// bytes, connection number).
[[nodiscard, gnu::nonnull]] int32_t parse_opening(const uint8_t bytes[TENT_OPENING_SIZE],
                                                  Opening *opening);
// Target: checks the proof over the bytes as received, then the epoch. Errors: AUTH, STALE.
[[nodiscard, gnu::nonnull]] int32_t verify_opening(const SessionKey &key,
                                                   const uint8_t bytes[TENT_OPENING_SIZE],
                                                   uint64_t own_epoch);
// Target: marks a connection number of an endpoint as used; *seen starts at 0 and lives as long as
// the endpoint. AUTH when it was used before: a recorded opening sent again must not be adopted. To
// be called after verify_opening.
[[nodiscard]] int32_t claim_connection(uint64_t *seen, uint32_t connection);

// Target: writes the reply; status TENT_OK: adopted, negative: refused for that reason. Errors:
// SYSTEM.
[[nodiscard]] int32_t make_reply(const SessionKey &key, const Opening &opening, int32_t status,
                                 uint8_t out[TENT_OPENING_REPLY_SIZE]);
// Initiator: TENT_OK when the authentic target adopted this opening; its status when it refused;
// AUTH when the reply is not authentic or answers another opening; PROTOCOL when malformed.
[[nodiscard, gnu::nonnull]] int32_t check_reply(const SessionKey &key, const Opening &opening,
                                                const uint8_t reply[TENT_OPENING_REPLY_SIZE]);

}  // namespace tent
#endif
