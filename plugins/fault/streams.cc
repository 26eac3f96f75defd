// Control streams, where the decorated transport carries them: passed on, refused or broken.
//
// Leans on state.h. Must never deliver a stream's bytes with a gap: what fails is cut off for good,
// and nothing is known of the other side (TIMEOUT).
#include <cstdio>
#include <new>

#include "state.h"

namespace tent::fault {
namespace {

bool carries(const Instance &instance) {
    return TENT_FAULT_OFFERS(instance, stream_close) && instance.inner->stream_listen != nullptr &&
           instance.inner->stream_connect != nullptr && instance.inner->stream_accept != nullptr &&
           instance.inner->stream_state != nullptr && instance.inner->stream_send != nullptr &&
           instance.inner->stream_receive != nullptr;
}

int32_t refuse_streams(const Instance &instance) {
    char sentence[120];
    snprintf(sentence, sizeof sentence,
             "transport %s, which fault decorates, cannot carry control messages",
             instance.inner->name);
    return refuse(instance, TENT_E_UNSUPPORTED, sentence);
}

Stream *stream_make(Instance &instance) {
    auto *stream = new (std::nothrow) Stream;
    if (stream == nullptr) {
        refuse(instance, TENT_E_NO_MEMORY, "fault: no memory for a stream");
        return nullptr;
    }
    stream->next = instance.streams;
    instance.streams = stream;
    return stream;
}

void stream_free(Instance &instance, Stream *stream) {
    Stream **link = &instance.streams;
    while (*link != stream)
        link = &(*link)->next;
    *link = stream->next;
    delete stream;
}

}  // namespace

int32_t stream_listen(void *opaque, const char *address, uint16_t *port) {
    Instance &instance = instance_of(opaque);
    if (!carries(instance)) return refuse_streams(instance);
    if (fails(instance, nullptr, Operation::STREAM_LISTEN)) return TENT_E_TRANSPORT;
    return instance.inner->stream_listen(instance.inner_instance, address, port);
}

int32_t stream_connect(void *opaque, const char *address, void **out) {
    Instance &instance = instance_of(opaque);
    if (!carries(instance)) return refuse_streams(instance);
    if (fails(instance, nullptr, Operation::STREAM_CONNECT)) return TENT_E_TRANSPORT;
    Stream *stream = stream_make(instance);
    if (stream == nullptr) return TENT_E_NO_MEMORY;
    const int32_t status =
        instance.inner->stream_connect(instance.inner_instance, address, &stream->inner);
    if (status == TENT_OK)
        *out = stream;
    else
        stream_free(instance, stream);
    return status;
}

int32_t stream_accept(void *opaque, void **out, char *from) {
    Instance &instance = instance_of(opaque);
    if (!carries(instance)) return TENT_E_AGAIN;
    void *inner = nullptr;
    const int32_t status = instance.inner->stream_accept(instance.inner_instance, &inner, from);
    if (status != TENT_OK) return status;
    Stream *stream = nullptr;
    if (!fails(instance, nullptr, Operation::STREAM_ACCEPT)) stream = stream_make(instance);
    if (stream == nullptr) {  // the other side sees it close
        instance.inner->stream_close(instance.inner_instance, inner);
        return TENT_E_AGAIN;
    }
    stream->inner = inner;
    *out = stream;
    return TENT_OK;
}

int32_t stream_state(void *opaque, void *handle) {
    const Instance &instance = instance_of(opaque);
    const auto &stream = *static_cast<Stream *>(handle);
    if (stream.broken) return TENT_E_TIMEOUT;
    return instance.inner->stream_state(instance.inner_instance, stream.inner);
}

int64_t stream_send(void *opaque, void *handle, const void *bytes, uint64_t size) {
    Instance &instance = instance_of(opaque);
    auto &stream = *static_cast<Stream *>(handle);
    if (!stream.broken) stream.broken = fails(instance, nullptr, Operation::STREAM_SEND);
    if (stream.broken) return TENT_E_PEER;
    return instance.inner->stream_send(instance.inner_instance, stream.inner, bytes, size);
}

int64_t stream_receive(void *opaque, void *handle, void *bytes, uint64_t room) {
    Instance &instance = instance_of(opaque);
    auto &stream = *static_cast<Stream *>(handle);
    if (stream.broken) return TENT_E_TIMEOUT;
    const int64_t got =
        instance.inner->stream_receive(instance.inner_instance, stream.inner, bytes, room);
    // The core asks in every cycle: only what brings bytes is an operation.
    if (got > 0) stream.broken = fails(instance, nullptr, Operation::STREAM_RECEIVE);
    return stream.broken ? TENT_E_TIMEOUT : got;
}

void stream_close(void *opaque, void *handle) {
    Instance &instance = instance_of(opaque);
    auto *stream = static_cast<Stream *>(handle);
    instance.inner->stream_close(instance.inner_instance, stream->inner);
    stream_free(instance, stream);
}

}  // namespace tent::fault
