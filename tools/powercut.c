/* Remembers what a program has written and not synced, so that a power cut can be played after it is killed.
 *
 * cc -shared -fPIC -O1 -o powercut.so powercut.c -ldl; run with LD_PRELOAD, POWERCUT_DIR (the folder to look at) and
 * POWERCUT_JOURNAL (the file to write; what is deleted is kept beside it, in POWERCUT_JOURNAL.d, which must be there).
 * POWERCUT_DELAY=MICROSECONDS lets each sync take so much longer: more is on its way when the program is killed.
 * POWERCUT_KILL=N kills the program at its Nth moment: each write, truncation and sync has one before it and one behind it.
 * POWERCUT_DECEIVE=NAME answers syncs of the database of that name, and of its WAL, without one: an acknowledgement that comes
 * too early.
 *
 * Every write, truncation, creation, renaming and deletion is noted with what was there before, in the order in which they are
 * made; a sync is noted with the number of records there were when it began, which it made durable. What is written through a
 * mapping is not seen: SQLite maps its index of the WAL (-shm) only, which does not outlive a power cut. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(result, name, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

/* A record of the journal, in the machine's byte order; `before` and `after` bytes follow. */
struct record {
    uint64_t kind; /* W T S: write, truncation, sync of a file; C U R D: creation, deletion, renaming, sync of a folder */
    uint64_t inode;
    uint64_t offset; /* of a write; the new size; for a sync, how many records it made durable */
    uint64_t size;   /* of the file before */
    uint64_t before, after;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *folder, *journal_path, *deceived;
static int journal = -1;
static useconds_t delay;
static uint64_t records;
static unsigned long last_moment, moments;

static void give_up(const char *what) {
    dprintf(2, "powercut: %s\n", what);
    abort();
}

__attribute__((constructor)) static void begin(void) {
    folder = getenv("POWERCUT_DIR");
    journal_path = getenv("POWERCUT_JOURNAL");
    deceived = getenv("POWERCUT_DECEIVE");
    const char *wait = getenv("POWERCUT_DELAY");
    delay = wait ? (useconds_t)strtoul(wait, NULL, 10) : 0;
    const char *kill_at = getenv("POWERCUT_KILL");
    last_moment = kill_at ? strtoul(kill_at, NULL, 10) : 0;
    if (!folder || !journal_path) return;
    int file = open(journal_path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) give_up("the journal cannot be opened");
    /* goes on behind a program that was killed, perhaps within a record */
    struct stat found;
    struct record record;
    off_t end = 0, next;
    fstat(file, &found);
    while (pread(file, &record, sizeof record, end) == sizeof record &&
           (next = end + sizeof record + record.before + record.after) <= found.st_size) {
        end = next;
        records++;
    }
    if (ftruncate64(file, end)) give_up("the journal cannot be cut");
    journal = file;
}

static void moment(void) {
    if (last_moment && __atomic_add_fetch(&moments, 1, __ATOMIC_SEQ_CST) == last_moment) kill(getpid(), SIGKILL);
}

static int is_ours(const char *path) {
    size_t length = strlen(path), prefix = strlen(folder);
    if (strncmp(path, folder, prefix) || (path[prefix] && path[prefix] != '/')) return 0;
    return length < 4 || strcmp(path + length - 4, "-shm");
}

/* Whether a descriptor is of a file or folder to look at; says its path. */
static int ours(int fd, char path[PATH_MAX]) {
    if (journal < 0) return 0;
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int saved = errno;
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    errno = saved;
    if (length <= 0) return 0;
    path[length] = 0;
    return is_ours(path) && !strstr(path, " (deleted)");
}

static int whole(const char *name, char path[PATH_MAX]) {
    if (journal < 0 || !name) return 0;
    char parent[PATH_MAX], *slash;
    snprintf(parent, sizeof parent, "%s", name);
    slash = strrchr(parent, '/');
    const char *base = slash ? name + (slash - parent) + 1 : name;
    if (slash) *slash = 0;
    char resolved[PATH_MAX];
    int saved = errno, found = realpath(slash ? (*parent ? parent : "/") : ".", resolved) != NULL;
    errno = saved;
    if (!found || strlen(resolved) + strlen(base) + 2 > PATH_MAX) return 0;
    strcpy(path, resolved);
    strcat(strcat(path, "/"), base);
    return is_ours(path);
}

static void note(struct record record, const void *before, const void *after) {
    struct iovec parts[] = {
        {&record, sizeof record}, {(void *)before, record.before}, {(void *)after, record.after}};
    REAL(ssize_t, writev, int, const struct iovec *, int);
    if (real(journal, parts, 3) != (ssize_t)(sizeof record + record.before + record.after)) give_up("the journal is full");
    records++;
}

static void note_names(int kind, const char *one, const char *two) {
    struct record record = {.kind = kind, .before = strlen(one), .after = two ? strlen(two) : 0};
    note(record, one, two);
}

static void note_sync(int fd, const char *path, uint64_t durable) {
    struct stat found;
    if (fstat(fd, &found)) return;
    int is_folder = S_ISDIR(found.st_mode);
    struct record record = {is_folder ? 'D' : 'S', found.st_ino, durable, 0, is_folder ? strlen(path) : 0, 0};
    note(record, path, NULL);
}

/* Notes what `length` bytes at `offset` replace. */
static void note_write(int fd, const void *bytes, size_t length, off_t offset) {
    struct stat found;
    if (fstat(fd, &found)) give_up("a file cannot be looked at");
    size_t there = offset >= found.st_size ? 0 : (size_t)(found.st_size - offset);
    if (there > length) there = length;
    char link[64], *before = malloc(there + 1);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int reader = there ? open(link, O_RDONLY | O_CLOEXEC) : -1; /* the descriptor may be for writing only */
    if (!before || (there && pread(reader, before, there, offset) != (ssize_t)there)) give_up("a file cannot be read");
    if (reader >= 0) close(reader);
    struct record record = {bytes ? 'W' : 'T', found.st_ino, offset, found.st_size, there, bytes ? length : 0};
    note(record, before, bytes);
    free(before);
}

static ssize_t noted_write(int fd, const void *bytes, size_t length, off_t offset) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off_t);
    pthread_mutex_lock(&lock);
    note_write(fd, bytes, length, offset);
    moment();
    ssize_t done = real(fd, bytes, length, offset);
    moment();
    if (done != (ssize_t)length) give_up("a write was cut short");
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t offset) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off_t);
    char path[PATH_MAX];
    return ours(fd, path) ? noted_write(fd, bytes, length, offset) : real(fd, bytes, length, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) { return pwrite64(fd, bytes, length, offset); }

ssize_t write(int fd, const void *bytes, size_t length) {
    REAL(ssize_t, write, int, const void *, size_t);
    char path[PATH_MAX];
    if (!ours(fd, path)) return real(fd, bytes, length);
    int appends = fcntl(fd, F_GETFL) & O_APPEND;
    off_t offset = lseek(fd, 0, appends ? SEEK_END : SEEK_CUR);
    ssize_t done = noted_write(fd, bytes, length, offset);
    lseek(fd, offset + done, SEEK_SET);
    return done;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    char path[PATH_MAX];
    if (ours(fd, path)) give_up("writev to a file is not noted");
    return real(fd, parts, count);
}

int ftruncate64(int fd, off_t size) {
    REAL(int, ftruncate64, int, off_t);
    char path[PATH_MAX];
    if (!ours(fd, path)) return real(fd, size);
    pthread_mutex_lock(&lock);
    note_write(fd, NULL, SIZE_MAX, size);
    moment();
    int result = real(fd, size);
    moment();
    pthread_mutex_unlock(&lock);
    return result;
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

static int is_deceived(const char *path) {
    const char *name = deceived ? strstr(path, deceived) : NULL;
    const char *rest = name ? name + strlen(deceived) : "?";
    return !*rest || !strcmp(rest, "-wal");
}

static int synced(int fd, int (*real)(int)) {
    char path[PATH_MAX];
    if (!ours(fd, path)) return real(fd);
    if (is_deceived(path)) return 0;
    pthread_mutex_lock(&lock);
    uint64_t durable = records;
    pthread_mutex_unlock(&lock);
    if (delay) usleep(delay);
    moment();
    int result = real(fd);
    moment();
    if (result == 0) {
        pthread_mutex_lock(&lock);
        note_sync(fd, path, durable);
        pthread_mutex_unlock(&lock);
    }
    return result;
}

int fsync(int fd) {
    REAL(int, fsync, int);
    return synced(fd, real);
}

int fdatasync(int fd) {
    REAL(int, fdatasync, int);
    return synced(fd, real);
}

static int makes(int flags) { return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE; }

int openat64(int at, const char *name, int flags, ...) {
    REAL(int, openat64, int, const char *, int, ...);
    mode_t mode = 0;
    if (makes(flags)) {
        va_list rest;
        va_start(rest, flags);
        mode = va_arg(rest, mode_t);
        va_end(rest);
    }
    if (journal < 0 || !(flags & (O_CREAT | O_TRUNC))) return real(at, name, flags, mode);
    int saved = errno, is_new = faccessat(at, name, F_OK, 0) != 0;
    errno = saved;
    /* emptied below, where that is noted */
    int fd = real(at, name, flags & ~O_TRUNC, mode);
    char path[PATH_MAX];
    if (fd >= 0 && is_new && ours(fd, path)) {
        pthread_mutex_lock(&lock);
        note_names('C', path, NULL);
        pthread_mutex_unlock(&lock);
    }
    if (fd >= 0 && flags & O_TRUNC) ftruncate64(fd, 0);
    return fd;
}

#define OPEN(name, parameters, at, path) \
    int name parameters { \
        mode_t mode = 0; \
        if (makes(flags)) { \
            va_list rest; \
            va_start(rest, flags); \
            mode = va_arg(rest, mode_t); \
            va_end(rest); \
        } \
        return openat64(at, path, flags, mode); \
    }
OPEN(openat, (int at, const char *path, int flags, ...), at, path)
OPEN(open64, (const char *path, int flags, ...), AT_FDCWD, path)
OPEN(open, (const char *path, int flags, ...), AT_FDCWD, path)

/* Keeps a file that is about to lose its name; says where. */
static int keep(const char *path, char side[PATH_MAX]) {
    snprintf(side, PATH_MAX, "%s.d/%llu", journal_path, (unsigned long long)records);
    return linkat(AT_FDCWD, path, AT_FDCWD, side, 0) == 0;
}

int unlink(const char *name) {
    REAL(int, unlink, const char *);
    char path[PATH_MAX], side[PATH_MAX];
    if (!whole(name, path)) return real(name);
    pthread_mutex_lock(&lock);
    int saved = errno;
    if (keep(path, side)) note_names('U', path, side);
    errno = saved;
    int result = real(name);
    pthread_mutex_unlock(&lock);
    return result;
}

int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    char source[PATH_MAX], target[PATH_MAX], side[PATH_MAX];
    if (!whole(to, target) || !whole(from, source)) return real(from, to);
    pthread_mutex_lock(&lock);
    int saved = errno;
    /* the file that is replaced goes first */
    if (keep(target, side)) note_names('U', target, side);
    errno = saved;
    note_names('R', source, target);
    int result = real(from, to);
    pthread_mutex_unlock(&lock);
    return result;
}
