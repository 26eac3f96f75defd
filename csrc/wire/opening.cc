// Openings of data connections and their replies: see opening.h.
//
//   opening: 96 bytes of fields, HMAC-SHA256(data key, "tent data opening 1\0", fields)
//   fields:  "TNTD", u16 major, u16 flags (0), u64 session, u64 endpoint, u32 connection, u32 0,
//            u64 target epoch, 16 bytes nonce, 40 bytes 0
//   reply:   32 bytes of words, HMAC-SHA256(data key, "tent data reply 1\0", fields, words)
//   words:   "TNTR", i32 status, u64 session, u64 endpoint, u32 connection, u32 0
#include "wire/opening.h"

#include <cstring>

#include "base/bytes.h"
#include "base/status.h"
#include "wire/messages.h"

namespace tent {
namespace {

constexpr char LABEL_OPENING[] = "tent data opening 1";
constexpr char LABEL_REPLY[] = "tent data reply 1";
constexpr uint8_t FIRST_WORD_REPLY[FIRST_WORD_SIZE] = {'T', 'N', 'T', 'R'};
constexpr size_t OPENING_FIELDS_SIZE = TENT_OPENING_SIZE - SHA256_SIZE;
constexpr size_t REPLY_FIELDS_SIZE = TENT_OPENING_REPLY_SIZE - SHA256_SIZE;
static_assert(CONNECTIONS_PER_ENDPOINT_MAX == 64, "claim_connection keeps them in one u64");

template <size_t N>
Bytes label_bytes(const char (&label)[N]) {
    return {reinterpret_cast<const uint8_t *>(label), N};
}

Bytes data_key(const SessionKey &key) {
    return {key.data, sizeof(key.data)};
}

void write_fields(const Opening &opening, uint8_t out[OPENING_FIELDS_SIZE]) {
    std::memset(out, 0, OPENING_FIELDS_SIZE);
    ByteWriter writer(out, OPENING_FIELDS_SIZE);
    writer.bytes(FIRST_WORD_DATA, FIRST_WORD_SIZE);
    writer.u16(WIRE_VERSION_MAJOR);
    writer.u16(0);
    writer.u64(opening.session_id);
    writer.u64(opening.endpoint);
    writer.u32(opening.connection);
    writer.u32(0);
    writer.u64(opening.target_epoch);
    writer.bytes(opening.nonce, OPENING_NONCE_SIZE);
}

int32_t crypto_refused() {
    return fail(TENT_E_SYSTEM, "libcrypto refused to compute a data connection's HMAC-SHA256");
}

bool reply_mac(const SessionKey &key, const Opening &opening, const uint8_t *reply,
               uint8_t out[SHA256_SIZE]) {
    uint8_t fields[OPENING_FIELDS_SIZE];
    write_fields(opening, fields);
    return hmac_sha256_parts(
        data_key(key),
        {label_bytes(LABEL_REPLY), Bytes(fields, sizeof(fields)), Bytes(reply, REPLY_FIELDS_SIZE)},
        out);
}

}  // namespace

int32_t make_opening(const SessionKey &key, const Opening &opening,
                     uint8_t out[TENT_OPENING_SIZE]) {
    std::memset(out, 0, TENT_OPENING_SIZE);
    if (opening.connection >= CONNECTIONS_PER_ENDPOINT_MAX) {
        return fail(TENT_E_INVALID, "connection number %u: an endpoint has at most %u connections",
                    opening.connection, CONNECTIONS_PER_ENDPOINT_MAX);
    }
    write_fields(opening, out);
    if (!hmac_sha256_parts(data_key(key),
                           {label_bytes(LABEL_OPENING), Bytes(out, OPENING_FIELDS_SIZE)},
                           out + OPENING_FIELDS_SIZE)) {
        return crypto_refused();
    }
    return TENT_OK;
}

int32_t parse_opening(const uint8_t bytes[TENT_OPENING_SIZE], Opening *opening) {
    ByteReader reader(bytes, TENT_OPENING_SIZE);
    uint8_t word[FIRST_WORD_SIZE];
    reader.bytes(word, sizeof(word));
    const uint16_t major = reader.u16();
    reader.u16();
    opening->session_id = reader.u64();
    opening->endpoint = reader.u64();
    opening->connection = reader.u32();
    reader.u32();
    opening->target_epoch = reader.u64();
    reader.bytes(opening->nonce, OPENING_NONCE_SIZE);
    if (classify_connection(word) != ConnectionKind::DATA) {
        return fail(TENT_E_PROTOCOL, "a data connection did not open with \"TNTD\"");
    }
    if (major != WIRE_VERSION_MAJOR) {
        return fail(
            TENT_E_PROTOCOL,
            "a data connection speaks wire version %u, we speak %u: update the older of the two",
            static_cast<unsigned>(major), static_cast<unsigned>(WIRE_VERSION_MAJOR));
    }
    if (opening->connection >= CONNECTIONS_PER_ENDPOINT_MAX) {
        return fail(TENT_E_PROTOCOL, "a data connection has number %u: at most %u per endpoint",
                    opening->connection, CONNECTIONS_PER_ENDPOINT_MAX);
    }
    // Written again from its fields it must be the same: so flags and reserved bytes are 0.
    uint8_t again[OPENING_FIELDS_SIZE];
    write_fields(*opening, again);
    if (std::memcmp(again, bytes, sizeof(again)) != 0) {
        return fail(TENT_E_PROTOCOL,
                    "a data connection's opening has reserved bytes that are not 0");
    }
    return TENT_OK;
}

int32_t verify_opening(const SessionKey &key, const uint8_t bytes[TENT_OPENING_SIZE],
                       uint64_t own_epoch) {
    uint8_t mac[SHA256_SIZE];
    if (!hmac_sha256_parts(data_key(key),
                           {label_bytes(LABEL_OPENING), Bytes(bytes, OPENING_FIELDS_SIZE)}, mac)) {
        return crypto_refused();
    }
    if (!equal_constant_time(mac, bytes + OPENING_FIELDS_SIZE, sizeof(mac))) {
        return fail(TENT_E_AUTH, "a data connection's opening is not authentic");
    }
    Opening opening;
    if (const int32_t status = parse_opening(bytes, &opening); status != TENT_OK) {
        return status;
    }
    if (opening.target_epoch != own_epoch) {
        return fail(TENT_E_STALE,
                    "a data connection is for epoch %llx of this engine, now it is %llx",
                    static_cast<unsigned long long>(opening.target_epoch),
                    static_cast<unsigned long long>(own_epoch));
    }
    return TENT_OK;
}

int32_t claim_connection(uint64_t *seen, uint32_t connection) {
    if (connection >= CONNECTIONS_PER_ENDPOINT_MAX) {
        return fail(TENT_E_PROTOCOL, "a data connection has number %u: at most %u per endpoint",
                    connection, CONNECTIONS_PER_ENDPOINT_MAX);
    }
    const uint64_t bit = uint64_t{1} << connection;
    if ((*seen & bit) != 0) {
        return fail(TENT_E_AUTH,
                    "data connection number %u of an endpoint was opened twice (replayed?)",
                    connection);
    }
    *seen |= bit;
    return TENT_OK;
}

int32_t make_reply(const SessionKey &key, const Opening &opening, int32_t status,
                   uint8_t out[TENT_OPENING_REPLY_SIZE]) {
    ByteWriter writer(out, REPLY_FIELDS_SIZE);
    writer.bytes(FIRST_WORD_REPLY, FIRST_WORD_SIZE);
    writer.u32(static_cast<uint32_t>(status));
    writer.u64(opening.session_id);
    writer.u64(opening.endpoint);
    writer.u32(opening.connection);
    writer.u32(0);
    if (!reply_mac(key, opening, out, out + REPLY_FIELDS_SIZE)) {
        std::memset(out, 0, TENT_OPENING_REPLY_SIZE);
        return crypto_refused();
    }
    return TENT_OK;
}

int32_t check_reply(const SessionKey &key, const Opening &opening,
                    const uint8_t reply[TENT_OPENING_REPLY_SIZE]) {
    uint8_t mac[SHA256_SIZE];
    if (!reply_mac(key, opening, reply, mac)) {
        return crypto_refused();
    }
    if (std::memcmp(reply, FIRST_WORD_REPLY, FIRST_WORD_SIZE) != 0) {
        return fail(TENT_E_PROTOCOL,
                    "the peer's reply to a data connection does not begin with "
                    "\"TNTR\": something else listens there");
    }
    if (!equal_constant_time(mac, reply + REPLY_FIELDS_SIZE, sizeof(mac))) {
        return fail(TENT_E_AUTH, "the peer's reply to a data connection is not authentic");
    }
    // Authentic, so these fields are the peer's own; they can differ only by a mistake in it.
    ByteReader reader(reply + FIRST_WORD_SIZE, REPLY_FIELDS_SIZE - FIRST_WORD_SIZE);
    const auto status = static_cast<int32_t>(reader.u32());
    const uint64_t session_id = reader.u64();
    const uint64_t endpoint = reader.u64();
    const uint32_t connection = reader.u32();
    const uint32_t reserved = reader.u32();
    if (!valid_wire_status(status) || session_id != opening.session_id ||
        endpoint != opening.endpoint || connection != opening.connection || reserved != 0) {
        return fail(TENT_E_PROTOCOL, "the peer's reply to a data connection is malformed");
    }
    if (status != TENT_OK) {
        return fail(status, "the peer refused data connection %u of endpoint %llu: %s",
                    opening.connection, static_cast<unsigned long long>(opening.endpoint),
                    status_text(status));
    }
    return TENT_OK;
}

}  // namespace tent
