/* Takes another program's place in /proc/PID/exe, without privileges, and then does as it is told.
 *
 *     forge_exe TARGET FILE          prints FILE, with TARGET for its executable
 *
 * The kernel lets mm->exe_file be set by who has CAP_CHECKPOINT_RESTORE in its own user namespace (prctl(2), PR_SET_MM_MAP), and
 * a child that shares the memory (CLONE_VM) may be the first of a new one. What the old file still maps forbids it, so its pages
 * are replaced by copies of them first. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/prctl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static struct prctl_mm_map map;

static void die(const char *what) {
    perror(what);
    _exit(2);
}

/* Puts copies in the place of every page that the program's own file backs. */
static void leave_own_file(void) {
    static char text[65536], own[4096];
    ssize_t n = readlink("/proc/self/exe", own, sizeof own - 1);
    int fd = open("/proc/self/maps", O_RDONLY);
    size_t len = 0;
    if (n < 0 || fd < 0) die("/proc/self");
    own[n] = 0;
    for (ssize_t got; (got = read(fd, text + len, sizeof text - 1 - len)) > 0;) len += got;
    close(fd);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        unsigned long from, to;
        char perms[5];
        char *path = strchr(line, '/');
        if (!path || strcmp(path, own) || sscanf(line, "%lx-%lx %4s", &from, &to, perms) != 3) continue;
        int prot = (perms[0] == 'r' ? PROT_READ : 0) | (perms[1] == 'w' ? PROT_WRITE : 0) | (perms[2] == 'x' ? PROT_EXEC : 0);
        void *copy = mmap(NULL, to - from, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (copy == MAP_FAILED) die("mmap");
        memcpy(copy, (void *)from, to - from);
        if (mprotect(copy, to - from, prot)) die("mprotect");
        if (mremap(copy, to - from, to - from, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)from) == MAP_FAILED) die("mremap");
    }
}

/* The addresses as they are: only the file is to change (proc_pid_stat(5)). */
static void describe(void) {
    char text[4096];
    int fd = open("/proc/self/stat", O_RDONLY);
    ssize_t n = read(fd, text, sizeof text - 1);
    if (n <= 0) die("/proc/self/stat");
    close(fd);
    text[n] = 0;
    char *at = strrchr(text, ')') + 2;
    uint64_t field[60] = {0};
    for (int i = 3; i < 52 && at; i++) {
        field[i] = strtoull(at, NULL, 10);
        at = strchr(at, ' ');
        if (at) at++;
    }
    map.start_code = field[26], map.end_code = field[27], map.start_stack = field[28];
    map.start_data = field[45], map.end_data = field[46], map.start_brk = field[47];
    map.arg_start = field[48], map.arg_end = field[49], map.env_start = field[50], map.env_end = field[51];
    map.brk = (uint64_t)sbrk(0);
}

static int child(void *unused) {
    (void)unused;
    return prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof map, 0) ? 1 : 0;
}

int main(int argc, char **argv) {
    static char stack[65536] __attribute__((aligned(16)));
    char bytes[4096];
    int status;
    ssize_t n;
    if (argc < 3) return 2;
    map.exe_fd = open(argv[1], O_RDONLY | O_CLOEXEC);
    if ((int)map.exe_fd < 0) die(argv[1]);
    describe();
    leave_own_file();
    pid_t pid = clone(child, stack + sizeof stack, CLONE_VM | CLONE_NEWUSER | SIGCHLD, NULL);
    if (pid < 0) die("clone");
    if (waitpid(pid, &status, 0) != pid || status) {
        fprintf(stderr, "PR_SET_MM_MAP was refused\n");
        return 3;
    }
    n = readlink("/proc/self/exe", bytes, sizeof bytes);
    if (n <= 0) die("exe");
    fprintf(stderr, "now %.*s\n", (int)n, bytes);
    int fd = open(argv[2], O_RDONLY);
    if (fd < 0) die(argv[2]);
    while ((n = read(fd, bytes, sizeof bytes)) > 0) fwrite(bytes, 1, n, stdout);
    fflush(stdout);
    return n < 0 ? 4 : 0;
}
