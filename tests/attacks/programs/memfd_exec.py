# Runs a copy of a program out of memory:  memfd_exec.py PROGRAM ARG…

import os
import sys

with open(sys.argv[1], "rb") as program:
    fd = os.memfd_create("copy", 0)
    os.write(fd, program.read())
os.execve(fd, sys.argv[1:], {})
