"""The short form of every benchmark, each in a process of its own, one after the other.

Each one's long form, and what it is compared with, stands at the head of its file.
"""

from __future__ import annotations

import subprocess
import sys

#: Module -> arguments of its short form. Learning whole losses has no short form: see `benchmarks.learned`.
SHORT: dict[str, list[str]] = {
    "population": ["16", "3"],
    "kernel": [],
    "screening": ["--candidates", "4000"],
    "export": [],
    "store": [],
    "driver": [],
    "time_to_target": ["--short"],
    "controllers": [],
}


def main() -> int:
    """Exit code: how many failed."""
    failed = 0
    for name, arguments in SHORT.items():
        print(f"\n== {name} {' '.join(arguments)}".rstrip(), flush=True)
        failed += subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *arguments]).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
