#!/usr/bin/python3
"""Writes what is no certificate into a file of that name, again and again: commits.py SECONDS FILE

Prints how many commits were refused.
"""
import os
import sys
import time

until = time.monotonic() + float(sys.argv[1])
refused = 0
while time.monotonic() < until:
    fd = os.open(sys.argv[2], os.O_WRONLY)
    os.write(fd, b"no certificate")
    try:
        os.close(fd)
    except OSError:
        refused += 1
print(refused, flush=True)
