/* Make the N-th call that changes a folder fail, as a full or a broken disk would.
 *
 *     gcc -O2 -fPIC -shared -o libfaults.so faults.c
 *     FAULTS="dir=/abs/folder;n=3;errno=ENOSPC" LD_PRELOAD=./libfaults.so some-program
 *
 * Loaded with LD_PRELOAD it installs a seccomp filter that traps the system calls below, and decides in the signal
 * handler. So it sees every writer in the process: Python, libc's buffered streams (fwrite, fclose), C++ and Rust. An
 * overridden write() would miss those that libc makes for itself.
 *
 * Counted, below `dir` only, in one counter for the process and all its children:
 *     write     write, pwrite64, writev, pwritev, sendfile, copy_file_range
 *     sync      fsync, fdatasync
 *     rename    rename, renameat, renameat2
 *     create    open, openat, creat with O_CREAT, O_TRUNC or O_TMPFILE; openat2 is not seen
 *     mkdir     mkdir, mkdirat
 *     truncate  ftruncate, truncate, fallocate
 *     link      link, linkat, symlink, symlinkat
 *     unlink    unlink, unlinkat, rmdir                       (only when asked for)
 *
 * FAULTS is a list of key=value, separated by ';':
 *     dir     absolute folder, no links in it; required
 *     n       which call fails, from 1; 0 counts and fails none
 *     errno   ENOSPC (default), EIO, EDQUOT, EINTR, EACCES, EROFS, EMFILE
 *     how     fail (default); short: a write takes half of its bytes, other kinds are then not counted; kill: SIGKILL
 *             instead of the call; torn: a write takes half of its bytes, then SIGKILL
 *     sticky  1: every later counted call fails too, as on a disk that stays full; 0 (default): once
 *     kinds   the kinds that count, by commas; default: all but unlink
 *     state   file that is mapped by all processes: counter, calls failed, what failed first. Without it a process
 *             counts for itself and its children for themselves.
 *
 * A program that forks can call faults_arm("dir=…;n=…") in the child instead of setting the environment. Linux on
 * x86-64 or arm64. The filter stays for the life of the process and is inherited; a child that is started without
 * LD_PRELOAD dies of SIGSYS at its first trapped call.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

#define MAGIC 0x7a175u /* in the unused sixth argument: our own calls, which the filter lets through */

enum kind { WRITE, SYNC, RENAME, CREATE, MKDIR, TRUNCATE, LINK, UNLINK, KINDS };
static const char *const NAMES[KINDS] = {"write", "sync", "rename", "create", "mkdir", "truncate", "link", "unlink"};

struct state {
    long counter; /* calls counted */
    long failed;  /* of them, made to fail */
    char what[480];
};

static struct state local, *shared = &local;
static char folder[1024];
static size_t folder_length;
static long nth;
static int error_number = ENOSPC, sticky, armed;
static enum { FAIL, SHORT, KILL, TORN } how;
static unsigned mask;

static long raw(long number, long a, long b, long c, long d, long e) {
    return syscall(number, a, b, c, d, e, (long)MAGIC);
}

/* The absolute path of a descriptor or of a name seen from a descriptor; 0 when it cannot be told. */
static int descriptor_path(long fd, char *out, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%ld", fd);
    ssize_t n = readlink(fd == AT_FDCWD ? "/proc/self/cwd" : link, out, size - 1);
    if (n <= 0) return 0;
    out[n] = 0;
    return 1;
}

static int name_path(long fd, const char *name, char *out, size_t size) {
    if (!name) return 0;
    if (name[0] == '/') return snprintf(out, size, "%s", name) < (int)size;
    char base[2048];
    if (!descriptor_path((int)fd, base, sizeof base)) return 0;
    return snprintf(out, size, "%s/%s", base, name) < (int)size;
}

static int below(const char *path) {
    return strncmp(path, folder, folder_length) == 0 && (path[folder_length] == '/' || path[folder_length] == 0);
}

/* What a trapped call is about: its kind and path. 0: not ours. */
static int classify(long number, const long *a, enum kind *kind, char *path, size_t size) {
    switch (number) {
    case SYS_write: case SYS_pwrite64: case SYS_writev: case SYS_pwritev:
        *kind = WRITE;
        return descriptor_path((int)a[0], path, size);
    case SYS_sendfile:
        *kind = WRITE;
        return descriptor_path((int)a[0], path, size);
    case SYS_copy_file_range:
        *kind = WRITE;
        return descriptor_path((int)a[2], path, size);
    case SYS_fsync: case SYS_fdatasync:
        *kind = SYNC;
        return descriptor_path((int)a[0], path, size);
    case SYS_ftruncate: case SYS_fallocate:
        *kind = TRUNCATE;
        return descriptor_path((int)a[0], path, size);
    case SYS_truncate:
        *kind = TRUNCATE;
        return name_path(AT_FDCWD, (const char *)a[0], path, size);
    case SYS_openat:
        *kind = CREATE;
        return name_path(a[0], (const char *)a[1], path, size);
    case SYS_mkdirat:
        *kind = MKDIR;
        return name_path(a[0], (const char *)a[1], path, size);
    case SYS_renameat: case SYS_renameat2:
        *kind = RENAME;
        return name_path(a[2], (const char *)a[3], path, size);
    case SYS_linkat:
        *kind = LINK;
        return name_path(a[2], (const char *)a[3], path, size);
    case SYS_symlinkat:
        *kind = LINK;
        return name_path(a[1], (const char *)a[2], path, size);
    case SYS_unlinkat:
        *kind = UNLINK;
        return name_path(a[0], (const char *)a[1], path, size);
#ifdef SYS_open
    case SYS_open: case SYS_creat:
        *kind = CREATE;
        return name_path(AT_FDCWD, (const char *)a[0], path, size);
    case SYS_mkdir:
        *kind = MKDIR;
        return name_path(AT_FDCWD, (const char *)a[0], path, size);
    case SYS_rename:
        *kind = RENAME;
        return name_path(AT_FDCWD, (const char *)a[1], path, size);
    case SYS_link: case SYS_symlink:
        *kind = LINK;
        return name_path(AT_FDCWD, (const char *)a[1], path, size);
    case SYS_unlink: case SYS_rmdir:
        *kind = UNLINK;
        return name_path(AT_FDCWD, (const char *)a[0], path, size);
#endif
    }
    return 0;
}

/* Whether this call is to fail. Counts it. */
static int strikes(enum kind kind, const char *path) {
    if (!(mask >> kind & 1) || !below(path) || (how == SHORT && kind != WRITE)) return 0;
    long number = __atomic_add_fetch(&shared->counter, 1, __ATOMIC_SEQ_CST);
    if (!nth || (sticky ? number < nth : number != nth)) return 0;
    if (__atomic_add_fetch(&shared->failed, 1, __ATOMIC_SEQ_CST) == 1)
        snprintf(shared->what, sizeof shared->what, "%s %s", NAMES[kind], path + folder_length);
    return 1;
}

/* Half of the bytes of a write, or the first piece of several; -1 when it cannot be halved. */
static int half(long number, const long *a, long *done) {
    if ((number == SYS_write || number == SYS_pwrite64) && a[2] > 1)
        *done = raw(number, a[0], a[1], a[2] / 2, a[3], 0);
    else if ((number == SYS_writev || number == SYS_pwritev) && a[2] > 1)
        *done = raw(number, a[0], a[1], 1, a[3], a[4]);
    else
        return 0;
    if (*done < 0) *done = -errno;
    return 1;
}

static long call(long number, const long *a) {
    enum kind kind;
    char path[4096];
    if (armed && classify(number, a, &kind, path, sizeof path) && strikes(kind, path)) {
        long done;
        if (how == FAIL) return -error_number;
        if (how == SHORT && half(number, a, &done)) return done;
        if (how == TORN) half(number, a, &done);
        if (how != SHORT) raw(SYS_kill, getpid(), SIGKILL, 0, 0, 0);
    }
    long result = number == SYS_copy_file_range ? -ENOSYS /* its sixth argument is in use: make callers fall back */
                                                : raw(number, a[0], a[1], a[2], a[3], a[4]);
    return result < 0 && result != -ENOSYS ? -errno : result;
}

#if defined(__x86_64__)
#define REGISTER(context, i) ((context)->uc_mcontext.gregs[(const int[]){REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8, REG_R9}[i]])
#define RESULT(context) ((context)->uc_mcontext.gregs[REG_RAX])
#define ARCHITECTURE 0xc000003eu
#elif defined(__aarch64__)
#define REGISTER(context, i) ((context)->uc_mcontext.regs[i])
#define RESULT(context) ((context)->uc_mcontext.regs[0])
#define ARCHITECTURE 0xc00000b7u
#endif

static void on_trap(int signal, siginfo_t *info, void *given) {
    (void)signal;
    int before = errno;
    ucontext_t *context = given;
    long a[6];
    for (int i = 0; i < 6; i++) a[i] = REGISTER(context, i);
    RESULT(context) = call(info->si_syscall, a);
    errno = before;
}

/* First of all: a filter that a parent installed holds here too, and its first trap would end this process. */
static void catch_traps(void) {
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    sigaction(SIGSYS, &action, NULL);
}

static void install(void) {
    static int done;
    if (done) return;
    done = 1;
#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define TRAP BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP)
#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define TRAPPED(number) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), TRAP
/* An open that creates or truncates: its flags are argument `i`. */
#define TRAPPED_OPEN(number, i)                                                                                        \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 4), LOAD(args[i]),                                                  \
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, O_CREAT | O_TRUNC | (O_TMPFILE & ~O_DIRECTORY), 0, 1), TRAP, ALLOW
    struct sock_filter filter[] = {
        LOAD(arch),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0), ALLOW,
        LOAD(args[5]),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MAGIC, 0, 1), ALLOW,
        LOAD(nr),
        TRAPPED(SYS_write), TRAPPED(SYS_pwrite64), TRAPPED(SYS_writev), TRAPPED(SYS_pwritev), TRAPPED(SYS_sendfile),
        TRAPPED(SYS_copy_file_range), TRAPPED(SYS_fsync), TRAPPED(SYS_fdatasync), TRAPPED(SYS_ftruncate),
        TRAPPED(SYS_fallocate), TRAPPED(SYS_truncate), TRAPPED(SYS_mkdirat), TRAPPED(SYS_renameat2),
        TRAPPED(SYS_linkat), TRAPPED(SYS_symlinkat), TRAPPED(SYS_unlinkat),
#ifdef SYS_renameat
        TRAPPED(SYS_renameat),
#endif
#ifdef SYS_open
        TRAPPED(SYS_mkdir), TRAPPED(SYS_rename), TRAPPED(SYS_link), TRAPPED(SYS_symlink), TRAPPED(SYS_unlink),
        TRAPPED(SYS_rmdir), TRAPPED(SYS_creat), TRAPPED_OPEN(SYS_open, 1),
#endif
        TRAPPED_OPEN(SYS_openat, 2),
        ALLOW,
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program)) {
        perror("faults: seccomp");
        _exit(99);
    }
}

static int errno_of(const char *name) {
    static const struct { const char *name; int number; } known[] = {
        {"ENOSPC", ENOSPC}, {"EIO", EIO}, {"EDQUOT", EDQUOT}, {"EINTR", EINTR},
        {"EACCES", EACCES}, {"EROFS", EROFS}, {"EMFILE", EMFILE},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].name, name)) return known[i].number;
    fprintf(stderr, "faults: unknown errno %s\n", name);
    _exit(99);
}

/* Begin to count; `given` is as the environment variable FAULTS. Callable again, which begins anew. */
void faults_arm(const char *given) {
    char text[4096], *place = NULL, *state = NULL;
    armed = 0;
    catch_traps();
    snprintf(text, sizeof text, "%s", given);
    nth = 0, sticky = 0, how = FAIL, error_number = ENOSPC, mask = (1u << UNLINK) - 1, folder[0] = 0;
    for (char *part = strtok_r(text, ";", &place); part; part = strtok_r(NULL, ";", &place)) {
        char *value = strchr(part, '=');
        if (!value) continue;
        *value++ = 0;
        if (!strcmp(part, "dir")) snprintf(folder, sizeof folder, "%s", value);
        else if (!strcmp(part, "n")) nth = atol(value);
        else if (!strcmp(part, "errno")) error_number = errno_of(value);
        else if (!strcmp(part, "how"))
            how = !strcmp(value, "short") ? SHORT : !strcmp(value, "kill") ? KILL : !strcmp(value, "torn") ? TORN : FAIL;
        else if (!strcmp(part, "sticky")) sticky = atoi(value);
        else if (!strcmp(part, "state")) state = value;
        else if (!strcmp(part, "kinds")) {
            mask = 0;
            for (int i = 0; i < KINDS; i++)
                if (strstr(value, NAMES[i])) mask |= 1u << i;
        }
    }
    folder_length = strlen(folder);
    while (folder_length > 1 && folder[folder_length - 1] == '/') folder[--folder_length] = 0;
    if (state) {
        int fd = open(state, O_RDWR | O_CREAT, 0600);
        if (fd < 0 || ftruncate(fd, sizeof(struct state))) _exit(99);
        void *mapped = mmap(NULL, sizeof(struct state), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        close(fd);
        if (mapped != MAP_FAILED) shared = mapped;
    }
    install();
    armed = folder_length > 0;
}

__attribute__((constructor)) static void begin(void) {
    const char *given = getenv("FAULTS");
    if (given) faults_arm(given);
}
