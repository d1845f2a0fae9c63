"""One thread per test process: the suite runs on two cores, and small tensors lose time to more."""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # before torch is imported; child processes inherit it
