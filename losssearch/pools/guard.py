"""Who ends the workers when the driver is killed and can no longer do it?

A process of its own that only waits: it is told the workers' process groups on stdin, `+123` and
`-123`, and when stdin ends, or its parent is another one, it kills those that are left. Costs some
10 MB and no time. It is run as a script by its path, and imports nothing of ours.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import suppress

LOOK_S = 2.0
"""How often to look for the parent: what the driver forked may keep our stdin open after its
death."""


def main() -> None:
    """Wait for the driver's end."""
    parent, groups, rest = int(sys.argv[1]), set[int](), b""
    while os.getppid() == parent:
        if not select.select([0], [], [], LOOK_S)[0]:
            continue
        chunk = os.read(0, 4096)
        if not chunk:
            break
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            (groups.add if line[:1] == b"+" else groups.discard)(int(line[1:]))
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
