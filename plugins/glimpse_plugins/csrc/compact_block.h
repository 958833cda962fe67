// What one block of threads does, for the GPU and, with GLIMPSE_HOST, for the host: there a loop over the threads stands
// for each piece of code between two barriers.
#ifndef GLIMPSE_COMPACT_BLOCK_H
#define GLIMPSE_COMPACT_BLOCK_H

#include "compact.h"

#ifdef GLIMPSE_HOST
#define GLIMPSE_DEVICE inline
#define GLIMPSE_FOR_EACH_THREAD(thread) \
    for (int turn = 0, thread = glimpse::shuffled(0, glimpse::THREADS); turn < glimpse::THREADS; \
         ++turn, thread = glimpse::shuffled(turn, glimpse::THREADS))
#define GLIMPSE_BARRIER() static_cast<void>(0)
#define GLIMPSE_OWN(thread) thread
#define GLIMPSE_UNROLL
#else
#define GLIMPSE_DEVICE __device__ __forceinline__
#define GLIMPSE_FOR_EACH_THREAD(thread) for (int turn = 0, thread = threadIdx.x; turn < 1; ++turn)
#define GLIMPSE_BARRIER() __syncthreads()
#define GLIMPSE_OWN(thread) 0
#define GLIMPSE_UNROLL _Pragma("unroll")
#endif

namespace glimpse {

constexpr int THREADS = 256;
// Flags that a thread reads per step of the prefix sum: a block takes 4,096 rows a step.
constexpr int FLAGS = 16;
// Vectors that a thread holds in registers between reading and writing; with 16-byte vectors a block has 16 KB in flight.
constexpr int HELD = 4;
// Columns of a strip: two sectors of DRAM. Narrow strips give a cache of few heads enough blocks to fill a GPU.
constexpr int STRIP_BYTES = 64;
// Kernel arguments may take 4,096 bytes on every CUDA version and GPU. This is 49 layers with hidden states and positions.
constexpr int MAX_TENSORS = 100;

#ifdef GLIMPSE_HOST
constexpr int OWNERS = THREADS;
inline uint32_t order_seed = 0;

// Forwards or backwards from anywhere: so each of two threads, or blocks, comes first for some seed.
inline int shuffled(int turn, int number) {
    int at = static_cast<int>((static_cast<uint32_t>(turn) + order_seed / 2) % static_cast<uint32_t>(number));
    return order_seed % 2 == 0 ? at : number - 1 - at;
}
#else
constexpr int OWNERS = 1;
#endif

struct Tensor {
    const uint8_t *source;
    uint8_t *destination;
    int32_t groups;
    int32_t capacity;
    int32_t row_bytes;
    int32_t first_block;
    uint8_t vector_shift;  // log2 of the bytes that are moved at once
    uint8_t strip_shift;   // log2 of the vectors of a row that one block moves
    bool packed;
};

struct Plan {
    const void *keep;
    int32_t *count;
    int32_t form;
    int32_t rows;
    int32_t kept;
    int32_t tensor_count;
    Tensor tensors[MAX_TENSORS];
};
static_assert(sizeof(Plan) <= 4096, "a kernel's arguments");

struct Scratch {
    uint16_t *index;  // the kept rows: [rows]
    int32_t *sums;    // [2][THREADS]
};

GLIMPSE_DEVICE int ones(uint32_t bits) {
#ifdef GLIMPSE_HOST
    return __builtin_popcount(bits);
#else
    return __popc(bits);
#endif
}

GLIMPSE_DEVICE bool is_kept(const Plan &plan, int row) {
    return plan.form == GLIMPSE_MASK_BYTES ? static_cast<const uint8_t *>(plan.keep)[row] != 0
                                           : static_cast<const int32_t *>(plan.keep)[row] != 0;
}

// Lists the kept rows in shared memory and returns their number.
//
// Every block does this for itself. That costs each some microseconds at the start, which overlap with other blocks'
// copying: a mask is some kilobytes that stay in the L2 cache. The alternatives are a second launch or blocks that wait
// for each other, and would cost more than they save.
GLIMPSE_DEVICE int list_kept(const Plan &plan, const Scratch &scratch) {
    if (plan.form == GLIMPSE_INDEX_INT32) {
        GLIMPSE_FOR_EACH_THREAD(thread) {
            for (int i = thread; i < plan.kept; i += THREADS)
                scratch.index[i] = static_cast<uint16_t>(static_cast<const int32_t *>(plan.keep)[i]);
        }
        GLIMPSE_BARRIER();
        return plan.kept;
    }
    int total = 0;
    for (int tile = 0; tile < plan.rows; tile += THREADS * FLAGS) {
        uint32_t flags[OWNERS];
        GLIMPSE_FOR_EACH_THREAD(thread) {
            int first = tile + thread * FLAGS;
            uint32_t bits = 0;
            GLIMPSE_UNROLL
            for (int i = 0; i < FLAGS; ++i)
                if (first + i < plan.rows && is_kept(plan, first + i)) bits |= 1u << i;
            flags[GLIMPSE_OWN(thread)] = bits;
            scratch.sums[thread] = ones(bits);
        }
        GLIMPSE_BARRIER();
        int32_t *from = scratch.sums, *to = scratch.sums + THREADS;
        for (int step = 1; step < THREADS; step *= 2) {
            GLIMPSE_FOR_EACH_THREAD(thread) to[thread] = from[thread] + (thread >= step ? from[thread - step] : 0);
            GLIMPSE_BARRIER();
            int32_t *done = to;
            to = from, from = done;
        }
        GLIMPSE_FOR_EACH_THREAD(thread) {
            uint32_t bits = flags[GLIMPSE_OWN(thread)];
            int slot = total + from[thread] - ones(bits);
            for (int i = 0; i < FLAGS; ++i)
                if (bits >> i & 1) scratch.index[slot++] = static_cast<uint16_t>(tile + thread * FLAGS + i);
        }
        total += from[THREADS - 1];
        GLIMPSE_BARRIER();
    }
    return total;
}

// Some columns of the kept rows of one group, or of all groups of a packed tensor as if they were one long group.
struct Strip {
    const uint8_t *source;
    uint8_t *destination;
    int32_t capacity;
    int32_t row_bytes;
    int32_t columns;      // vectors of the strip
    int32_t shift;        // log2 of the threads that share a row
    int32_t kept;         // of one group
    int32_t rows;         // of all that the block moves
    const uint16_t *index;
};

GLIMPSE_DEVICE int64_t source_row(const Strip &strip, int row) {
    if (row < strip.kept) return strip.index[row];
    int group = row / strip.kept;
    return static_cast<int64_t>(group) * strip.capacity + strip.index[row - group * strip.kept];
}

// Moves a strip in chunks of rows, in ascending order. Why this is safe in place: the source of kept row j is at j or
// behind it. So what a chunk writes lies before all that later chunks read, and within a chunk a barrier keeps the
// writes behind the reads. No other block touches these columns of these groups.
template <class Vector>
GLIMPSE_DEVICE void move_strip(const Strip &strip) {
    const bool in_place = strip.source == strip.destination;
    const int stride = THREADS >> strip.shift, chunk = stride * HELD;
    Vector held[OWNERS][HELD];
    auto visit = [&](int thread, int first, auto act) {
        int column = thread & ((1 << strip.shift) - 1);
        if (column >= strip.columns) return;
        GLIMPSE_UNROLL
        for (int i = 0; i < HELD; ++i) {
            int row = first + i * stride + (thread >> strip.shift);
            if (row >= strip.rows) continue;
            int64_t source = source_row(strip, row);
            if (in_place && source == row) continue;
            act(held[GLIMPSE_OWN(thread)][i], source * strip.row_bytes + column * static_cast<int64_t>(sizeof(Vector)),
                static_cast<int64_t>(row) * strip.row_bytes + column * static_cast<int64_t>(sizeof(Vector)));
        }
    };
    auto read = [&](Vector &vector, int64_t from, int64_t) {
        vector = *reinterpret_cast<const Vector *>(strip.source + from);
    };
    auto write = [&](const Vector &vector, int64_t, int64_t to) {
        *reinterpret_cast<Vector *>(strip.destination + to) = vector;
    };
    GLIMPSE_FOR_EACH_THREAD(thread) visit(thread, 0, read);
    for (int first = 0; first < strip.rows; first += chunk) {
        GLIMPSE_BARRIER();
        GLIMPSE_FOR_EACH_THREAD(thread) {
            visit(thread, first, write);
            visit(thread, first + chunk, read);
        }
    }
}

struct alignas(16) Bytes16 {
    uint64_t low, high;
};

GLIMPSE_DEVICE const Tensor &tensor_of(const Plan &plan, int block) {
    int low = 0, high = plan.tensor_count - 1;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (plan.tensors[middle].first_block <= block)
            low = middle;
        else
            high = middle - 1;
    }
    return plan.tensors[low];
}

GLIMPSE_DEVICE void run_block(const Plan &plan, int block, const Scratch &scratch) {
    int kept = list_kept(plan, scratch);
    if (block == 0 && plan.count != nullptr) {
        GLIMPSE_FOR_EACH_THREAD(thread) if (thread == 0) *plan.count = kept;
    }
    if (kept == 0 || plan.tensor_count == 0) return;
    const Tensor &tensor = tensor_of(plan, block);
    int width = tensor.row_bytes >> tensor.vector_shift, part = 1 << tensor.strip_shift;
    int strips = (width + part - 1) >> tensor.strip_shift;
    int local = block - tensor.first_block, group = local / strips, first = (local % strips) * part;
    int64_t offset = static_cast<int64_t>(group) * tensor.capacity * tensor.row_bytes +
                     (static_cast<int64_t>(first) << tensor.vector_shift);
    Strip strip{};
    strip.source = tensor.source + offset;
    strip.destination = tensor.destination + offset;
    strip.capacity = tensor.capacity;
    strip.row_bytes = tensor.row_bytes;
    strip.columns = width - first < part ? width - first : part;
    strip.shift = tensor.strip_shift;
    strip.kept = kept;
    strip.rows = tensor.packed ? tensor.groups * kept : kept;
    strip.index = scratch.index;
    switch (tensor.vector_shift) {
        case 4: return move_strip<Bytes16>(strip);
        case 3: return move_strip<uint64_t>(strip);
        case 2: return move_strip<uint32_t>(strip);
        case 1: return move_strip<uint16_t>(strip);
        default: return move_strip<uint8_t>(strip);
    }
}

}  // namespace glimpse
#endif
