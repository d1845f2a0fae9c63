"""How does an answer come in? By a command's output or a server's reply, in bounded time and size.

The request is one JSON object: `language` and `task` (text to read), `best` (score, formula, constants),
`failed` (formula, why), `count` (losses wanted), `seed` and `number` (for whoever draws lots). A command
finds it on its standard input; a server gets it as chat messages. The answer has one loss a line: a formula,
or `{"formula": "mean((1 - p_t)**g, 'n')", "constants": {"g": [2.0, 0, 5]}}` with value, low and high.

What comes is text and nothing else. A line that does not answer, answers too late or too much raises
`NoAnswer` with the reason; trying again is the caller's business.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from losssearch.errors import UsageError

TIMEOUT_S = 120.0
MOST_BYTES = 1_000_000


class NoAnswer(Exception):
    """Nothing usable came back; says why. `again` tells whether asking again may help."""

    def __init__(self, why: str, again: bool = True) -> None:
        super().__init__(why)
        self.again = again


class Line(ABC):
    """A way to somebody who proposes."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self.timeout_s = timeout_s

    @abstractmethod
    def ask(self, request: Mapping[str, Any]) -> str:
        """The answer to a request of plain data, as text.

        Raises:
            NoAnswer: There is none.
        """


class Command(Line):
    """A program that reads the request as JSON from its input and writes formulas to its output.

    Args:
        command: Words as in a shell; no shell runs.
        timeout_s: Seconds until it is killed.

    Raises:
        UsageError: There are no words, or the first is no program.
    """

    def __init__(self, command: str, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__(timeout_s)
        try:
            self.words = shlex.split(command)
        except ValueError as error:
            raise UsageError(f"The command {command!r} cannot be read: {error}.") from None
        if not self.words:
            raise UsageError("Name a command: command:./propose.py")
        if shutil.which(self.words[0]) is None:
            raise UsageError(f"There is no command {self.words[0]!r} that can be run.")

    def ask(self, request: Mapping[str, Any]) -> str:
        try:
            done = subprocess.run(
                self.words, input=json.dumps(request).encode(), capture_output=True, timeout=self.timeout_s
            )
        except FileNotFoundError:
            raise NoAnswer(f"there is no command {self.words[0]!r}", again=False) from None
        except OSError as error:
            raise NoAnswer(f"{self.words[0]}: {error.strerror}", again=False) from None
        except subprocess.TimeoutExpired:
            raise NoAnswer(f"no answer within {self.timeout_s:g} s") from None
        if done.returncode != 0:
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise NoAnswer(f"exit status {done.returncode}: {' '.join(last)[:200]}")
        return done.stdout[:MOST_BYTES].decode(errors="replace")


class Server(Line):
    """A server that speaks the OpenAI chat protocol, local ones included.

    The key, where one is needed, comes from the environment variable OPENAI_API_KEY; it is never stored.

    Args:
        address: For example "http://localhost:8000/v1?model=NAME".
        timeout_s: Seconds for one request.

    Raises:
        UsageError: The address is not http or https, or names no model.
    """

    def __init__(self, address: str, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__(timeout_s)
        parts = urllib.parse.urlsplit(address)
        model = urllib.parse.parse_qs(parts.query).get("model", [""])[0]
        if parts.scheme not in ("http", "https") or not parts.netloc or not model:
            raise UsageError(
                f"The address {address!r} is not understood. Write it like "
                "openai:http://localhost:8000/v1?model=NAME"
            )
        self.model = model
        self.url = urllib.parse.urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))

    def ask(self, request: Mapping[str, Any]) -> str:
        messages = [
            {"role": "system", "content": f"{request['language']}\n\n{request['task']}"},
            {"role": "user", "content": _history(request)},
        ]
        body = json.dumps({"model": self.model, "messages": messages}).encode()
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        asked = urllib.request.Request(f"{self.url}/chat/completions", body, headers)
        try:
            with urllib.request.urlopen(asked, timeout=self.timeout_s) as reply:
                raw = reply.read(MOST_BYTES)
        except urllib.error.HTTPError as error:
            error.close()
            again = error.code in (408, 409, 429) or error.code >= 500
            raise NoAnswer(f"{self.url} answered {error.code} {error.reason}", again) from None
        except TimeoutError:
            raise NoAnswer(f"no answer within {self.timeout_s:g} s") from None
        except (urllib.error.URLError, OSError) as error:
            reason = getattr(error, "reason", error)
            raise NoAnswer(f"{self.url} cannot be reached: {reason}") from None
        try:
            text = json.loads(raw)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError):
            raise NoAnswer(f"{self.url} answered something else than a chat completion") from None
        if not isinstance(text, str):
            raise NoAnswer(f"{self.url} answered no text")
        return text


def _history(request: Mapping[str, Any]) -> str:
    """The request's history as a person would write it."""
    best = [f"{row['score']:.4f}  {row['formula']}  {row['constants']}" for row in request["best"]]
    failed = [f"{row['formula']}: {row['why']}" for row in request["failed"]]
    return "\n".join(
        [
            "Best so far (error, lower is better; formula; constants):",
            *(best or ["none yet"]),
            "",
            "These were refused:",
            *(failed or ["none yet"]),
            "",
            f"Propose {request['count']} new losses.",
        ]
    )
