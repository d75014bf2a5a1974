/* A disk that remembers: preloaded into a server, it writes down each write, truncation, sync and removal of the files of
 * one database, in their order, and lets a sync fail that is named.
 *
 *   FAULTS_DB    the database; files whose path begins with it are written down, but not the -shm, which is memory
 *   FAULTS_LOG   where; records are appended, also by others
 *   FAULTS_FAIL  "FILE N": the Nth sync of this file fails with EIO. FILE is db, wal or lock
 *   FAULTS_HOW   "report": as Linux does, each descriptor that is open then fails once (the default);
 *                "lie": the call succeeds, and what it covered is lost all the same
 *
 * A record: kind, file, offset, length (four 64-bit numbers), then the bytes of a write.
 * No sync reaches the real disk: what is lost is decided when the log is replayed. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OTHER, DB, WAL, LOCK, FILES };
enum { WRITE = 1, TRUNCATE, SYNC, FAILED_SYNC, REMOVE };
#define MOST 4096

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *db;
static int log_fd = -1, fail_file, fail_at, lies;
static int syncs[FILES];
static char file_of[MOST], owes[MOST];

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("FAULTS_LOG"), *fail = getenv("FAULTS_FAIL"), *how = getenv("FAULTS_HOW");
  char name[8] = "";
  db = getenv("FAULTS_DB");
  if (!db || !path) return;
  log_fd = REAL(open)(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (fail && sscanf(fail, "%7s %d", name, &fail_at) == 2)
    fail_file = !strcmp(name, "db") ? DB : !strcmp(name, "wal") ? WAL : !strcmp(name, "lock") ? LOCK : OTHER;
  lies = how && !strcmp(how, "lie");
}

static int kind_of(const char *path) {
  if (!db || log_fd < 0 || strncmp(path, db, strlen(db))) return OTHER;
  path += strlen(db);
  return !*path ? DB : !strcmp(path, "-wal") ? WAL : !strcmp(path, ".lock") ? LOCK : OTHER;
}

static int watched(int fd) { return fd >= 0 && fd < MOST ? file_of[fd] : OTHER; }

/* One call, so that a record is whole whoever else appends. */
static void record(int kind, int file, uint64_t offset, const void *bytes, uint64_t length) {
  uint64_t head[4] = {kind, file, offset, length};
  struct iovec parts[2] = {{head, sizeof head}, {(void *)bytes, bytes ? length : 0}};
  if (writev(log_fd, parts, 2) < 0) abort();
}

static int opened(int fd, const char *path) {
  if (fd >= 0 && fd < MOST) {
    pthread_mutex_lock(&lock);
    file_of[fd] = kind_of(path), owes[fd] = 0;
    pthread_mutex_unlock(&lock);
  }
  return fd;
}

#define OPEN(name)                                                                     \
  int name(const char *path, int flags, ...) {                                         \
    va_list rest;                                                                      \
    va_start(rest, flags);                                                             \
    mode_t mode = va_arg(rest, mode_t);                                                \
    va_end(rest);                                                                      \
    return opened(REAL(name)(path, flags, mode), path);                                \
  }
OPEN(open)
OPEN(open64)

int close(int fd) {
  if (watched(fd)) {
    pthread_mutex_lock(&lock);
    file_of[fd] = OTHER;
    pthread_mutex_unlock(&lock);
  }
  return REAL(close)(fd);
}

static ssize_t write_down(int fd, const void *bytes, ssize_t written, off_t offset) {
  if (written > 0) record(WRITE, file_of[fd], offset, bytes, written);
  return written;
}

ssize_t write(int fd, const void *bytes, size_t length) {
  if (!watched(fd)) return REAL(write)(fd, bytes, length);
  pthread_mutex_lock(&lock);
  off_t offset = lseek(fd, 0, SEEK_CUR);
  ssize_t written = write_down(fd, bytes, REAL(write)(fd, bytes, length), offset);
  pthread_mutex_unlock(&lock);
  return written;
}

#define PWRITE(name)                                                                   \
  ssize_t name(int fd, const void *bytes, size_t length, off_t offset) {               \
    if (!watched(fd)) return REAL(name)(fd, bytes, length, offset);                    \
    pthread_mutex_lock(&lock);                                                         \
    ssize_t written = write_down(fd, bytes, REAL(name)(fd, bytes, length, offset), offset); \
    pthread_mutex_unlock(&lock);                                                       \
    return written;                                                                    \
  }
PWRITE(pwrite)
PWRITE(pwrite64)

#define TRUNCATES(name)                                                                \
  int name(int fd, off_t length) {                                                     \
    if (!watched(fd)) return REAL(name)(fd, length);                                   \
    pthread_mutex_lock(&lock);                                                         \
    int done = REAL(name)(fd, length);                                                 \
    if (!done) record(TRUNCATE, file_of[fd], length, NULL, 0);                         \
    pthread_mutex_unlock(&lock);                                                       \
    return done;                                                                       \
  }
TRUNCATES(ftruncate)
TRUNCATES(ftruncate64)

static int synced(int fd) {
  int file = watched(fd), failed = 0;
  pthread_mutex_lock(&lock);
  if (++syncs[file] == fail_at && file == fail_file) {
    record(FAILED_SYNC, file, 0, NULL, 0);
    failed = !lies;
    for (int other = 0; failed && other < MOST; other++)
      if (other != fd && file_of[other] == file) owes[other] = 1;
  } else if (owes[fd]) {
    owes[fd] = 0, failed = 1;
  } else {
    record(SYNC, file, 0, NULL, 0);
  }
  pthread_mutex_unlock(&lock);
  if (failed) errno = EIO;
  return failed ? -1 : 0;
}

int fsync(int fd) { return watched(fd) ? synced(fd) : log_fd < 0 ? REAL(fsync)(fd) : 0; }
int fdatasync(int fd) { return watched(fd) ? synced(fd) : log_fd < 0 ? REAL(fdatasync)(fd) : 0; }

int unlink(const char *path) {
  int file = kind_of(path);
  if (!file) return REAL(unlink)(path);
  pthread_mutex_lock(&lock);
  int done = REAL(unlink)(path);
  if (!done) record(REMOVE, file, 0, NULL, 0);
  pthread_mutex_unlock(&lock);
  return done;
}
