#include "ledger.h"

#include <cstdio>
#include <map>
#include <mutex>
#include <string>

namespace {
std::mutex mutex;
std::map<const char *, size_t> *memory = new std::map<const char *, size_t>;  // outlives the libraries that free
std::map<std::string, long> *counts = new std::map<std::string, long>;
bool capturing = false;

bool is_device(const void *address) {
    const char *at = static_cast<const char *>(address);
    auto after = memory->upper_bound(at);
    if (after == memory->begin()) return false;
    --after;
    return at < after->first + after->second;
}
}  // namespace

extern "C" {
void ledger_memory(const void *start, size_t bytes) {
    std::lock_guard<std::mutex> lock(mutex);
    if (bytes == 0) memory->erase(static_cast<const char *>(start));
    else (*memory)[static_cast<const char *>(start)] = bytes;
}
void ledger_copied(const void *to, const void *from, size_t bytes) {
    std::lock_guard<std::mutex> lock(mutex);
    if (capturing) return;
    bool onto = is_device(to), off = is_device(from);
    const char *kind = onto && off ? "device_to_device" : onto ? "host_to_device" : off ? "device_to_host" : "host_to_host";
    ++(*counts)[std::string("copy ") + kind];
    (*counts)[std::string("bytes ") + kind] += static_cast<long>(bytes);
}
void ledger_count(const char *kind, const char *name) {
    std::lock_guard<std::mutex> lock(mutex);
    if (!capturing) ++(*counts)[std::string(kind) + ' ' + name];
}
bool ledger_is_device(const void *address) {
    std::lock_guard<std::mutex> lock(mutex);
    return is_device(address);
}
bool ledger_captures(int change) { return change < 0 ? capturing : (capturing = change != 0); }

void ledger_reset() {
    std::lock_guard<std::mutex> lock(mutex);
    counts->clear();
}
// One "number kind name" a line.
void ledger_write(const char *path) {
    std::lock_guard<std::mutex> lock(mutex);
    FILE *file = std::fopen(path, "w");
    for (auto &entry : *counts) std::fprintf(file, "%ld %s\n", entry.second, entry.first.c_str());
    std::fclose(file);
}
}
