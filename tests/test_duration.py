"""How long is "3m"?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from losssearch.duration import seconds_of, text_of
from losssearch.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90), ("90s", 90), ("3m", 180), ("1h30m", 5400), ("2d", 172800), ("0.5h", 1800), (" 3M ", 180),
        (90, 90), (0.25, 0.25),
    ],
)  # fmt: skip
def test_durations_that_people_write(text: str | float, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "0", "0s", "-3m", "3 parsecs", "m", "3m!", "1h 30m", "inf", "nan", "1e3"]
)
def test_anything_else_is_refused_with_what_came(text: str) -> None:
    with pytest.raises(UsageError, match="90s, 3m, 1h30m or 2d") as caught:
        seconds_of(text)
    assert repr(text) in str(caught.value)


@given(st.floats(0.6, 1e6))
def test_what_is_shown_can_be_read_back(seconds: float) -> None:
    shown = seconds_of(text_of(seconds))
    assert abs(shown - seconds) <= (0.5 if seconds < 3600 else 60)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (59.6, "1m00s"), (185, "3m05s"), (7800, "2h10m")])
def test_how_seconds_are_shown(seconds: float, text: str) -> None:
    assert text_of(seconds) == text
