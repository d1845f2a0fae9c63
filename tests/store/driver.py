"""A driver that writes rounds until it is killed: driver.py URL; prints what it stored."""

from __future__ import annotations

import sys

from losssearch.store.store import Store
from tests.store.make import begin, candidate, commit, training

store = Store.open(sys.argv[1], timeout_s=10)
search = begin(store)
print("open", search.rounds, flush=True)
while True:
    losses = [candidate(n) for n in range(search.proposals, search.proposals + 5)]
    store.add_candidates(losses)
    store.record_evaluations(training(n) for n in range(search.proposals, search.proposals + 5))
    search = commit(store, search, [0.1 * n for n in range(5)])
    print("stored", search.rounds, flush=True)
