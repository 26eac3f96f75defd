// CRC32C (Castagnoli, polynomial 0x1EDC6F41 reflected to 0x82F63B78; RFC 3720 appendix B.4).
//
// Leans on the processor's instruction where it has one (looked up once), else on tables. Must
// never fault on unaligned data. Thread-safety: any thread.
#ifndef TENT_BASE_CRC32C_H
#define TENT_BASE_CRC32C_H

#include <cstddef>
#include <cstdint>

namespace tent {

// The checksum of data appended to what `crc` covers (0: nothing yet): crc32c(crc32c(0, a), b) ==
// crc32c(0, a + b).
uint32_t crc32c(uint32_t crc, const void *data, size_t size);

// The table version, for comparison.
uint32_t crc32c_portable(uint32_t crc, const void *data, size_t size);

}  // namespace tent

#endif
