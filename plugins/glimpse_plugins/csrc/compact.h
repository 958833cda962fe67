/* Compaction of kept tokens: the C interface of the kernel library.
 *
 * A prompt has `rows` rows, of which some are kept. Every tensor that has such rows is a number of groups (the heads of
 * a KV cache) of `capacity` rows of `row_bytes` bytes, one behind the other. One call moves the kept rows of every group
 * of every tensor to the front, in order; rows behind them are unspecified.
 *
 * The same functions are compiled for a GPU (nvcc; addresses are device addresses, the call only enqueues work) and for
 * the host (a C++ compiler with -DGLIMPSE_HOST; addresses are host addresses, the call does the work).
 */
#ifndef GLIMPSE_COMPACT_H
#define GLIMPSE_COMPACT_H

#include <stdint.h>

#define GLIMPSE_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

#define GLIMPSE_COMPACT_MAX_ROWS 65536

enum glimpse_keep_form {
    GLIMPSE_MASK_BYTES = 0, /* uint8 or bool [rows]: a row is kept where it is not zero */
    GLIMPSE_MASK_INT32 = 1, /* int32 [rows], likewise */
    GLIMPSE_INDEX_INT32 = 2 /* int32 [kept]: the kept rows, ascending, each in 0..rows-1; this is not checked */
};

struct glimpse_keep {
    const void *data; /* int32 forms: aligned to 4 bytes */
    int32_t form;
    int32_t rows; /* at most GLIMPSE_COMPACT_MAX_ROWS, and less where a block has less than 2 bytes a row of shared memory */
    int32_t kept; /* entries of an index list; ignored with a mask */
};

struct glimpse_rows {
    const void *source;
    void *destination; /* the source itself (in place), or memory that does not overlap it */
    int32_t groups;
    int32_t capacity; /* rows of a group, at least glimpse_keep.rows */
    int32_t row_bytes;
    int32_t packed; /* not zero: the kept rows of the next group follow at once, as in an array [groups, kept] */
};

#ifndef __CUDACC_RTC__ /* NVRTC compiles the kernel alone */
/* Compacts `tensors` in one launch for every 100 of them.
 *
 * `count`, if not null, is where the number of kept rows is written. `stream` is a cudaStream_t; the host ignores it.
 * Nothing is allocated and nothing waits, so the call can be captured in a CUDA graph; `tensors` and `keep` are read
 * before it returns. Gives 0, or a status for glimpse_compact_explain.
 */
GLIMPSE_API int32_t glimpse_compact(const struct glimpse_rows *tensors, int32_t tensor_count,
                                    const struct glimpse_keep *keep, int32_t *count, void *stream);

/* Writes what a status means to `text`, at most `bytes` with the closing zero. */
GLIMPSE_API void glimpse_compact_explain(int32_t status, char *text, int32_t bytes);
#endif

#ifdef GLIMPSE_HOST
/* Threads of a block that nothing orders, and blocks, run in an order that depends on `seed`; for tests. */
GLIMPSE_API void glimpse_compact_host_order(uint32_t seed);
#endif

#ifdef __cplusplus
}
#endif
#endif
