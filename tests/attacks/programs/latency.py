#!/usr/bin/python3
"""Opens a file so many times, with a pause between: latency.py TIMES FILE

Prints the median and the greatest of how long open(2) took, in microseconds.
"""
import os
import sys
import time

took = []
for _ in range(int(sys.argv[1])):
    begun = time.monotonic_ns()
    fd = os.open(sys.argv[2], os.O_RDONLY)
    took.append((time.monotonic_ns() - begun) // 1000)
    os.close(fd)
    time.sleep(0.01)
took.sort()
print(took[len(took) // 2], took[-1], flush=True)
