/* Opens a file by io_uring, without a library.

       uring plain|sqpoll FILE

   Prints its process id, and what openat came to: a descriptor's number, or minus an errno. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    struct io_uring_params params = {0};
    int polled = !strcmp(argv[1], "sqpoll");
    if (polled) {
        params.flags = IORING_SETUP_SQPOLL;
        params.sq_thread_idle = 2000;
    }
    int ring = syscall(SYS_io_uring_setup, 4, &params);
    if (ring < 0) {
        perror("io_uring_setup");
        return 2;
    }
    size_t sq_size = params.sq_off.array + params.sq_entries * sizeof(unsigned);
    size_t cq_size = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
    char *sq = mmap(NULL, sq_size, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
    char *cq = mmap(NULL, cq_size, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_CQ_RING);
    struct io_uring_sqe *sqe = mmap(NULL, params.sq_entries * sizeof *sqe, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
    if (sq == MAP_FAILED || cq == MAP_FAILED || sqe == MAP_FAILED)
        return 2;
    printf("pid %d\n", getpid());
    fflush(stdout);
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = IORING_OP_OPENAT;
    sqe->fd = AT_FDCWD;
    sqe->addr = (unsigned long)argv[2];
    sqe->open_flags = O_RDONLY;
    unsigned *array = (unsigned *)(sq + params.sq_off.array);
    array[0] = 0;
    atomic_store((_Atomic unsigned *)(sq + params.sq_off.tail), 1);
    unsigned flags = IORING_ENTER_GETEVENTS | (polled ? IORING_ENTER_SQ_WAKEUP : 0);
    if (syscall(SYS_io_uring_enter, ring, polled ? 0 : 1, 1, flags, NULL, 0) < 0) {
        perror("io_uring_enter");
        return 2;
    }
    struct io_uring_cqe *cqe = (struct io_uring_cqe *)(cq + params.cq_off.cqes);
    printf("open %d\n", cqe->res);
    return 0;
}
