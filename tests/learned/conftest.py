"""A meta-learned loss of few steps: enough to be a loss, not to be a good one."""

from __future__ import annotations

import pytest

from losssearch.learned.loss import LearnedLoss
from losssearch.learned.meta import MetaSettings, learn
from tests.store.conftest import fresh_postgresql as fresh_postgresql
from tests.store.conftest import postgresql_url as postgresql_url
from tests.store.conftest import store as store
from tests.store.conftest import url as url

SHORT = MetaSettings(steps=3, warm=30, iterations=30, tasks=8, hidden=8)


@pytest.fixture(scope="session")
def curve_loss() -> LearnedLoss:
    """On predictions of one number."""
    return learn("sine", settings=SHORT)


@pytest.fixture(scope="session")
def digit_loss() -> LearnedLoss:
    """On logits."""
    return learn("few-shot-digits", settings=SHORT)
