// See messages.h.
#include "messages.h"

#include <tent/plugin.h>

#include <cstring>

namespace tent::rdma {
namespace {

constexpr uint32_t ACCESS_ALL = TENT_ACCESS_READ | TENT_ACCESS_WRITE;
// What every page size is a multiple of.
constexpr uint64_t PAGE_MIN = 4096;

static_assert(sizeof(Keys) + 4 * KEYS_PER_MESSAGE <= TENT_OFFER_MAX);
static_assert(sizeof(Export) <= TENT_EXPORT_MAX);

}  // namespace

bool export_read(const void *bytes, uint32_t size, Export *out, uint32_t *piece_count) {
    if (size != sizeof *out) return false;
    memcpy(out, bytes, sizeof *out);
    if (out->magic != EXPORT_MAGIC || out->version != PROTOCOL_VERSION) return false;
    if ((out->access & ~ACCESS_ALL) != 0 || out->number == 0) return false;
    if (out->length == 0 || out->address > UINT64_MAX - out->length) return false;
    if (out->piece_size == 0) return false;
    if (out->piece_size >= out->length) {
        *piece_count = 1;
        return true;
    }
    if (out->piece_size % PAGE_MIN != 0) return false;
    const uint64_t count =
        out->length / out->piece_size + (out->length % out->piece_size != 0 ? 1 : 0);
    if (count > PIECES_MAX) return false;
    *piece_count = static_cast<uint32_t>(count);
    return true;
}

bool want_read(const void *bytes, uint32_t size, Want *out) {
    if (size != sizeof *out) return false;
    memcpy(out, bytes, sizeof *out);
    return out->type == Message::WANT && out->piece < PIECES_MAX;
}

bool keys_read(const void *bytes, uint32_t size, KeysRead *out) {
    if (size < sizeof out->head) return false;
    memcpy(&out->head, bytes, sizeof out->head);
    out->count = 0;
    if (out->head.type != Message::KEYS) return false;
    if (out->head.status != TENT_OK) return size == sizeof out->head;
    const uint32_t pieces = out->head.piece_count;
    const uint32_t qps = out->head.qp_count;
    if (pieces == 0 || pieces > KEYS_PER_MESSAGE || qps == 0 || qps > QPS_MAX) return false;
    if (pieces * qps > KEYS_PER_MESSAGE || size != sizeof out->head + 4 * pieces * qps)
        return false;
    if (out->head.piece >= PIECES_MAX) return false;
    if ((out->head.access & ~(ACCESS_ALL | KEYS_OF_WINDOWS)) != 0) return false;
    if ((out->head.access & ACCESS_ALL) == 0) return false;
    out->count = pieces * qps;
    memcpy(out->numbers, static_cast<const uint8_t *>(bytes) + sizeof out->head,
           sizeof(uint32_t) * out->count);
    return true;
}

uint32_t keys_write(const KeysRead &keys, void *bytes) {
    memcpy(bytes, &keys.head, sizeof keys.head);
    memcpy(static_cast<uint8_t *>(bytes) + sizeof keys.head, keys.numbers,
           sizeof(uint32_t) * keys.count);
    return static_cast<uint32_t>(sizeof keys.head + sizeof(uint32_t) * keys.count);
}

}  // namespace tent::rdma
