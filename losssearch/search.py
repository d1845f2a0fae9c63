"""How is a loss found? THE LOOP, from a space and a task to a loss that can be used.

    ask       the controller proposes programs
    screen    judges that need no training, cheapest first
    train     the rest, all at once, on a few common splits; the best climb, rung by rung, to more splits
    tell      the controller learns, failures included
    commit    one transaction: candidates, scores, counts, and the controller's state

and at the end the finals: the best are trained on fresh splits, some of them under a second condition, and of
those tied with the best the simplest stands for the search. A search that is killed goes on after its last
committed round; trainings that were stored on the way are not done again.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from losssearch.duration import seconds_of
from losssearch.errors import UsageError
from losssearch.finals import hold_finals
from losssearch.pools.worker import INSIDE
from losssearch.result import SearchResult
from losssearch.session import Session, Spec, Watch


class Search(Spec):
    """A search for a loss.

    Args:
        space: Name of a shipped space, or path of a TOML file.
        proxy: Name of a shipped task, or "path/to/file.py:function".
        controller: What proposes: "portfolio" (all that learn, by what they earn), "evolution", "islands",
            "map_elites", "reinforce", "ppo", "q_learning", "optuna:SAMPLER", "command:WORDS",
            "openai:ADDRESS?model=NAME", or "random", the control; "portfolio:NAME,NAME" is one of these.
        start: Names of the classical losses to start from; None for all seed points of the space.
        storage: Database URL.
        name: Of the search, in the database; run again under the same name to go on.
        seed: Of all randomness of the controller.
        workers: "inline", "processes", "processes:4", "gpu", "ray", "ray:ADDRESS".
        deadline_s: Seconds that one training may take before its worker is replaced.
        tuner: Sampler of Optuna that sets the finalists' constants: "tpe", "gp", "cmaes", "random";
            "gradient" first follows the slope of the validation risk through training.

    Raises:
        LossSearchError: An argument does not fit; says which and what to do.
    """

    def run(
        self,
        *,
        time: str | float | None = None,
        candidates: int | None = None,
        watch: Watch = lambda progress: None,
    ) -> SearchResult:
        """Search until the budget is spent; what earlier runs of this name spent counts.

        Args:
            time: Seconds, or text such as "3m". Rounds and finals are as large as it pays, by what a training
                was measured to cost; the start losses are trained in any case.
            candidates: Proposals. With this budget the result depends on the seed alone, not on the machine's
                speed.
            watch: Called as the search goes on.

        Raises:
            UsageError: No budget, or both.
            LossSearchError: Anything that makes the search impossible.
        """
        if os.environ.get(INSIDE):
            raise UsageError(
                "A search was started inside a worker: the file that holds the proxy runs one when it is "
                "loaded. Put the search under `if __name__ == '__main__':`."
            )
        if (time is None) == (candidates is None):
            raise UsageError("Give one budget: time='3m' or candidates=500.")
        if candidates is not None and candidates < 1:
            raise UsageError(f"`candidates >= 1` must hold, but got {candidates=}.")
        seconds = None if time is None else seconds_of(time)
        with ExitStack() as stack:
            stack.enter_context(_undisturbed())
            state = Session.enter(self, seconds, candidates, watch, stack)
            state.status("running")
            while size := state.room():
                proposals = state.controller.ask(size)
                if not proposals:
                    break
                verdicts = state.screen(proposals)
                climbing = state.due()
                fresh = state.admit(proposals, verdicts)
                state.train([*climbing, (fresh, 0)])
                state.close_round(proposals, verdicts, climbing)
            hold_finals(state)
            state.status("finished")
            return state.result()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """One thread, and rare collections of garbage, while a search runs.

    Screens work on small tensors, for which a second thread costs more than it brings. And a search keeps
    hundreds of thousands of small objects alive: looking for circles among them again and again took
    half of a proposal's time.
    """
    import torch

    threads, often = torch.get_num_threads(), gc.get_threshold()
    torch.set_num_threads(1)
    gc.set_threshold(100_000, 50, 100)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        gc.set_threshold(*often)
