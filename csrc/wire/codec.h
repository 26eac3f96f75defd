// Checked fields of wire structures: texts, blobs and the end of a payload, with sentences that
// name field and offset.
//
// Private to csrc/wire. Leans on base/bytes.h and base/status.h. Readers return PROTOCOL ("... at
// byte n"), writers INVALID; a writer that merely ran out of room reports it through
// ByteWriter::ok(). Must never let a text through that could break a terminal, a log line or a
// UTF-8 decoder.
//
// Thread-safety: pure functions.
#ifndef TENT_WIRE_CODEC_H
#define TENT_WIRE_CODEC_H

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"

namespace tent {

// Valid UTF-8 without control characters (C0, DEL, C1).
[[nodiscard]] bool valid_text(std::string_view text);
// The text made valid ('?' for what is not) and cut to `max` bytes at a character's edge.
[[nodiscard]] std::string clean_text(std::string_view text, size_t max);

// u16 length, bytes.
[[nodiscard]] int32_t write_text(ByteWriter &writer, std::string_view text, size_t max,
                                 const char *what);
[[nodiscard]] int32_t read_text(ByteReader &reader, size_t max, const char *what,
                                std::string *text);
// u32 length, bytes.
[[nodiscard]] int32_t write_blob(ByteWriter &writer, const std::vector<uint8_t> &blob, size_t max,
                                 const char *what);
[[nodiscard]] int32_t read_blob(ByteReader &reader, size_t max, const char *what,
                                std::vector<uint8_t> *blob);
// u32 count of items that take at least item_size_min bytes each, so that memory follows the bytes
// given.
[[nodiscard]] int32_t read_count(ByteReader &reader, uint32_t max, size_t item_size_min,
                                 const char *what, uint32_t *count);
// u8 that must be 0 or 1.
[[nodiscard]] int32_t read_flag(ByteReader &reader, const char *what, bool *flag);
// PROTOCOL when a field did not fit, or bytes are left over.
[[nodiscard]] int32_t finish(const ByteReader &reader, const char *what);

}  // namespace tent
#endif
