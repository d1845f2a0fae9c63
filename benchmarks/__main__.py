"""The short form of every benchmark, one after the other."""

from __future__ import annotations

from benchmarks import population

population.main()
