#!/usr/bin/python3
"""Opens files again and again for so many seconds: opens.py SECONDS FILE...

Prints "reading" once it begins, then how many opens succeeded and how many failed.
"""
import os
import sys
import time

until = time.monotonic() + float(sys.argv[1])
files = sys.argv[2:]
print("reading", flush=True)
done = failed = 0
while time.monotonic() < until:
    for file in files:
        try:
            os.close(os.open(file, os.O_RDONLY))
            done += 1
        except OSError:
            failed += 1
print(done, failed, flush=True)
