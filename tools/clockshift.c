/* Shows a program another time of day than the machine's.
 *
 * cc -shared -fPIC -O1 -o clockshift.so clockshift.c -ldl; run with LD_PRELOAD and CLOCKSHIFT_FILE: a file of 8 bytes, how
 * many microseconds the clock is ahead, in the machine's byte order. Whoever writes it moves the clock of the program that
 * runs. Clocks that only go forward, which timeouts are measured by, are left alone, as they are on a machine whose clock is
 * set. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t none = 0;
static volatile int64_t *ahead = &none;
static int (*real_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void open_file(void) {
    real_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    const char *name = getenv("CLOCKSHIFT_FILE");
    int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *map = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (map != MAP_FAILED) ahead = map;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    if (!real_gettime) open_file();
    int result = real_gettime(clock, at);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t nanos = at->tv_nsec + *ahead % 1000000 * 1000;
        at->tv_sec += *ahead / 1000000;
        if (nanos < 0) nanos += 1000000000, at->tv_sec -= 1;
        if (nanos >= 1000000000) nanos -= 1000000000, at->tv_sec += 1;
        at->tv_nsec = nanos;
    }
    return result;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    (void)zone;
    struct timespec now;
    int result = clock_gettime(CLOCK_REALTIME, &now);
    if (result == 0) at->tv_sec = now.tv_sec, at->tv_usec = now.tv_nsec / 1000;
    return result;
}

time_t time(time_t *at) {
    struct timespec now = {0, 0};
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
