"""Logs: one line an event, no secrets, nothing forged from outside."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from node.logs import REDACTED, VALUE_CHARS_MAX, configure_logs


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def log(level: str = "info", **fields: str) -> tuple[io.StringIO, Any]:
    stream = io.StringIO()
    configure_logs(level, "json", stream=stream, fields=fields)
    return stream, structlog.get_logger("part")


def read(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_says_who_what_and_when() -> None:
    stream, logger = log(moniker="node0")
    logger.info("decided", height=7, hash=b"\xab" * 32)
    (line,) = read(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "decided",
        "logger": "part",
        "level": "info",
        "moniker": "node0",
        "height": 7,
        "hash": "ab" * 32,
    }


def test_levels() -> None:
    stream, logger = log("warning")
    logger.info("quiet")
    logger.warning("loud")
    assert [line["event"] for line in read(stream)] == ["loud"]


def test_loggers_made_before_the_setup_follow_it() -> None:
    early = structlog.get_logger("early")
    stream, _ = log()
    early.info("hello")
    later = io.StringIO()
    configure_logs("info", "json", stream=later)
    early.info("again")
    assert [line["event"] for line in read(stream)] == ["hello"]
    assert [line["event"] for line in read(later)] == ["again"]


@pytest.mark.parametrize("name", ["seed", "key_seed", "secret", "Password", "token", "private_key"])
def test_secrets_are_never_logged(name: str) -> None:
    stream, logger = log()
    logger.info("key_read", **{name: b"very secret seed"})
    logging.getLogger("library").warning("careless", extra={name: "very secret seed"})
    assert "very" not in stream.getvalue()
    assert b"very".hex() not in stream.getvalue()
    assert [line[name] for line in read(stream)] == [REDACTED, REDACTED]


@pytest.mark.parametrize("format_", ["json", "console"])
def test_nobody_forges_a_line(format_: str) -> None:
    stream = io.StringIO()
    configure_logs("info", format_, stream=stream)
    evil = "x\n2026-01-01T00:00:00Z [error] forged\x1b[31m\u2028"
    structlog.get_logger("part").info("refused", reason=evil)
    logging.getLogger("libp2p.host").warning("peer says %s", evil)
    assert len(stream.getvalue().splitlines()) == 2
    assert "\x1b[31m" not in stream.getvalue()


def test_values_are_bounded() -> None:
    stream, logger = log()
    logger.info("refused", reason="a" * 10**6, raw=bytes(10**6), items=["b" * 10**6])
    line = read(stream)[0]
    assert all(len(line[name]) <= VALUE_CHARS_MAX + 3 for name in ("reason", "raw", "items"))


def test_libraries_speak_through_the_same_lines() -> None:
    # As py-libp2p does when it is imported.
    logging.getLogger("libp2p").propagate = False
    stream, _ = log()
    logging.getLogger("libp2p.network").info("a stream was opened")
    logging.getLogger("hypercorn.access").info("GET /")
    logging.getLogger("libp2p.network").warning("something is odd")
    (line,) = read(stream)
    assert (line["event"], line["logger"], line["level"]) == (
        "something is odd",
        "libp2p.network",
        "warning",
    )
    stream, _ = log("debug")
    logging.getLogger("libp2p.network").info("a stream was opened")
    assert len(read(stream)) == 1


@pytest.mark.parametrize("name", ["libp2p.transport.tcp", "libp2p.host.basic_host"])
def test_failed_dials_and_streams_are_for_debugging(name: str) -> None:
    said = "Failed to open stream to peer 12D3KooW: two nodes dialed each other"
    stream, _ = log()
    logging.getLogger(name).error(said)
    assert read(stream) == []
    stream, _ = log("debug")
    logging.getLogger(name).error(said)
    assert [line["event"] for line in read(stream)] == [said]


@pytest.mark.parametrize("format_", ["json", "console"])
def test_exceptions_carry_their_traceback(format_: str) -> None:
    stream = io.StringIO()
    configure_logs("info", format_, stream=stream)
    try:
        raise ValueError("a defect")
    except ValueError:
        structlog.get_logger("part").exception("stopped")
    assert "Traceback" in stream.getvalue()
    assert "ValueError: a defect" in stream.getvalue()
