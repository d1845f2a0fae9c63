"""What comes from outside is text: read by the parser, asked for within bounds, never waited for."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from losssearch.controllers.base import Told, sampler_of
from losssearch.controllers.outside import proposer
from losssearch.controllers.outside.answers import read_answer
from losssearch.controllers.outside.lines import Command, NoAnswer, Server
from losssearch.controllers.outside.primer import primer
from losssearch.controllers.outside.proposer import Outside
from losssearch.controllers.registry import make_controller
from losssearch.errors import UsageError
from losssearch.language.canonical import candidate_key
from losssearch.language.primitives import PRIMITIVES
from losssearch.outcomes import Outcome
from losssearch.spaces import load_space

GOOD = """{"formula": "mean(-(1 - p_t)**g * log_pt, 'n')", "constants": {"g": [2.0, 0, 5]}}
mean(1 - p_t, 'n')"""
EVIL = """mean(__import__('os').system('true'), 'n')
exec(1)
{"formula": 3}
{"formula": "mean(p_t"}"""


class Chat(ThreadingHTTPServer):
    """A server that speaks the chat protocol: answers one reply after the other, then the last for ever."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies: list[tuple[int, Any]] = [(200, GOOD)]
        self.requests: list[dict[str, Any]] = []
        self.delay_s = 0.0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1?model=small"


class _Handler(BaseHTTPRequestHandler):
    server: Chat

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
        time.sleep(self.server.delay_s)
        status, reply = self.server.replies[0]
        if len(self.server.replies) > 1:
            self.server.replies.pop(0)
        if isinstance(reply, str):
            reply = {"choices": [{"message": {"role": "assistant", "content": reply}}]}
        raw = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        with contextlib.suppress(BrokenPipeError):  # whoever asked did not wait
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        return None


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Iterator[Chat]:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(proposer, "PAUSE_S", 0.01)
    server = Chat()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


SPACE = load_space("multiclass")


def asking(chat: Chat, **more: Any) -> Outside:
    return Outside(SPACE, [], 0, Server(chat.address, timeout_s=0.5), **more)


def test_a_server_is_asked_in_its_protocol_and_its_formulas_are_proposed(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    controller = make_controller(f"openai:{chat.address}", SPACE, [])
    found = controller.ask(2)
    assert [p.program.text for p in found] == ["mean(-(1 - p_t)**g * log_pt, 'n')", "mean(1 - p_t, 'n')"]
    assert {p.origin for p in found} == {"outside"}
    assert found[0].program.constant("g").high == 5
    [request] = chat.requests
    assert (request["path"], request["model"], request["key"]) == (
        "/v1/chat/completions",
        "small",
        "Bearer secret",
    )
    assert [m["role"] for m in request["messages"]] == ["system", "user"]
    assert "secret" not in json.dumps(controller.state())


def test_the_next_question_tells_scores_and_failures(chat: Chat) -> None:
    chat.replies = [(200, GOOD + "\nmean(sofmax(logits), 'n')"), (200, "mean(abs(margin), 'n')")]
    controller = asking(chat)
    first = controller.ask(2)
    told = [
        Told(p.number, candidate_key(p.program), p.program, score, outcome, 5, 0)
        for p, score, outcome in zip(first, (0.125, None), (Outcome.SCORED, Outcome.FLAT), strict=True)
    ]
    controller.tell(told)
    controller.ask(1)
    history = chat.requests[1]["messages"][1]["content"]
    assert "0.1250  mean(-(1 - p_t)**g * log_pt, 'n')" in history
    assert f"mean(1 - p_t, 'n'): {Outcome.FLAT.value}" in history
    assert "no primitive is called 'sofmax'" in history


@pytest.mark.parametrize(
    "reply",
    [
        (200, b"<html>"),
        (200, {"choices": []}),
        (200, {"choices": [{"message": {"content": None}}]}),
        (200, "I am sorry, I cannot help with that."),
        (200, ""),
        (200, EVIL),
        (200, '{"formula": "mean(p_t*q, \'n\')", "constants": {"q": [1, 2, 3, 4]}}'),
        (404, {}),
        (500, {}),
    ],
)
def test_a_bad_answer_costs_a_bounded_number_of_questions_and_random_losses_fill_in(
    chat: Chat, reply: tuple[int, Any]
) -> None:
    chat.replies = [reply]
    controller = asking(chat)
    found = controller.ask(5)
    assert len(found) == 5
    assert all(p.origin.startswith("filled in: ") for p in found)
    attempts = proposer.ATTEMPTS if reply[0] == 500 or isinstance(reply[1], bytes | dict) else 1
    assert len(chat.requests) <= proposer.PATIENCE * attempts


def test_a_server_that_recovers_is_asked_again(chat: Chat) -> None:
    chat.replies = [(503, {}), (429, {}), (200, GOOD)]
    assert [p.origin for p in asking(chat).ask(2)] == ["outside", "outside"]
    assert len(chat.requests) == 3


def test_a_slow_server_does_not_hold_up_the_search(chat: Chat) -> None:
    chat.delay_s = 2.0
    controller = Outside(SPACE, [], 0, Server(chat.address, timeout_s=0.05))
    began = time.monotonic()
    assert controller.ask(3)[0].origin.startswith("filled in")
    assert time.monotonic() - began < 2.0


def test_calls_are_counted_over_restarts_and_end(chat: Chat) -> None:
    controller = asking(chat, calls=2)
    controller.ask(2)
    later = asking(chat, calls=2)
    later.restore(json.loads(json.dumps(controller.state())))
    later.ask(20)
    assert later.used == 2 == len(chat.requests)


def test_nobody_there_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(proposer, "PAUSE_S", 0.0)
    controller = Outside(SPACE, [], 0, Server("http://127.0.0.1:9/v1?model=x"))
    assert len(controller.ask(3)) == 3


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (f"{sys.executable} -c 'import sys; sys.exit(\"I give up\")'", "exit status 1: I give up"),
        (f"{sys.executable} -c 'import time; time.sleep(9)'", "no answer within"),
    ],
)
def test_a_command_that_fails_says_why(words: str, why: str) -> None:
    with pytest.raises(NoAnswer, match=why):
        Command(words, timeout_s=0.5).ask({})


@pytest.mark.parametrize(
    "name",
    [
        "command:/no/such/program",
        "openai:localhost:8000",
        "openai:http://localhost:8000/v1",
        "openai:",
        "command:'",
        "command",
    ],
)
def test_an_address_that_cannot_work_is_refused_before_the_search(name: str) -> None:
    with pytest.raises(UsageError):
        make_controller(name, SPACE, [])


def test_bullets_numbers_and_fences_are_forgiven() -> None:
    text = "Sure!\n```\n1. mean(1 - p_t, 'n')\n- `mean(-log_pt, 'n')`,\n```\n"
    answer = read_answer(text, sampler_of(SPACE))
    assert [p.text for p in answer.programs] == ["mean(1 - p_t, 'n')", "mean(-log_pt, 'n')"]
    assert answer.refused == []


def test_what_the_search_does_not_allow_is_refused_with_the_reason() -> None:
    deep = "p_t" + " + p_t * margin" * 30
    text = f"sum(logits, 'n c')\nmean({deep}, 'n')\nmean(cumsum(p_t, 'n'), 'n')"
    answer = read_answer(text, sampler_of(SPACE))
    assert answer.programs == []
    whys = " | ".join(why for _, why in answer.refused)
    assert "not of the form" in whys
    assert "more than 24 nodes" in whys
    assert "does not use cumsum" in whys


def test_the_primer_of_a_game_says_who_moves_what() -> None:
    text = primer(load_space("gan"))
    assert "  d_fake(m): prediction of the discriminator, from -30 to 30\n" in text
    assert "  g_fake(m): prediction of the generator, from -30 to 30\n" in text
    assert "  g_real(n): provided, from -30 to 30\n" in text
    assert "Each player learns by the slopes in its own inputs alone" in text
    assert "player" not in primer(SPACE)


def test_the_primer_names_every_word_of_the_search_and_no_other() -> None:
    text = primer(SPACE)
    for name in SPACE.search.primitives:
        row = PRIMITIVES[name]
        assert (row.symbol or f"{name}(") in text
    assert "erf(" not in text
    for name in SPACE.search.terminals:
        assert name in text


def test_the_same_answer_again_and_again_is_not_asked_for_without_end(chat: Chat) -> None:
    chat.replies = [(200, "mean(1 - p_t, 'n')")]
    controller = asking(chat)
    origins = [p.origin for p in controller.ask(30)]
    assert origins[0] == "outside"
    assert all(origin.startswith("filled in") for origin in origins[1:])
    assert len(chat.requests) <= 1 + proposer.PATIENCE
    controller.ask(1)
    assert "it was proposed before" in chat.requests[-1]["messages"][1]["content"]
