// Little-endian writing and reading of byte buffers, for frames and descriptors.
//
// Leans on nothing. Must never touch a byte outside the room given, whatever the input: both sides
// remember the first step out of bounds (ok() stays false) so that callers check once, at the end.
// No allocation. Thread-safety: a writer or reader belongs to one thread.
#ifndef TENT_BASE_BYTES_H
#define TENT_BASE_BYTES_H

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

namespace tent {

static_assert(std::endian::native == std::endian::little,
              "the wire is little-endian and so is every machine TENT supports; add byte swaps "
              "here for others");

// Writes into [p, p+room). A field that does not fit is not written at all and makes ok() false for
// good.
class ByteWriter {
  public:
    ByteWriter(uint8_t *p, size_t room) : begin_(p), room_(room) {}

    void u8(uint8_t value) { put(&value, sizeof value); }
    void u16(uint16_t value) { put(&value, sizeof value); }
    void u32(uint32_t value) { put(&value, sizeof value); }
    void u64(uint64_t value) { put(&value, sizeof value); }
    void bytes(const void *data, size_t size) { put(data, size); }

    // 16-bit length, then the bytes. A text of 64 KiB or more makes ok() false.
    void str(std::string_view text) {
        if (text.size() > UINT16_MAX || !ok_ || room_ - size_ < sizeof(uint16_t) + text.size()) {
            ok_ = false;
            return;
        }
        u16(static_cast<uint16_t>(text.size()));
        put(text.data(), text.size());
    }

    bool ok() const { return ok_; }
    // Bytes written so far.
    size_t size() const { return size_; }

  private:
    void put(const void *data, size_t size) {
        if (!ok_ || size > room_ - size_) {
            ok_ = false;
            return;
        }
        if (size != 0) {
            memcpy(begin_ + size_, data, size);
        }
        size_ += size;
    }

    uint8_t *begin_;
    size_t room_;
    size_t size_ = 0;
    bool ok_ = true;
};

// Reads [p, p+size). The first read past the end makes ok() false for good; it and all later reads
// give zeros and empty views, and offset() stays at the field that did not fit.
class ByteReader {
  public:
    ByteReader(const uint8_t *p, size_t size) : begin_(p), size_(size) {}
    explicit ByteReader(std::span<const uint8_t> data) : ByteReader(data.data(), data.size()) {}

    uint8_t u8() { return get<uint8_t>(); }
    uint16_t u16() { return get<uint16_t>(); }
    uint32_t u32() { return get<uint32_t>(); }
    uint64_t u64() { return get<uint64_t>(); }

    // Copies size bytes out; zeros when they are not there.
    void bytes(void *out, size_t size) {
        const uint8_t *from = take(size);
        if (size == 0) {
            return;
        }
        if (from == nullptr) {
            memset(out, 0, size);
            return;
        }
        memcpy(out, from, size);
    }

    // Borrows size bytes of the buffer; empty when they are not there.
    std::span<const uint8_t> view(size_t size) {
        const uint8_t *from = take(size);
        return from == nullptr ? std::span<const uint8_t>() : std::span<const uint8_t>(from, size);
    }

    // 16-bit length, then the bytes, borrowed. A length above `max` makes ok() false: callers state
    // their cap.
    std::string_view str(size_t max) {
        const size_t start = offset_;
        const size_t size = u16();
        const uint8_t *from = size <= max ? take(size) : nullptr;
        if (from == nullptr) {
            ok_ = false;
            offset_ = start;
            return {};
        }
        return {reinterpret_cast<const char *>(from), size};
    }

    bool ok() const { return ok_; }
    // Bytes read so far; after a failure, where the field began that did not fit.
    size_t offset() const { return offset_; }
    // Bytes not read yet; 0 after a failure.
    size_t rest() const { return ok_ ? size_ - offset_ : 0; }

  private:
    const uint8_t *take(size_t size) {
        if (!ok_ || size > size_ - offset_) {
            ok_ = false;
            return nullptr;
        }
        const uint8_t *from = begin_ == nullptr ? empty_ : begin_ + offset_;
        offset_ += size;
        return from;
    }

    template <class T>
    T get() {
        T value = 0;
        const uint8_t *from = take(sizeof(T));
        if (from != nullptr) {
            memcpy(&value, from, sizeof(T));
        }
        return value;
    }

    static constexpr uint8_t empty_[8] =
        {};  // not 1: gcc 12 warns of reads past it that cannot happen
    const uint8_t *begin_;
    size_t size_;
    size_t offset_ = 0;
    bool ok_ = true;
};

}  // namespace tent

#endif
