/* Makes the N-th system call that writes under a folder fail, or ends the process there.
 *
 * Loaded by LD_PRELOAD. Calls are counted over all processes that inherit the environment, in a mapped file.
 *   FAULT_UNDER    the folder, an absolute path; other files are not counted
 *   FAULT_COUNTER  a file of 8 bytes, the count
 *   FAULT_AT       the number of the call, from 0; -1 to count only
 *   FAULT_ERRNO    what the call answers; 0: the process is sent FAULT_SIGNAL before the call is made
 *   FAULT_STAYS    1: all later calls that need space fail too, as on a full disk
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(type, name) static type (*real)() = NULL; if (!real) real = (type (*)())dlsym(RTLD_NEXT, #name)

static long *counter;
static long at = -1;
static int code, number, stays;
static char under[PATH_MAX];
static __thread int busy; /* what this library does itself is not counted */

__attribute__((constructor)) static void start(void) {
    const char *file = getenv("FAULT_COUNTER"), *folder = getenv("FAULT_UNDER");
    if (!file || !folder) return;
    busy = 1;
    int fd = open(file, O_RDWR | O_CLOEXEC);
    if (fd >= 0) {
        void *map = mmap(NULL, sizeof(long), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (map != MAP_FAILED) counter = map;
        close(fd);
    }
    busy = 0;
    snprintf(under, sizeof under, "%s", folder);
    at = getenv("FAULT_AT") ? atol(getenv("FAULT_AT")) : -1;
    code = getenv("FAULT_ERRNO") ? atoi(getenv("FAULT_ERRNO")) : 0;
    number = getenv("FAULT_SIGNAL") ? atoi(getenv("FAULT_SIGNAL")) : SIGKILL;
    stays = getenv("FAULT_STAYS") && *getenv("FAULT_STAYS") == '1';
}

/* Whether the call fails; errno is set then. `grows` is true of calls that need space or a new name. */
static int fails(int grows) {
    if (!counter) return 0;
    long mine = __atomic_fetch_add(counter, 1, __ATOMIC_SEQ_CST);
    if (at < 0 || mine < at || (mine > at && !(stays && grows))) return 0;
    if (code == 0) {
        if (mine == at) kill(getpid(), number);
        return 0;
    }
    errno = code;
    return 1;
}

static int below(const char *path) {
    size_t length = strlen(under);
    return strncmp(path, under, length) == 0 && (path[length] == '/' || path[length] == 0);
}

static int named(int folder, const char *path) {
    char whole[PATH_MAX * 2], start_of[PATH_MAX], link[64];
    if (!counter || busy || !path) return 0;
    if (path[0] == '/') return below(path);
    if (folder == AT_FDCWD) {
        if (!getcwd(start_of, sizeof start_of)) return 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t n = readlink(link, start_of, sizeof start_of - 1);
        if (n < 0) return 0;
        start_of[n] = 0;
    }
    snprintf(whole, sizeof whole, "%s/%s", start_of, path);
    return below(whole);
}

static int opened(int fd) {
    char link[64], path[PATH_MAX];
    if (!counter || busy) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return below(path);
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, name); \
        va_list list; va_start(list, flags); int mode = va_arg(list, int); va_end(list); \
        if ((flags & (O_CREAT | O_WRONLY | O_RDWR)) && named(AT_FDCWD, path) && fails(flags & O_CREAT)) return -1; \
        return real(path, flags, mode); }
#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        REAL(int, name); \
        va_list list; va_start(list, flags); int mode = va_arg(list, int); va_end(list); \
        if ((flags & (O_CREAT | O_WRONLY | O_RDWR)) && named(folder, path) && fails(flags & O_CREAT)) return -1; \
        return real(folder, path, flags, mode); }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

FILE *fopen(const char *path, const char *mode) {
    REAL(FILE *, fopen);
    if (mode[0] != 'r' && named(AT_FDCWD, path) && fails(1)) return NULL;
    return real(path, mode);
}
FILE *fopen64(const char *path, const char *mode) {
    REAL(FILE *, fopen64);
    if (mode[0] != 'r' && named(AT_FDCWD, path) && fails(1)) return NULL;
    return real(path, mode);
}

#define ON_FD(type, name, grows, declared, passed) \
    type name declared { REAL(type, name); if (opened(fd) && fails(grows)) return -1; return real passed; }
ON_FD(ssize_t, write, 1, (int fd, const void *data, size_t n), (fd, data, n))
ON_FD(ssize_t, pwrite, 1, (int fd, const void *data, size_t n, off_t o), (fd, data, n, o))
ON_FD(ssize_t, pwrite64, 1, (int fd, const void *data, size_t n, off64_t o), (fd, data, n, o))
ON_FD(ssize_t, writev, 1, (int fd, const struct iovec *v, int n), (fd, v, n))
ON_FD(int, ftruncate, 1, (int fd, off_t n), (fd, n))
ON_FD(int, ftruncate64, 1, (int fd, off64_t n), (fd, n))
ON_FD(int, fsync, 0, (int fd), (fd))
ON_FD(int, fdatasync, 0, (int fd), (fd))
ON_FD(int, fchmod, 0, (int fd, mode_t mode), (fd, mode))

#define ON_PATH(name, grows, declared, passed, folder, path) \
    int name declared { REAL(int, name); if (named(folder, path) && fails(grows)) return -1; return real passed; }
ON_PATH(rename, 1, (const char *a, const char *b), (a, b), AT_FDCWD, b)
ON_PATH(renameat, 1, (int f, const char *a, int g, const char *b), (f, a, g, b), g, b)
ON_PATH(link, 1, (const char *a, const char *b), (a, b), AT_FDCWD, b)
ON_PATH(linkat, 1, (int f, const char *a, int g, const char *b, int flags), (f, a, g, b, flags), g, b)
ON_PATH(mkdir, 1, (const char *path, mode_t mode), (path, mode), AT_FDCWD, path)
ON_PATH(mkdirat, 1, (int f, const char *path, mode_t mode), (f, path, mode), f, path)
ON_PATH(unlink, 0, (const char *path), (path), AT_FDCWD, path)
ON_PATH(unlinkat, 0, (int f, const char *path, int flags), (f, path, flags), f, path)
ON_PATH(rmdir, 0, (const char *path), (path), AT_FDCWD, path)
ON_PATH(chmod, 0, (const char *path, mode_t mode), (path, mode), AT_FDCWD, path)
