// Small text files of the kernel, read whole.
//
// Leans on the file system. Must never write one. Thread-safety: any thread.
#ifndef TENT_BASE_SMALL_FILE_H
#define TENT_BASE_SMALL_FILE_H

#include <cstdint>
#include <string>

namespace tent {

// At most its first 64 KiB, without white space at the end; "" when it cannot be read.
std::string file_text(const std::string &path);
// The number it begins with; `otherwise` when it cannot be read or begins with none.
uint64_t file_number(const std::string &path, uint64_t otherwise);
// What stands behind `name` in the first line that begins with it, without the white space around;
// "" when there is none. name: with its colon.
std::string file_field(const std::string &path, const char *name);

}  // namespace tent

#endif
