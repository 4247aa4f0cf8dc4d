#!/usr/bin/python3
"""Opens files again and again for so many seconds: opens.py SECONDS FILE...

Prints "reading" once it begins, then how many opens succeeded and how many failed.
"""
import os
import sys
import time


def say(line):
    """In one write(2): others write to the same pipe, and unbuffered (PYTHONUNBUFFERED) print makes one of each word."""
    os.write(1, f"{line}\n".encode())


until = time.monotonic() + float(sys.argv[1])
files = sys.argv[2:]
say("reading")
done = failed = 0
while time.monotonic() < until:
    for file in files:
        try:
            os.close(os.open(file, os.O_RDONLY))
            done += 1
        except OSError:
            failed += 1
say(f"{done} {failed}")
