/* Preloaded: writes to a file whose name contains $FULL_DISK_AT fail as on a full disk. For the fault suite alone. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static int no_room(int file) {
    const char *wanted = getenv("FULL_DISK_AT");
    char link[64], path[4096];
    if (!wanted || !*wanted) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    if (!strstr(path, wanted)) return 0;
    const char *told = getenv("FULL_DISK_MET");
    if (told) close(open(told, O_CREAT | O_WRONLY, 0600));
    return 1;
}

#define FAILING(result, name, signature, arguments)                  \
    result name signature {                                          \
        static result(*real) signature;                              \
        if (!real) real = (result(*) signature)dlsym(RTLD_NEXT, #name); \
        if (no_room(file)) {                                         \
            errno = ENOSPC;                                          \
            return -1;                                               \
        }                                                            \
        return real arguments;                                       \
    }

FAILING(ssize_t, write, (int file, const void *bytes, size_t count), (file, bytes, count))
FAILING(ssize_t, writev, (int file, const struct iovec *parts, int count), (file, parts, count))
FAILING(ssize_t, pwrite, (int file, const void *bytes, size_t count, off_t at), (file, bytes, count, at))
FAILING(ssize_t, pwrite64, (int file, const void *bytes, size_t count, off64_t at), (file, bytes, count, at))
FAILING(ssize_t, copy_file_range,
        (int from, off64_t *at, int file, off64_t *to, size_t count, unsigned flags), (from, at, file, to, count, flags))

int posix_fallocate(int file, off_t at, off_t count) {
    static int (*real)(int, off_t, off_t);
    if (!real) real = (int (*)(int, off_t, off_t))dlsym(RTLD_NEXT, "posix_fallocate");
    return no_room(file) ? ENOSPC : real(file, at, count);
}

int posix_fallocate64(int file, off64_t at, off64_t count) {
    static int (*real)(int, off64_t, off64_t);
    if (!real) real = (int (*)(int, off64_t, off64_t))dlsym(RTLD_NEXT, "posix_fallocate64");
    return no_room(file) ? ENOSPC : real(file, at, count);
}
