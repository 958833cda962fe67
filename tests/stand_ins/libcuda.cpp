// A libcuda.so.1 whose device memory is the host's and whose streams do work at once: it copies, captures graphs, and
// runs the compaction kernel as it is built for the host. It is there to try the calls themselves, by ctypes; with LEDGER
// it writes what it is asked for where tests/cuda_standin counts it.
#include "compact_block.h"

#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <vector>

#ifdef LEDGER
#include "ledger.h"
constexpr bool CLEARED = true;  // what nobody computes is zeros then
#else
constexpr bool CLEARED = false;
void ledger_memory(const void *, size_t) {}
void ledger_copied(const void *, const void *, size_t) {}
void ledger_count(const char *, const char *) {}
#endif

namespace {
using Work = std::function<void()>;
using Graph = std::vector<Work>;
Graph *recording = nullptr;
std::map<uint64_t, size_t> memory;
constexpr size_t FLUSHED = 64 << 20;  // so large a piece is overwritten to empty a cache, and nobody reads it
int64_t open_handles = 0, launched = 0;
int version = 12060;
char context, stream;

int enqueue(void *where, Work work) {
    if (where != &stream) return 400;
    if (recording != nullptr) recording->push_back(work);
    else work();
    return 0;
}
int open(void **handle) { return ++open_handles, *handle = new char, 0; }
int close(void *handle) { return --open_handles, delete static_cast<char *>(handle), 0; }
void *at(uint64_t address) { return reinterpret_cast<void *>(address); }
int allocate(uint64_t *address, size_t bytes) {
    void *found = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    memory[*address = reinterpret_cast<uint64_t>(found)] = bytes;
    if (CLEARED && bytes < FLUSHED) std::memset(found, 0, bytes);
    ledger_memory(found, bytes);
    return found == nullptr ? 2 : 0;
}
int release(uint64_t address) { return ledger_memory(at(address), 0), memory.erase(address) ? (std::free(at(address)), 0) : 1; }
}  // namespace

extern "C" {
struct PoolProperties { int type, handles, location_type, location_id; void *security; size_t bytes; unsigned short usage; unsigned char rest[54]; };
struct Copy2d {
    size_t source_x, source_y; int source_type; const void *source_host; uint64_t source; void *source_array; size_t source_pitch;
    size_t target_x, target_y; int target_type; void *target_host; uint64_t target; void *target_array; size_t target_pitch;
    size_t width, count;
};

int64_t fake_held() { return static_cast<int64_t>(memory.size()) + open_handles; }
int64_t fake_launched() { return launched; }
void fake_version(int number) { version = number; }

int cuInit(unsigned flags) { return flags ? 1 : 0; }
int cuDriverGetVersion(int *number) { return *number = version, 0; }
int cuDeviceGet(int *device, int number) { return *device = 7, number ? 101 : 0; }
int cuDeviceGetName(char *name, int length, int device) { return std::strncpy(name, "fake", static_cast<size_t>(length)), device != 7; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { return *bytes = size_t(8) << 30, device != 7; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 7 : attribute == 115 || attribute == 18;
    return device != 7;
}
int cuDevicePrimaryCtxRetain(void **found, int device) { return ++open_handles, *found = &context, device != 7; }
int cuDevicePrimaryCtxRelease_v2(int device) { return --open_handles, device != 7; }
int cuCtxSetCurrent(void *given) { return given != &context; }
int cuStreamCreate(void **made, unsigned flags) { return ++open_handles, *made = &stream, flags > 1; }
int cuStreamDestroy_v2(void *given) { return --open_handles, given != &stream; }
int cuStreamSynchronize(void *given) { return ledger_count("wait", "cuStreamSynchronize"), given != &stream; }
int cuMemPoolCreate(void **pool, const PoolProperties *properties) {
    bool good = properties->type == 1 && properties->location_type == 1 && properties->location_id == 0 && properties->bytes == 0;
    return good ? open(pool) : 1;
}
int cuMemPoolDestroy(void *pool) { return close(pool); }
int cuMemPoolSetAttribute(void *, int attribute, uint64_t *value) { return attribute != 4 || *value != UINT64_MAX; }
int cuMemAlloc_v2(uint64_t *address, size_t bytes) { return allocate(address, bytes); }
int cuMemFree_v2(uint64_t address) { return release(address); }
int cuMemAllocFromPoolAsync(uint64_t *address, size_t bytes, void *pool, void *where) {
    return pool == nullptr || where != &stream ? 1 : bytes > size_t(1) << 40 ? 2 : allocate(address, bytes);
}
int cuMemFreeAsync(uint64_t address, void *where) { return where != &stream ? 400 : release(address); }
int cuMemHostAlloc(void **address, size_t bytes, unsigned flags) {
    int status = flags ? 1 : allocate(reinterpret_cast<uint64_t *>(address), bytes);
    if (status == 0) ledger_memory(*address, 0);
    return status;
}
int cuMemFreeHost(void *address) { return release(reinterpret_cast<uint64_t>(address)); }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *where) {
    return enqueue(where, [=] { ledger_copied(at(to), from, bytes), std::memcpy(at(to), from, bytes); });
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *where) {
    return enqueue(where, [=] { ledger_copied(to, at(from), bytes), std::memcpy(to, at(from), bytes); });
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *where) {
    return enqueue(where, [=] { ledger_copied(at(to), at(from), bytes), std::memcpy(at(to), at(from), bytes); });
}
int cuMemcpy2DAsync_v2(const Copy2d *given, void *where) {
    Copy2d copy = *given;
    if (copy.source_type != 2 || copy.target_type != 2 || copy.source_x + copy.source_y + copy.target_x + copy.target_y) return 1;
    return enqueue(where, [=] {
        ledger_copied(at(copy.target), at(copy.source), copy.width * copy.count);
        for (size_t i = 0; i < copy.count; ++i)
            std::memcpy(at(copy.target + i * copy.target_pitch), at(copy.source + i * copy.source_pitch), copy.width);
    });
}
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void *where) {
    return enqueue(where, [=] { std::memset(at(to), value, bytes < FLUSHED ? bytes : 1); });
}
int cuEventCreate(void **event, unsigned) { return open(event); }
int cuEventDestroy_v2(void *event) { return close(event); }
int cuEventRecord(void *, void *where) { return enqueue(where, [] {}); }
int cuEventSynchronize(void *event) { return ledger_count("wait", "cuEventSynchronize"), event == nullptr; }
int cuEventElapsedTime(float *ms, void *start, void *end) { return *ms = 0.5f, start == end; }
int cuStreamBeginCapture_v2(void *where, int mode) { return recording = new Graph, mode != 1 || where != &stream; }
int cuStreamEndCapture(void *, void **graph) { return ++open_handles, *graph = recording, recording = nullptr, 0; }
int cuGraphInstantiateWithFlags(void **made, void *graph, uint64_t flags) {
    return ++open_handles, *made = new Graph(*static_cast<Graph *>(graph)), flags != 0;
}
int cuGraphLaunch(void *graph, void *where) {
    for (Work &work : *static_cast<Graph *>(graph)) work();
    return where != &stream;
}
int cuGraphDestroy(void *graph) { return --open_handles, delete static_cast<Graph *>(graph), 0; }
int cuGraphExecDestroy(void *graph) { return cuGraphDestroy(graph); }
int cuModuleLoadData(void **module, const void *image) { 
    const char *start = static_cast<const char *>(image);  // of the stand-in of NVRTC, or where there is one of NVRTC itself
    return std::strncmp(start, "code for sm_87", 14) && std::strncmp(start, "\x7f" "ELF", 4) ? 200 : open(module);
}
int cuModuleUnload(void *module) { return close(module); }
int cuModuleGetFunction(void **function, void *, const char *name) { return *function = &launched, std::strcmp(name, "glimpse_compact_kernel") ? 500 : 0; }
int cuFuncSetAttribute(void *, int attribute, int) { return attribute != 8; }
int cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned ty, unsigned tz,
                   unsigned shared, void *where, void **arguments, void **extra) {
    if (function != &launched || y * z * ty * tz != 1 || threads != glimpse::THREADS || extra != nullptr) return 1;
    ++launched;
    ledger_count("launch", "glimpse_compact_kernel");
    glimpse::Plan plan = *static_cast<glimpse::Plan *>(arguments[0]);
    return enqueue(where, [=] {
        std::vector<uint16_t> index(shared / 2 + 1);
        std::vector<int32_t> sums(2 * glimpse::THREADS);
        for (unsigned block = 0; block < x; ++block) glimpse::run_block(plan, static_cast<int>(block), {index.data(), sums.data()});
    });
}
int cuGetErrorName(int status, const char **text) {
    *text = status == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : status == 200 ? "CUDA_ERROR_INVALID_IMAGE" : "CUDA_ERROR_OTHER";
    return 0;
}
int cuGetErrorString(int status, const char **text) { return *text = "fake error", status == 0; }
}
