// What all stand-ins write into: which memory is the device's, and how often what was asked for.
#pragma once
#include <cstddef>

extern "C" {
void ledger_memory(const void *start, size_t bytes);  // of the device from now on; 0 bytes: no longer
void ledger_copied(const void *to, const void *from, size_t bytes);
void ledger_count(const char *kind, const char *name);
bool ledger_is_device(const void *address);
bool ledger_captures(int change);  // while work is captured it is counted where the graph is launched; -1 asks
}
