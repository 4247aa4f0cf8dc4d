/* System calls by the numbers of i386, from a 64-bit process: `int $0x80`.

       int80 open FILE | creat DIRECTORY/NAME | unlink FILE | mkdir DIRECTORY/NAME | stat FILE

   Prints its process id, and the call with the errno it got. Pointers must fit 32 bits: the path is copied below 4 GiB. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static long call(long number, const char *path, long second, long third)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(path), "c"(second), "d"(third) : "memory", "r8", "r9", "r10", "r11");
    return result;
}

int main(int argc, char **argv)
{
    char *low = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    if (argc != 3 || low == MAP_FAILED || strlen(argv[2]) >= 4096)
        return 2;
    strcpy(low, argv[2]);
    printf("pid %d\n", getpid());
    fflush(stdout);
    long result = -38;
    if (!strcmp(argv[1], "open"))
        result = call(5, low, 0, 0);
    else if (!strcmp(argv[1], "creat"))
        result = call(8, low, 0600, 0);
    else if (!strcmp(argv[1], "unlink"))
        result = call(10, low, 0, 0);
    else if (!strcmp(argv[1], "mkdir"))
        result = call(39, low, 0700, 0);
    else if (!strcmp(argv[1], "stat"))
        result = call(195, low, (long)(low + 4096), 0);
    printf("%s %ld\n", argv[1], result);
    return 0;
}
