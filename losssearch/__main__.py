"""`python -m losssearch`: the command line, with the current folder last on the module path.

`-m` puts it first, where a user's own `workers/` or `dashboards/` would hide ours.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress


def move_current_folder_last() -> None:
    """Look for modules in the current folder only after all other places."""
    with suppress(FileNotFoundError):  # the folder may have been deleted
        here = ("", os.getcwd())
        moved = [entry for entry in sys.path if entry in here]
        sys.path[:] = [entry for entry in sys.path if entry not in here] + moved


if __name__ == "__main__":
    move_current_folder_last()
    from losssearch.cli import main

    main()
