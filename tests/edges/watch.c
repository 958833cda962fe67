/* Notes what a process asks of the network, and which files it opens for writing: preloaded by test_promises.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static void note(const char *kind, const char *what) {
    const char *place = getenv("GLIMPSE_WATCH");
    char line[4400];
    if (place == NULL) return;
    int (*original)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
    int file = original(place, O_WRONLY | O_CREAT | O_APPEND, 0600);
    int length = snprintf(line, sizeof line, "%s %.4200s\n", kind, what == NULL ? "" : what);
    if (file >= 0) {
        if (write(file, line, (size_t)length) < 0) abort();
        close(file);
    }
}

static int writes(int flags) { return (flags & (O_WRONLY | O_RDWR | O_CREAT)) != 0; }

int socket(int domain, int type, int protocol) {
    int (*original)(int, int, int) = dlsym(RTLD_NEXT, "socket");
    if (domain == AF_INET || domain == AF_INET6) note("socket", "");
    return original(domain, type, protocol);
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result) {
    int (*original)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
        dlsym(RTLD_NEXT, "getaddrinfo");
    note("lookup", node);
    return original(node, service, hints, result);
}

#define OPEN(name)                                                        \
    int name(const char *path, int flags, ...) {                          \
        int (*original)(const char *, int, ...) = dlsym(RTLD_NEXT, #name); \
        va_list rest;                                                     \
        va_start(rest, flags);                                            \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                     \
        if (writes(flags)) note("write", path);                           \
        return original(path, flags, mode);                               \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                      \
    int name(int folder, const char *path, int flags, ...) {              \
        int (*original)(int, const char *, int, ...) = dlsym(RTLD_NEXT, #name); \
        va_list rest;                                                     \
        va_start(rest, flags);                                            \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                     \
        if (writes(flags)) note("write", path);                           \
        return original(folder, path, flags, mode);                       \
    }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name)                                                       \
    FILE *name(const char *path, const char *mode) {                      \
        FILE *(*original)(const char *, const char *) = dlsym(RTLD_NEXT, #name); \
        if (strpbrk(mode, "wa+") != NULL) note("write", path);            \
        return original(path, mode);                                      \
    }
FOPEN(fopen)
FOPEN(fopen64)

int mkdir(const char *path, mode_t mode) {
    int (*original)(const char *, mode_t) = dlsym(RTLD_NEXT, "mkdir");
    note("write", path);
    return original(path, mode);
}

pid_t fork(void) {
    pid_t (*original)(void) = dlsym(RTLD_NEXT, "fork");
    note("child", "fork");
    return original();
}
