// Well-formed lies: descriptors with a forged token, another epoch or another engine's id, encoded
// as an attacker with our code would. Each gets its own error, and nothing is written.
#include "engine_pair.h"
#include "wire/descriptor.h"

namespace {

constexpr uint64_t SECOND = 1000000000u;

int32_t import_changed(const TestEngine &initiator, const std::vector<uint8_t> &bytes,
                       void (*change)(tent::Descriptor &)) {
    tent::Descriptor descriptor;
    CHECK_EQ(tent::decode_descriptor(bytes, &descriptor), TENT_OK);
    change(descriptor);
    std::vector<uint8_t> changed;
    CHECK_EQ(tent::encode_descriptor(descriptor, &changed), TENT_OK);
    uint64_t segment = 0;
    int32_t status =
        tent_segment_import(initiator.engine, changed.data(), changed.size(), 5 * SECOND, &segment);
    CHECK((status == TENT_OK) == (segment != 0));
    return status;
}

}  // namespace

TEST(forged_descriptors_are_refused_each_with_its_error) {
    std::vector<uint8_t> memory(4096, 0x11);
    TestEngine target("target"), initiator("initiator");
    target.add(memory);
    std::vector<uint8_t> bytes(4096);
    uint64_t size = bytes.size();
    OK(tent_segment_export(target.engine, 0, bytes.data(), &size));
    bytes.resize(size);
    CHECK_EQ(import_changed(initiator, bytes, [](tent::Descriptor &) {}), TENT_OK);
    CHECK_EQ(import_changed(initiator, bytes, [](tent::Descriptor &d) { d.token[7] ^= 1; }),
             TENT_E_DENIED);
    CHECK_EQ(import_changed(initiator, bytes, [](tent::Descriptor &d) { d.grant = 77; }),
             TENT_E_DENIED);
    CHECK_EQ(import_changed(initiator, bytes, [](tent::Descriptor &d) { d.epoch ^= 2; }),
             TENT_E_STALE);
    CHECK_EQ(import_changed(initiator, bytes, [](tent::Descriptor &d) { d.engine_id[0] ^= 1; }),
             TENT_E_STALE);
    CHECK_EQ(
        import_changed(initiator, bytes, [](tent::Descriptor &d) { d.expires_unix_ms = 1000; }),
        TENT_E_DENIED);
    // More rights or memory than granted may stand in a descriptor; the peer's own list counts.
    CHECK_EQ(import_changed(initiator, bytes,
                            [](tent::Descriptor &d) { d.regions[0].length = 1 << 30; }),
             TENT_OK);
    for (uint8_t byte : memory)
        CHECK_EQ(byte, 0x11);
}
