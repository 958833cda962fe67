// The kernel library behind compact.h: checks and lays out the work, then launches one kernel, or on the host loops over
// its blocks.
#include "compact_block.h"

#include <cstdio>
#ifdef GLIMPSE_HOST
#include <vector>
#else
#include "compact_kernel.cu"

#include <cuda_runtime.h>
#endif

namespace glimpse {

enum Error : int32_t { NULL_POINTER = 1, FORM, ROWS, KEPT, SIZE, CAPACITY, OVERLAP, SHARED_MEMORY };
constexpr int32_t CUDA = 1 << 30;

const char *const TEXTS[] = {
    "no error",
    "an address is null",
    "the form of the keep list is none of byte mask, int32 mask, int32 index list",
    "the number of rows is below 0 or above 65536",
    "the number of entries of the index list is below 0 or above the number of rows",
    "groups, capacity or row bytes are not positive, or too large together",
    "the capacity is smaller than the number of rows",
    "source and destination overlap without being the same",
    "this GPU has not enough shared memory for an index of so many rows (2 bytes a row)",
};

// The tensor's number plus one is in the upper bits.
int32_t status(Error error, int tensor = -1) { return (tensor + 1) << 8 | error; }

int64_t bytes_of(const glimpse_rows &tensor) {
    return static_cast<int64_t>(tensor.groups) * tensor.capacity * tensor.row_bytes;
}

int32_t check(const glimpse_rows *tensors, int32_t tensor_count, const glimpse_keep *keep) {
    if (keep == nullptr || (tensors == nullptr && tensor_count > 0)) return status(NULL_POINTER);
    if (tensor_count < 0) return status(SIZE);
    if (keep->form < GLIMPSE_MASK_BYTES || keep->form > GLIMPSE_INDEX_INT32) return status(FORM);
    if (keep->rows < 0 || keep->rows > GLIMPSE_COMPACT_MAX_ROWS) return status(ROWS);
    bool listed = keep->form == GLIMPSE_INDEX_INT32;
    if (listed && (keep->kept < 0 || keep->kept > keep->rows)) return status(KEPT);
    if (keep->data == nullptr && (listed ? keep->kept : keep->rows) > 0) return status(NULL_POINTER);
    for (int i = 0; i < tensor_count; ++i) {
        const glimpse_rows &tensor = tensors[i];
        if (tensor.source == nullptr || tensor.destination == nullptr) return status(NULL_POINTER, i);
        if (tensor.groups <= 0 || tensor.capacity < 0 || tensor.row_bytes <= 0) return status(SIZE, i);
        if (static_cast<int64_t>(tensor.groups) * tensor.capacity > INT32_MAX / 2) return status(SIZE, i);
        if (tensor.capacity < keep->rows) return status(CAPACITY, i);
        uintptr_t from = reinterpret_cast<uintptr_t>(tensor.source), to = reinterpret_cast<uintptr_t>(tensor.destination);
        if (from != to && (from < to ? to - from : from - to) < static_cast<uintptr_t>(bytes_of(tensor)))
            return status(OVERLAP, i);
    }
    return 0;
}

int shift_of(uint64_t power) {
    int shift = 0;
    while (power >>= 1) ++shift;
    return shift;
}

// Adds a tensor to a plan and returns the first block behind it.
int32_t lay_out(const glimpse_rows &rows, int32_t first_block, Tensor &tensor) {
    tensor.source = static_cast<const uint8_t *>(rows.source);
    tensor.destination = static_cast<uint8_t *>(rows.destination);
    tensor.groups = rows.groups;
    tensor.capacity = rows.capacity;
    tensor.row_bytes = rows.row_bytes;
    tensor.first_block = first_block;
    tensor.packed = rows.packed != 0;
    uint64_t all = reinterpret_cast<uintptr_t>(rows.source) | reinterpret_cast<uintptr_t>(rows.destination) |
                   static_cast<uint64_t>(rows.row_bytes) | sizeof(Bytes16);
    tensor.vector_shift = static_cast<uint8_t>(shift_of(all & -all));
    int width = rows.row_bytes >> tensor.vector_shift, strip = STRIP_BYTES >> tensor.vector_shift;
    while (strip / 2 >= width) strip /= 2;
    tensor.strip_shift = static_cast<uint8_t>(shift_of(static_cast<uint64_t>(strip)));
    int strips = (width + strip - 1) / strip;
    return first_block + strips * (tensor.packed ? 1 : rows.groups);
}

#ifdef GLIMPSE_HOST
int32_t launch(const Plan &plan, int32_t blocks, int32_t entries, void *) {
    std::vector<uint16_t> index(static_cast<size_t>(entries));
    std::vector<int32_t> sums(2 * THREADS);
    for (int turn = 0; turn < blocks; ++turn) run_block(plan, shuffled(turn, blocks), {index.data(), sums.data()});
    return 0;
}
#else
// Without being asked, a kernel gets 48 KB of shared memory on every GPU.
int32_t allow_shared_memory(size_t bytes) {
    constexpr size_t granted = (48 << 10) - 2 * THREADS * sizeof(int32_t);
    if (bytes <= granted) return 0;
    int device = 0, most = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (error != cudaSuccess) return CUDA | error;
    if (bytes + 2 * THREADS * sizeof(int32_t) > static_cast<size_t>(most)) return status(SHARED_MEMORY);
    error = cudaFuncSetAttribute(glimpse_compact_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    return error == cudaSuccess ? 0 : CUDA | error;
}

int32_t launch(const Plan &plan, int32_t blocks, int32_t entries, void *stream) {
    size_t bytes = static_cast<size_t>(entries) * sizeof(uint16_t);
    if (int32_t failed = allow_shared_memory(bytes)) return failed;
    void *arguments[] = {const_cast<Plan *>(&plan)};
    cudaError_t error = cudaLaunchKernel(reinterpret_cast<const void *>(glimpse_compact_kernel), dim3(blocks), dim3(THREADS),
                                         arguments, bytes, static_cast<cudaStream_t>(stream));
    return error == cudaSuccess ? 0 : CUDA | error;
}
#endif

}  // namespace glimpse

extern "C" int32_t glimpse_compact(const glimpse_rows *tensors, int32_t tensor_count, const glimpse_keep *keep,
                                   int32_t *count, void *stream) {
    using namespace glimpse;
    if (int32_t failed = check(tensors, tensor_count, keep)) return failed;
    Plan plan{};
    plan.keep = keep->data;
    plan.form = keep->form;
    plan.rows = keep->rows;
    plan.kept = keep->form == GLIMPSE_INDEX_INT32 ? keep->kept : 0;
    plan.count = count;
    int32_t entries = keep->form == GLIMPSE_INDEX_INT32 ? keep->kept : keep->rows;
    int32_t next = 0;
    do {
        int32_t blocks = 0;
        plan.tensor_count = tensor_count - next < MAX_TENSORS ? tensor_count - next : MAX_TENSORS;
        for (int i = 0; i < plan.tensor_count; ++i) blocks = lay_out(tensors[next + i], blocks, plan.tensors[i]);
        if (int32_t failed = launch(plan, blocks > 0 ? blocks : 1, entries, stream)) return failed;
        plan.count = nullptr;
        next += plan.tensor_count;
    } while (next < tensor_count);
    return 0;
}

extern "C" void glimpse_compact_explain(int32_t status, char *text, int32_t bytes) {
    using namespace glimpse;
    if (bytes <= 0) return;
    size_t space = static_cast<size_t>(bytes);
    if (status & CUDA) {
#ifndef GLIMPSE_HOST
        cudaError_t error = static_cast<cudaError_t>(status & ~CUDA);
        std::snprintf(text, space, "%s: %s", cudaGetErrorName(error), cudaGetErrorString(error));
#endif
        return;
    }
    int32_t error = status & 0xff, tensor = (status >> 8) - 1;
    const char *meaning = error <= SHARED_MEMORY ? TEXTS[error] : "unknown status";
    if (tensor < 0)
        std::snprintf(text, space, "%s", meaning);
    else
        std::snprintf(text, space, "tensor %d: %s", tensor, meaning);
}

#ifdef GLIMPSE_HOST
extern "C" void glimpse_compact_host_order(uint32_t seed) { glimpse::order_seed = seed; }
#endif
