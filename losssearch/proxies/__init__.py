"""Small training tasks with a metric: they judge a loss by training with it.

    base.py         what a proxy is: data, settings, conditions, rungs, protocol
    metrics.py      errors, over many models at once
    digits.py       digits, digits-noisy, digits-imbalanced
    tabular.py      breast-cancer, breast-cancer-noisy, diabetes, diabetes-outliers
    known_noise.py  known-noise-gaussian, ...: linear regressions whose best loss is known
    structured.py   how tasks are trained whose predictions are several, or whose samples meet
    ranking.py      queries: generated documents in order
    segmentation.py shapes: generated outlines
    boxes.py        scenes: generated objects
    embedding.py    digits-unseen: classes that were never taught
    preference.py   answers: a toy policy
    contrastive.py  digits-views: no labels at all
    ordinal.py      digits-ranked: lists of digits in order
    sharpening.py   digits-sharpened: pictures from a quarter of their pixels
    multitask.py    digits-tasks: class, slant and stroke width at once
    adversarial.py  how two players learn from one loss
    ring.py         ring: points made from noise
    made.py         digits-made: digits made from noise
    coded.py        digits-coded: a variational autoencoder
    judges.py       small networks that judge digits
    images.py       a user's own images as arrays
    user.py         a user's own task, or a user's own training loop
    registry.py     a proxy by name or "path/to/file.py:function"

Nothing here loads torch or a data set before a proxy is trained.
"""

from losssearch.proxies.user import blackbox, task

__all__ = ["blackbox", "task"]
