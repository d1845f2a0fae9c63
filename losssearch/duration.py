"""How long is "3m"? Seconds from text, and text from seconds."""

from __future__ import annotations

import re

from losssearch.errors import UsageError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds_of(duration: str | float) -> float:
    """Seconds of 90, "90", "90s", "3m", "1h30m" or "2d".

    Raises:
        UsageError: Not a duration above zero.
    """
    text = str(duration).strip().lower()
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    seconds = sum(float(number) * _UNITS[unit or "s"] for number, unit in parts)
    if "".join(n + u for n, u in parts) != text or not 0 < seconds < float("inf"):
        raise UsageError(f"A duration is written 90s, 3m, 1h30m or 2d, but got {duration!r}.")
    return seconds


def text_of(seconds: float) -> str:
    """Seconds as a person reads them: 42s, 3m05s, 2h10m."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
