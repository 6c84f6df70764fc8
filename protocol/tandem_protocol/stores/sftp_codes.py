"""Numbers of SFTP version 3 (draft-ietf-secsh-filexfer-02): kinds of messages, statuses, and flags of an open.

They stand here, not taken from paramiko: a tier that the system's ``ssh`` reaches needs nothing else of it, and to load
it takes a tenth of a second of processor time.
"""

from __future__ import annotations

INIT, VERSION = 1, 2
OPEN, CLOSE, READ, WRITE = 3, 4, 5, 6
LSTAT, FSTAT = 7, 8
OPENDIR, READDIR, REMOVE, MKDIR, RMDIR = 11, 12, 13, 14, 15
STAT, RENAME = 17, 18
STATUS, DATA, NAME = 101, 103, 104
EXTENDED = 200

OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, OP_UNSUPPORTED = 0, 1, 2, 3, 4, 8

FLAG_READ, FLAG_WRITE, FLAG_CREATE, FLAG_EXCL = 0x1, 0x2, 0x8, 0x20
