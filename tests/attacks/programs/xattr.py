# setfattr(1), where it is not installed:  xattr.py set NAME VALUE FILE | remove NAME FILE | get NAME FILE

import os
import sys

what, name, *rest = sys.argv[1:]
try:
    if what == "set":
        os.setxattr(rest[1], name, rest[0].encode())
    elif what == "remove":
        os.removexattr(rest[0], name)
    else:
        print(os.getxattr(rest[0], name).decode())
except OSError as error:
    sys.exit(os.strerror(error.errno))
