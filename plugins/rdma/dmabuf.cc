// GPU memory registered as a dma-buf: the driver shares the pages, no module of it sits in between.
//
// Leans on pin.h, and on libcuda, which is opened at run time where a region lies in GPU memory.
// Must never keep a descriptor: the registration holds the dma-buf by itself.
#include <dlfcn.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "pin.h"

namespace tent::rdma {
namespace {

// The part of the driver's interface (cuda.h) that is needed, by its documented numbers.
constexpr int HANDLE_DMA_BUF_FD = 1;       // CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD
constexpr int ATTRIBUTE_CONTEXT = 1;       // CU_POINTER_ATTRIBUTE_CONTEXT
using DevicePointer = unsigned long long;  // CUdeviceptr, on 64 bits

struct Cuda {
    int (*handle_for_range)(void *handle, DevicePointer address, size_t size, int type,
                            unsigned long long flags) = nullptr;
    int (*pointer_attribute)(void *data, int attribute, DevicePointer address) = nullptr;
    int (*context_push)(void *context) = nullptr;
    int (*context_pop)(void **context) = nullptr;
    int (*error_string)(int error, const char **text) = nullptr;
    std::string why;  // it cannot be used
};

template <class F>
bool symbol(void *library, const char *name, F *out) {
    *out = reinterpret_cast<F>(dlsym(library, name));
    return *out != nullptr;
}

Cuda cuda_open() {
    Cuda made;
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
        made.why = "libcuda.so.1 cannot be opened";
    } else if (!symbol(library, "cuMemGetHandleForAddressRange", &made.handle_for_range) ||
               !symbol(library, "cuPointerGetAttribute", &made.pointer_attribute) ||
               !symbol(library, "cuCtxPushCurrent_v2", &made.context_push) ||
               !symbol(library, "cuCtxPopCurrent_v2", &made.context_pop) ||
               !symbol(library, "cuGetErrorString", &made.error_string)) {
        made.why = "the CUDA driver is older than 11.7";
    }
    return made;
}

// For the process; never closed, as the application's own use of it.
const Cuda &cuda() {
    static const Cuda opened = cuda_open();
    return opened;
}

// Makes the context that owns the memory current, for as long as it stands: errands have none.
class Current {
  public:
    explicit Current(uint64_t address) {
        void *context = nullptr;
        pushed = cuda().pointer_attribute(&context, ATTRIBUTE_CONTEXT, address) == 0 &&
                 context != nullptr && cuda().context_push(context) == 0;
    }
    ~Current() {
        void *context = nullptr;
        if (pushed) cuda().context_pop(&context);
    }
    Current(const Current &) = delete;
    Current &operator=(const Current &) = delete;

  private:
    bool pushed;
};

// A descriptor of [begin, begin + size), both of them multiples of the page size; -1: *why.
int share(uint64_t begin, uint64_t size, std::string *why) {
    const Current current(begin);
    int fd = -1;
    const int result = cuda().handle_for_range(&fd, begin, size, HANDLE_DMA_BUF_FD, 0);
    if (result == 0 && fd >= 0) return fd;
    const char *text = nullptr;
    if (cuda().error_string(result, &text) != 0 || text == nullptr) text = "failed";
    *why = format("the CUDA driver does not share it (error %d, %s)", result, text);
    return -1;
}

}  // namespace

ibv_mr *dma_buf_register(const Verbs &verbs, ibv_pd *pd, uint64_t address, uint64_t length,
                         int access, std::string *why) {
    if (verbs.reg_dmabuf_mr == nullptr) {
        *why = "libibverbs is older than rdma-core 34";
        return nullptr;
    }
    if (!cuda().why.empty()) {
        *why = cuda().why;
        return nullptr;
    }
    const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    const uint64_t begin = address / page * page;
    const uint64_t end = (address + length + page - 1) / page * page;
    const int fd = share(begin, end - begin, why);
    if (fd < 0) return nullptr;
    ibv_mr *mr = verbs.reg_dmabuf_mr(pd, address - begin, length, address, fd, access);
    if (mr == nullptr) *why = format("the device refuses it: %s", strerrordesc_np(errno));
    close(fd);
    return mr;
}

}  // namespace tent::rdma
