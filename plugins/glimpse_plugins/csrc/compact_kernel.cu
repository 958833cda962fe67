// The kernel: a part of compact.cu for nvcc, and all that NVRTC compiles on the machine that runs it.
#include "compact_block.h"

extern "C" __global__ void __launch_bounds__(glimpse::THREADS)
    glimpse_compact_kernel(const __grid_constant__ glimpse::Plan plan) {
    extern __shared__ uint16_t index[];
    __shared__ int32_t sums[2 * glimpse::THREADS];
    glimpse::run_block(plan, static_cast<int>(blockIdx.x), {index, sums});
}
