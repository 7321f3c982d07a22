"""The kernel's table of a process's file descriptors, grown before there are any connections.

Linux doubles the table when it is full. In a process with more than one thread it then waits until no core can still be
reading the old one (`expand_files` → `synchronize_rcu`), and the `socket` or `accept` that wanted the descriptor sleeps
so long: 6 to 8 ms were measured, in which the loop serves nobody. The table never shrinks, so it is grown once at the
start, while there is one thread and nothing to wait for.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource

RESERVED = 16_384
"""Two for each connection, 8 bytes of kernel memory apiece. Beyond it the table doubles when it must."""


def reserve(count: int = RESERVED) -> None:
    """Makes room for `count` descriptors, or for as many as the process may have."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = (count if limit == resource.RLIM_INFINITY else min(count, limit)) - 1
    with contextlib.suppress(OSError):  # a table that grows later is slower, and nothing worse
        os.close(fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, highest))
