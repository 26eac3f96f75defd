// Options of the tcp transport (`set tcp.<name>=<value>`) and the reading of their values.
//
// Leans on <tent/plugin.h>. Must never touch a socket: it only turns text into numbers.
#ifndef TENT_PLUGINS_TCP_OPTIONS_H
#define TENT_PLUGINS_TCP_OPTIONS_H

#include <tent/plugin.h>
#include <cstddef>
#include <cstdint>

namespace tent::tcp {

// Within one machine 512 KiB: what waits in a larger buffer falls out of the processor's cache.
// Between machines the kernel tunes it, for it knows the round trip.
constexpr uint32_t SEND_BUFFER_AUTO = UINT32_MAX;
constexpr uint32_t SEND_BUFFER_SAME_HOST = 512 * 1024;

// Defaults are measured, see README.md "Choices".
struct Options {
    uint32_t connections = 2;              // sockets per endpoint
    uint32_t frame_size_max = 256 * 1024;  // payload bytes of small slices that share a frame
    uint32_t send_buffer_size = SEND_BUFFER_AUTO;  // 0: the kernel tunes it
    uint32_t receive_buffer_size = 0;
    uint64_t connect_timeout_ns = 2'000'000'000;
};

// Reads all options into `out`. On an unknown one or a bad value writes a sentence and returns
// TENT_E_INVALID.
int32_t options_read(const tent_option *options, uint32_t count, Options *out, char *sentence,
                     size_t sentence_size);

}  // namespace tent::tcp

#endif
