"""Structured logs: one event a line, for people or for machines, without secrets.

Owns the setup of structlog and of the standard library's logging (which py-libp2p and hypercorn
use), the form of a line, and what may not stand in one. Never decides what is worth a line.

What a peer or a client sent may be logged as a value: control characters are escaped and long
values cut, so that nobody from outside can forge a line or fill the disk with one.
"""

import logging
import sys
from collections.abc import Mapping
from typing import Final, TextIO

import structlog
from structlog.typing import EventDict, Processor

VALUE_CHARS_MAX: Final = 1_000
"""Longest logged value, in characters; the rest is cut."""

REDACTED: Final = "[redacted]"

_SECRET_NAMES: Final = frozenset(
    {
        "authorization",
        "key_seed",
        "mnemonic",
        "passphrase",
        "password",
        "private_key",
        "secret",
        "seed",
        "token",
    }
)

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_CHATTY_LOGGERS: Final = ("libp2p", "hypercorn", "httpx", "multiaddr")
"""Libraries that log each connection; below warning only when the node's level is debug."""

_REPEATING_LOGGERS: Final = ("libp2p.transport", "libp2p.host.basic_host")
"""What they say of each failed dial and stream, the keeping of peers knows and handles."""


def configure_logs(
    level: str,
    format_: str,
    *,
    stream: TextIO | None = None,
    fields: Mapping[str, str] | None = None,
) -> None:
    """Set up all logging of this process.

    Parameters
    ----------
    level : str
        The lowest level shown: "debug", "info", "warning" or "error".
    format_ : str
        "console" for people, "json" for machines.
    stream : text stream, optional
        Where lines go; standard error by default.
    fields : mapping of str to str, optional
        What every line carries, for example the moniker.
    """
    target = sys.stderr if stream is None else stream
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact_and_bound,
    ]
    renderer: Processor
    if format_ == "json":
        renderer = structlog.processors.JSONRenderer(sort_keys=False)
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=target.isatty(), pad_event_to=30)
    structlog.configure(
        processors=[*_without_extra(shared), renderer],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *names: _NamedLogger(target, names[0] if names else ""),
        # Loggers are made at import, before this; none may keep the setup that it found.
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**(fields or {}))
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
    is_debug = level == "debug"
    for name in _CHATTY_LOGGERS:
        library = logging.getLogger(name)
        library.setLevel(logging.DEBUG if is_debug else max(_LEVELS[level], logging.WARNING))
        # py-libp2p cuts its loggers off at import; their lines would go out raw.
        library.handlers.clear()
        library.propagate = True
    for name in _REPEATING_LOGGERS:
        logging.getLogger(name).setLevel(logging.DEBUG if is_debug else logging.CRITICAL)


def redact_and_bound(
    logger: object,  # noqa: ARG001 - the signature is structlog's.
    method: str,  # noqa: ARG001
    event: EventDict,
) -> EventDict:
    """Hide what is secret by its name, and make every other value short and printable."""
    for name, value in event.items():
        if name.startswith("_"):
            # structlog's own, for the standard library's records.
            continue
        if name.lower() in _SECRET_NAMES:
            event[name] = REDACTED
        elif isinstance(value, bytes | bytearray | memoryview):
            event[name] = _make_safe(bytes(value[: VALUE_CHARS_MAX // 2 + 1]).hex())
        elif isinstance(value, str):
            event[name] = _make_safe(value, keep_lines=name == "exception")
        elif not isinstance(value, int | float | None):
            event[name] = _make_safe(str(value))
    return event


class _NamedLogger(structlog.PrintLogger):
    """Prints lines and knows the name it was asked for by."""

    def __init__(self, stream: TextIO, name: str) -> None:
        super().__init__(stream)
        self.name = name


def _add_name(
    logger: object,
    method: str,  # noqa: ARG001 - the signature is structlog's.
    event: EventDict,
) -> EventDict:
    """Say which part of the node speaks; the standard library's records know it themselves."""
    record = event.get("_record")
    name = getattr(logger if record is None else record, "name", "")
    if name:
        event["logger"] = name
    return event


def _make_safe(text: str, *, keep_lines: bool = False) -> str:
    limit = VALUE_CHARS_MAX * 16 if keep_lines else VALUE_CHARS_MAX
    if len(text) > limit:
        text = text[:limit] + "..."
    if text.isprintable():
        return text
    return "".join(
        char
        if char.isprintable() or (keep_lines and char == "\n")
        else char.encode("unicode_escape", "backslashreplace").decode()
        for char in text
    )


def _without_extra(
    processors: list[Processor],
) -> list[Processor]:
    """Leave out the step that is for the standard library's records alone."""
    return [each for each in processors if not isinstance(each, structlog.stdlib.ExtraAdder)]
