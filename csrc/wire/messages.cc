// Encoding and decoding of the control channel's messages: see messages.h; the byte tables are in
// docs/wire-protocol.md.
#include "wire/messages.h"

#include <algorithm>

#include "base/status.h"
#include "wire/codec.h"

namespace tent {
namespace {

constexpr size_t REGION_SIZE_MIN = 8 + 8 + 8 + 4 + 2 + 2 + 1;

void write_status(int32_t status, ByteWriter &writer) {
    writer.u32(static_cast<uint32_t>(status));
}

int32_t read_status(ByteReader &reader, const char *what, int32_t *status) {
    const size_t offset = reader.offset();
    *status = static_cast<int32_t>(reader.u32());
    if (!reader.ok() || !valid_wire_status(*status)) {
        return fail(TENT_E_PROTOCOL, "the status at byte %zu of a %s message is cut off or unknown",
                    offset, what);
    }
    return TENT_OK;
}

void write_sentence(const std::string &sentence, ByteWriter &writer) {
    writer.str(clean_text(sentence, SENTENCE_SIZE_MAX));
}

int32_t read_sentence(ByteReader &reader, std::string *sentence) {
    return read_text(reader, SENTENCE_SIZE_MAX, "a message's sentence", sentence);
}

int32_t invalid_number(const char *what) {
    return fail(TENT_E_INVALID, "%s must not be 0", what);
}

int32_t zero_number(const char *what) {
    return fail(TENT_E_PROTOCOL, "%s is 0", what);
}

// A message that is one number.
int32_t decode_number(ByteReader &reader, const char *what, uint64_t *number) {
    *number = reader.u64();
    return finish(reader, what);
}

}  // namespace

bool valid_wire_status(int32_t status) {
    return status <= TENT_OK && status >= TENT_E_UNSUPPORTED;
}

int32_t message_too_large(uint16_t type) {
    return fail(TENT_E_INVALID, "a %s message does not fit a frame of %u bytes",
                message_type_name(type), FRAME_PAYLOAD_MAX);
}

// ---- descriptors ------------------------------------------------------------------------------

int32_t DescribeRequest::encode(ByteWriter &writer) const {
    writer.u64(request);
    writer.u8(has_token ? 1 : 0);
    writer.u64(grant);
    writer.bytes(token, sizeof(token));
    return TENT_OK;
}

int32_t DescribeRequest::decode(ByteReader &reader) {
    request = reader.u64();
    if (const int32_t status = read_flag(reader, "DESCRIBE_REQUEST's has_token", &has_token);
        status != TENT_OK) {
        return status;
    }
    grant = reader.u64();
    reader.bytes(token, sizeof(token));
    return finish(reader, "DESCRIBE_REQUEST");
}

int32_t Describe::encode(ByteWriter &writer) const {
    if (total > DESCRIPTOR_SIZE_MAX || offset > total || bytes.size() > total - offset) {
        return fail(TENT_E_INVALID, "part of %zu bytes at %u of a descriptor of %u bytes",
                    bytes.size(), offset, total);
    }
    writer.u64(request);
    write_status(status, writer);
    write_sentence(sentence, writer);
    writer.u32(total);
    writer.u32(offset);
    return write_blob(writer, bytes, DESCRIBE_PART_SIZE_MAX, "a descriptor's part");
}

int32_t Describe::decode(ByteReader &reader) {
    request = reader.u64();
    int32_t result = read_status(reader, "DESCRIBE", &status);
    if (result == TENT_OK) {
        result = read_sentence(reader, &sentence);
    }
    if (result != TENT_OK) {
        return result;
    }
    const size_t at = reader.offset();
    total = reader.u32();
    offset = reader.u32();
    result = read_blob(reader, DESCRIBE_PART_SIZE_MAX, "a descriptor's part", &bytes);
    if (result != TENT_OK) {
        return result;
    }
    if (total > DESCRIPTOR_SIZE_MAX || offset > total || bytes.size() > total - offset) {
        return fail(TENT_E_PROTOCOL,
                    "DESCRIBE at byte %zu: a part of %zu bytes at %u of a descriptor of %u bytes",
                    at, bytes.size(), offset, total);
    }
    return finish(reader, "DESCRIBE");
}

Describe describe_part(uint64_t request, Bytes descriptor, uint32_t offset) {
    Describe part;
    part.request = request;
    part.total = static_cast<uint32_t>(descriptor.size());
    part.offset = static_cast<uint32_t>(std::min<size_t>(offset, descriptor.size()));
    const Bytes rest = descriptor.subspan(part.offset);
    const Bytes cut = rest.first(std::min(rest.size(), DESCRIBE_PART_SIZE_MAX));
    part.bytes.assign(cut.begin(), cut.end());
    return part;
}

int32_t DescribeAssembler::add(const Describe &part, uint64_t from) {
    if (part.request != request_) {
        return TENT_IN_PROGRESS;
    }
    if (part.status != TENT_OK) {
        return fail(part.status, "the peer refused to describe its segment: %s",
                    part.sentence.c_str());
    }
    if (part.offset == 0) {
        // The first part, or the first of an answer given anew over another connection.
        from_ = from;
        total_ = part.total;
        bytes_.clear();
    } else if (from != from_ && total_ > 0) {
        return TENT_IN_PROGRESS;
    }
    if (part.total != total_ || part.offset != bytes_.size() || part.bytes.empty()) {
        return fail(
            TENT_E_PROTOCOL,
            "the peer's descriptor came in parts that do not fit together: %zu bytes at %u of "
            "%u after %zu of %u",
            part.bytes.size(), part.offset, part.total, bytes_.size(), total_);
    }
    bytes_.insert(bytes_.end(), part.bytes.begin(), part.bytes.end());
    return bytes_.size() == total_ ? TENT_OK : TENT_IN_PROGRESS;
}

int32_t RegionDelta::encode(ByteWriter &writer) const {
    if (added.size() > DELTA_ADDED_MAX || removed.size() > DELTA_REMOVED_MAX) {
        return fail(
            TENT_E_INVALID,
            "a region delta with %zu added and %zu removed: at most %u and %u; send several",
            added.size(), removed.size(), DELTA_ADDED_MAX, DELTA_REMOVED_MAX);
    }
    if (version <= version_base) {
        return fail(TENT_E_INVALID, "a region delta must lead to a later version");
    }
    writer.u64(grant);
    writer.u64(version_base);
    writer.u64(version);
    writer.u32(static_cast<uint32_t>(added.size()));
    for (const DescriptorRegion &region : added) {
        if (const int32_t status = encode_region(region, writer); status != TENT_OK) {
            return status;
        }
    }
    writer.u32(static_cast<uint32_t>(removed.size()));
    for (const uint64_t region : removed) {
        writer.u64(region);
    }
    return TENT_OK;
}

int32_t RegionDelta::decode(ByteReader &reader) {
    grant = reader.u64();
    version_base = reader.u64();
    version = reader.u64();
    uint32_t count = 0;
    int32_t status = read_count(reader, DELTA_ADDED_MAX, REGION_SIZE_MIN,
                                "REGION_DELTA's count of added regions", &count);
    if (status != TENT_OK) {
        return status;
    }
    if (version <= version_base) {
        return fail(TENT_E_PROTOCOL, "REGION_DELTA at byte 8 leads from version %llu to %llu",
                    static_cast<unsigned long long>(version_base),
                    static_cast<unsigned long long>(version));
    }
    added.resize(count);
    for (DescriptorRegion &region : added) {
        if (status = decode_region(reader, &region); status != TENT_OK) {
            return status;
        }
    }
    status = read_count(reader, DELTA_REMOVED_MAX, sizeof(uint64_t),
                        "REGION_DELTA's count of removed regions", &count);
    if (status != TENT_OK) {
        return status;
    }
    removed.resize(count);
    for (uint64_t &region : removed) {
        region = reader.u64();
    }
    return finish(reader, "REGION_DELTA");
}

int32_t GrantRevoked::encode(ByteWriter &writer) const {
    writer.u64(grant);
    return TENT_OK;
}

int32_t GrantRevoked::decode(ByteReader &reader) {
    return decode_number(reader, "GRANT_REVOKED", &grant);
}

// ---- endpoints --------------------------------------------------------------------------------

int32_t EndpointOpen::encode(ByteWriter &writer) const {
    if (endpoint == 0) {
        return invalid_number("ENDPOINT_OPEN's endpoint");
    }
    if (slice_count_max == 0 || slice_count_max > SLICE_COUNT_MAX) {
        return fail(TENT_E_INVALID, "ENDPOINT_OPEN's slice_count_max is %u, it must be 1 to %u",
                    slice_count_max, SLICE_COUNT_MAX);
    }
    writer.u64(endpoint);
    writer.u64(grant);
    writer.bytes(token, sizeof(token));
    writer.u32(initiator_rail);
    writer.u32(target_rail);
    writer.u32(slice_count_max);
    int32_t status =
        write_text(writer, transport, TRANSPORT_NAME_SIZE_MAX, "ENDPOINT_OPEN's transport");
    if (status == TENT_OK) {
        status = write_text(writer, initiator_address, RAIL_ADDRESS_SIZE_MAX,
                            "ENDPOINT_OPEN's rail address");
    }
    if (status == TENT_OK) {
        status = write_blob(writer, offer, TENT_OFFER_MAX, "ENDPOINT_OPEN's offer");
    }
    return status;
}

int32_t EndpointOpen::decode(ByteReader &reader) {
    endpoint = reader.u64();
    grant = reader.u64();
    reader.bytes(token, sizeof(token));
    initiator_rail = reader.u32();
    target_rail = reader.u32();
    slice_count_max = reader.u32();
    int32_t status =
        read_text(reader, TRANSPORT_NAME_SIZE_MAX, "ENDPOINT_OPEN's transport", &transport);
    if (status == TENT_OK) {
        status = read_text(reader, RAIL_ADDRESS_SIZE_MAX, "ENDPOINT_OPEN's rail address",
                           &initiator_address);
    }
    if (status == TENT_OK) {
        status = read_blob(reader, TENT_OFFER_MAX, "ENDPOINT_OPEN's offer", &offer);
    }
    if (status == TENT_OK) {
        status = finish(reader, "ENDPOINT_OPEN");
    }
    if (status != TENT_OK) {
        return status;
    }
    if (slice_count_max == 0 || slice_count_max > SLICE_COUNT_MAX) {
        return fail(TENT_E_PROTOCOL, "ENDPOINT_OPEN's slice_count_max is %u, it must be 1 to %u",
                    slice_count_max, SLICE_COUNT_MAX);
    }
    return endpoint != 0 ? TENT_OK : zero_number("ENDPOINT_OPEN's endpoint");
}

int32_t EndpointAnswer::encode(ByteWriter &writer) const {
    writer.u64(endpoint);
    write_status(status, writer);
    write_sentence(sentence, writer);
    int32_t result = write_blob(writer, answer, TENT_OFFER_MAX, "ENDPOINT_ANSWER's answer");
    if (result != TENT_OK) {
        return result;
    }
    writer.u64(scratch);
    return write_blob(writer, scratch_export, TENT_EXPORT_MAX, "ENDPOINT_ANSWER's scratch_export");
}

int32_t EndpointAnswer::decode(ByteReader &reader) {
    endpoint = reader.u64();
    int32_t result = read_status(reader, "ENDPOINT_ANSWER", &status);
    if (result == TENT_OK) {
        result = read_sentence(reader, &sentence);
    }
    if (result == TENT_OK) {
        result = read_blob(reader, TENT_OFFER_MAX, "ENDPOINT_ANSWER's answer", &answer);
    }
    if (result == TENT_OK) {
        scratch = reader.u64();
        result =
            read_blob(reader, TENT_EXPORT_MAX, "ENDPOINT_ANSWER's scratch_export", &scratch_export);
    }
    return result == TENT_OK ? finish(reader, "ENDPOINT_ANSWER") : result;
}

int32_t EndpointRetire::encode(ByteWriter &writer) const {
    writer.u64(endpoint);
    return TENT_OK;
}

int32_t EndpointRetire::decode(ByteReader &reader) {
    return decode_number(reader, "ENDPOINT_RETIRE", &endpoint);
}

int32_t EndpointRetired::encode(ByteWriter &writer) const {
    writer.u64(endpoint);
    write_status(status, writer);
    write_sentence(sentence, writer);
    return TENT_OK;
}

int32_t EndpointRetired::decode(ByteReader &reader) {
    endpoint = reader.u64();
    int32_t result = read_status(reader, "ENDPOINT_RETIRED", &status);
    if (result == TENT_OK) {
        result = read_sentence(reader, &sentence);
    }
    return result == TENT_OK ? finish(reader, "ENDPOINT_RETIRED") : result;
}

int32_t PluginMessage::encode(ByteWriter &writer) const {
    if (number == 0) {
        return invalid_number("PLUGIN_MESSAGE's number");
    }
    writer.u64(endpoint);
    writer.u64(number);
    writer.u8(from_initiator ? 1 : 0);
    return write_blob(writer, bytes, TENT_OFFER_MAX, "PLUGIN_MESSAGE's bytes");
}

int32_t PluginMessage::decode(ByteReader &reader) {
    endpoint = reader.u64();
    number = reader.u64();
    int32_t status = read_flag(reader, "PLUGIN_MESSAGE's from_initiator", &from_initiator);
    if (status == TENT_OK) {
        status = read_blob(reader, TENT_OFFER_MAX, "PLUGIN_MESSAGE's bytes", &bytes);
    }
    if (status == TENT_OK) {
        status = finish(reader, "PLUGIN_MESSAGE");
    }
    if (status == TENT_OK && number == 0) {
        status = zero_number("PLUGIN_MESSAGE's number");
    }
    return status;
}

// ---- notices and the connection itself ---------------------------------------------------------

int32_t Notice::encode(ByteWriter &writer) const {
    if (number == 0) {
        return invalid_number("NOTICE's number");
    }
    writer.u64(number);
    return write_blob(writer, bytes, NOTICE_SIZE_MAX, "NOTICE's bytes");
}

int32_t Notice::decode(ByteReader &reader) {
    number = reader.u64();
    int32_t status = read_blob(reader, NOTICE_SIZE_MAX, "NOTICE's bytes", &bytes);
    if (status == TENT_OK) {
        status = finish(reader, "NOTICE");
    }
    if (status == TENT_OK && number == 0) {
        status = zero_number("NOTICE's number");
    }
    return status;
}

int32_t NoticeAck::encode(ByteWriter &writer) const {
    writer.u64(number);
    write_status(status, writer);
    return TENT_OK;
}

int32_t NoticeAck::decode(ByteReader &reader) {
    number = reader.u64();
    const int32_t result = read_status(reader, "NOTICE_ACK", &status);
    return result == TENT_OK ? finish(reader, "NOTICE_ACK") : result;
}

int32_t Ping::encode(ByteWriter &writer) const {
    writer.u64(number);
    return TENT_OK;
}

int32_t Ping::decode(ByteReader &reader) {
    return decode_number(reader, "PING", &number);
}

int32_t Pong::encode(ByteWriter &writer) const {
    writer.u64(number);
    return TENT_OK;
}

int32_t Pong::decode(ByteReader &reader) {
    return decode_number(reader, "PONG", &number);
}

int32_t Bye::encode(ByteWriter &) const {
    return TENT_OK;
}

int32_t Bye::decode(ByteReader &reader) {
    return finish(reader, "BYE");
}

int32_t Error::encode(ByteWriter &writer) const {
    if (status >= TENT_OK || !valid_wire_status(status)) {
        return fail(TENT_E_INVALID, "an ERROR message with status %d", status);
    }
    write_status(status, writer);
    write_sentence(sentence, writer);
    return TENT_OK;
}

int32_t Error::decode(ByteReader &reader) {
    int32_t result = read_status(reader, "ERROR", &status);
    if (result == TENT_OK) {
        result = read_sentence(reader, &sentence);
    }
    if (result == TENT_OK) {
        result = finish(reader, "ERROR");
    }
    if (result == TENT_OK && status == TENT_OK) {
        result = fail(TENT_E_PROTOCOL, "an ERROR message that names no error");
    }
    return result;
}

}  // namespace tent
