// Checked fields of wire structures: see codec.h.
#include "wire/codec.h"

#include <tent/tent.h>

#include "base/status.h"

namespace tent {
namespace {

// Length in bytes of the valid, printable character at the front of text; 0: none.
size_t character_size(std::string_view text) {
    const auto at = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
    const uint8_t lead = at(0);
    if (lead < 0x80) {
        return lead >= 0x20 && lead != 0x7f ? 1 : 0;
    }
    size_t size = 0;
    uint32_t code = 0;
    uint32_t code_min = 0;
    if ((lead & 0xe0) == 0xc0) {
        size = 2, code = lead & 0x1fu, code_min = 0xa0;  // below it: overlong forms and C1 controls
    } else if ((lead & 0xf0) == 0xe0) {
        size = 3, code = lead & 0x0fu, code_min = 0x800;
    } else if ((lead & 0xf8) == 0xf0) {
        size = 4, code = lead & 0x07u, code_min = 0x10000;
    }
    if (size == 0 || text.size() < size) {
        return 0;
    }
    for (size_t i = 1; i < size; i++) {
        if ((at(i) & 0xc0) != 0x80) {
            return 0;
        }
        code = code << 6 | (at(i) & 0x3fu);
    }
    const bool surrogate = code >= 0xd800 && code <= 0xdfff;
    return code >= code_min && code <= 0x10ffff && !surrogate ? size : 0;
}

int32_t cut_off(const ByteReader &reader, const char *what) {
    return fail(TENT_E_PROTOCOL, "%s at byte %zu does not fit in the bytes that are there", what,
                reader.offset());
}

}  // namespace

bool valid_text(std::string_view text) {
    while (!text.empty()) {
        const size_t size = character_size(text);
        if (size == 0) {
            return false;
        }
        text.remove_prefix(size);
    }
    return true;
}

std::string clean_text(std::string_view text, size_t max) {
    std::string clean;
    while (!text.empty()) {
        const size_t size = character_size(text);
        const std::string_view character = size == 0 ? std::string_view("?") : text.substr(0, size);
        if (clean.size() + character.size() > max) {
            break;
        }
        clean += character;
        text.remove_prefix(size == 0 ? 1 : size);
    }
    return clean;
}

int32_t write_text(ByteWriter &writer, std::string_view text, size_t max, const char *what) {
    if (text.size() > max) {
        return fail(TENT_E_INVALID, "%s has %zu bytes, at most %zu are allowed", what, text.size(),
                    max);
    }
    if (!valid_text(text)) {
        return fail(TENT_E_INVALID, "%s is not UTF-8 text without control characters", what);
    }
    writer.str(text);
    return TENT_OK;
}

int32_t read_text(ByteReader &reader, size_t max, const char *what, std::string *text) {
    const size_t offset = reader.offset();
    const std::string_view view = reader.str(max);
    if (!reader.ok()) {
        return fail(TENT_E_PROTOCOL, "%s at byte %zu is cut off or longer than %zu bytes", what,
                    offset, max);
    }
    if (!valid_text(view)) {
        return fail(TENT_E_PROTOCOL, "%s at byte %zu is not UTF-8 text without control characters",
                    what, offset);
    }
    text->assign(view);
    return TENT_OK;
}

int32_t write_blob(ByteWriter &writer, const std::vector<uint8_t> &blob, size_t max,
                   const char *what) {
    if (blob.size() > max) {
        return fail(TENT_E_INVALID, "%s has %zu bytes, at most %zu are allowed", what, blob.size(),
                    max);
    }
    writer.u32(static_cast<uint32_t>(blob.size()));
    writer.bytes(blob.data(), blob.size());
    return TENT_OK;
}

int32_t read_blob(ByteReader &reader, size_t max, const char *what, std::vector<uint8_t> *blob) {
    const size_t offset = reader.offset();
    const uint32_t size = reader.u32();
    if (!reader.ok() || size > max || size > reader.rest()) {
        return fail(TENT_E_PROTOCOL, "%s at byte %zu is cut off or longer than %zu bytes", what,
                    offset, max);
    }
    const std::span<const uint8_t> view = reader.view(size);
    blob->assign(view.begin(), view.end());
    return TENT_OK;
}

int32_t read_count(ByteReader &reader, uint32_t max, size_t item_size_min, const char *what,
                   uint32_t *count) {
    const size_t offset = reader.offset();
    *count = reader.u32();
    if (!reader.ok()) {
        return cut_off(reader, what);
    }
    if (*count > max) {
        return fail(TENT_E_PROTOCOL, "%s at byte %zu is %u, at most %u are allowed", what, offset,
                    *count, max);
    }
    if (*count > reader.rest() / item_size_min) {
        return fail(TENT_E_PROTOCOL, "%s at byte %zu is %u, more than the %zu bytes left can hold",
                    what, offset, *count, reader.rest());
    }
    return TENT_OK;
}

int32_t read_flag(ByteReader &reader, const char *what, bool *flag) {
    const size_t offset = reader.offset();
    const uint8_t value = reader.u8();
    if (!reader.ok()) {
        return cut_off(reader, what);
    }
    if (value > 1) {
        return fail(TENT_E_PROTOCOL, "%s at byte %zu is %u, only 0 or 1 are allowed", what, offset,
                    static_cast<unsigned>(value));
    }
    *flag = value == 1;
    return TENT_OK;
}

int32_t finish(const ByteReader &reader, const char *what) {
    if (!reader.ok()) {
        return cut_off(reader, what);
    }
    if (reader.rest() != 0) {
        return fail(TENT_E_PROTOCOL, "%s ends at byte %zu but %zu bytes follow", what,
                    reader.offset(), reader.rest());
    }
    return TENT_OK;
}

}  // namespace tent
