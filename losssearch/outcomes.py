"""What can happen to a candidate: an enum whose value is the sentence a person reads.

A crash is an outcome too. No candidate is ever lost without one of these beside it.
"""

from __future__ import annotations

from enum import Enum


class Outcome(Enum):
    """The end of a candidate's life, of one training of it, or of a job at a worker."""

    ANSWERED = "The worker answered."

    SCORED = "Trained and scored."
    # Screens, cheapest first.
    DUPLICATE = "The same canonical program was seen before; its result was credited."
    NOT_FINITE = "Gave nan or inf in value or gradient."
    FLAT = "Its gradient is zero almost everywhere on ordinary predictions."
    BLIND = "Does not depend on the prediction, or not on the target."
    BATCH_SIZE = "Its value depends on how many samples stand in a batch."
    EQUIVALENT = "Has the gradient of a known loss up to one factor; its result was credited."
    NOT_LEARNING = "Descending it on free predictions does not improve the metric."
    # Trainings.
    DIVERGED = "Training diverged: a parameter or prediction became nan or inf."
    PRUNED = "Dropped at an early rung: others did better."
    FAILED = "The proxy raised an error."
    INVALID = "The proxy returned no finite number."
    TIMEOUT = "Did not answer before its deadline."
    DIED = "The worker process died."
    POISON = "Killed or hung its workers repeatedly; not tried again."
