"""Structured logs on standard error: event names in snake_case with key=value pairs, never secrets.

1. Standard output is for results. Every record goes to standard error, also those of libraries and of `warnings`.
2. As the last step, everything that looks like a token, a secret or a phone number is redacted, also in tracebacks.
3. Tracebacks never show local variables, because those hold tokens and rows.
4. Text from outside cannot start a new line or move the cursor. JSON is ASCII, and the console format escapes all
   characters that are not printable.
"""

import logging
import math
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO, cast

import structlog
from structlog.typing import FilteringBoundLogger, Processor

from connector.core import instants

Format = Literal["auto", "json", "console"]
_LIBRARIES = ("aiohttp", "asyncio", "msal", "urllib3", "requests", "confluent_kafka")
_NUMBERS = re.compile(r"[0-9]+")
_AGAIN_S = 60.0
_KINDS = 1000
_REDACTED = "***"
_SECRET_NAME = re.compile(
    r"secret|password|passwd|token|authorization|assertion|credential|api_?key|private_?key", re.IGNORECASE
)
_SECRETS = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {_REDACTED}"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*){1,4}"), _REDACTED),
    (
        re.compile(
            r"(?i)\b(client_secret|client_assertion|access_token|refresh_token|password)(['\"]?\s*[=:]\s*['\"]?)[^\s&'\",;]+"
        ),
        rf"\1\2{_REDACTED}",
    ),
    (re.compile(r"\+[0-9]{6,15}\**"), f"+{_REDACTED}"),
)


def get(name: str) -> FilteringBoundLogger:
    """Return the logger of a module. `name` is the name of the module."""
    return cast("FilteringBoundLogger", structlog.stdlib.get_logger(name))


def kafka_logger() -> logging.Logger:
    """Return the logger for the clients of confluent-kafka, to be passed as `logger=`.

    Without it, librdkafka would write to standard error itself.
    """
    logger = logging.getLogger("confluent_kafka.librdkafka")
    if not logger.filters:
        logger.addFilter(_is_unexplained)
        logger.addFilter(_Repeats())
    return logger


def _is_unexplained(record: logging.LogRecord) -> bool:
    """Return False for a log record of librdkafka whose problem the connector itself logs, together with a remedy.

    The same applies to a producer that waits for its transaction coordinator, which is normal on a new cluster.
    """
    message = record.getMessage()
    waits = "Failed to acquire" in message and message.endswith("retrying")
    return not waits and "not supported by any of the" not in message


class _Repeats(logging.Filter):
    """Filter that lets the same message through at most once per minute.

    Messages that differ only in numbers count as the same. The next record that passes has a member `more_since_last`:
    how many records were suppressed. Without the filter, a client that reaches no broker would log the same message
    twenty times per second.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, float] = {}
        self._more: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log a record. It is not logged if the same message was logged within the last minute."""
        sentence = _NUMBERS.sub("", record.getMessage())
        now = time.monotonic()
        if now - self._last.get(sentence, -math.inf) < _AGAIN_S:
            self._more[sentence] += 1
            return False
        if len(self._last) >= _KINDS:
            self._last.clear()
            self._more.clear()
        self._last[sentence] = now
        if more := self._more.pop(sentence, 0):
            record.more_since_last = more
        return True


def configure(format: Format = "auto", level: str = "info", stream: TextIO | None = None) -> None:  # noqa: A002
    """Set up logging for the whole process: every record goes to `stream`, by default standard error.

    With `format="auto"`, records are readable text if the stream is a terminal, otherwise JSON lines. The function may
    be called again, for example after the settings were read.
    """
    stream = stream or sys.stderr
    terminal = stream.isatty()
    as_json = format == "json" or (format == "auto" and not terminal)
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        _stamp,
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer(default=str)
        if as_json
        else structlog.dev.ConsoleRenderer(
            colors=terminal and not os.environ.get("NO_COLOR"), exception_formatter=structlog.dev.plain_traceback
        )
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[_name_foreign, *shared],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            redact,
            *([] if as_json else [_printable]),
            renderer,
        ],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old.formatter, structlog.stdlib.ProcessorFormatter):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(number)
    for library in _LIBRARIES:  # at INFO and below, they log requests with their content
        logging.getLogger(library).setLevel(max(number, logging.WARNING))
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def is_configured() -> bool:
    """Return whether `configure` has been called."""
    return any(
        isinstance(handler.formatter, structlog.stdlib.ProcessorFormatter) for handler in logging.getLogger().handlers
    )


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Return a log event in which `***` replaces tokens, secrets and phone numbers, also in nested values."""
    return {key: _redacted(key, value) for key, value in event.items()}


def _printable(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    # The console renderer shows nested values with repr(), which escapes them.
    return {
        key: _escaped(value, "\n\t" if key in {"exception", "stack"} else "") if isinstance(value, str) else value
        for key, value in event.items()
    }


def _escaped(text: str, kept: str) -> str:
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() or sign in kept else repr(sign)[1:-1] for sign in text)


def _stamp(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    first = ("level", "logger", "event")
    rest = {key: value for key, value in event.items() if key not in first}
    return {"timestamp": instants.text(datetime.now(UTC)), **{key: event[key] for key in first if key in event}, **rest}


def _redacted(key: str, value: object) -> object:
    if isinstance(value, str):
        if _SECRET_NAME.search(key):
            return _REDACTED
        for pattern, replacement in _SECRETS:
            value = pattern.sub(replacement, value)
        return value
    if isinstance(value, Mapping):
        return {str(inner): _redacted(str(inner), part) for inner, part in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_redacted(key, part) for part in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return _redacted(key, str(value))


def _name_foreign(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    # The text of a library becomes `message`, so that `event` always is one of the connector's event names.
    event["message"] = str(event["event"]).rstrip()
    event["event"] = "warning_raised" if event["_record"].name == "py.warnings" else "library_message"
    return event
