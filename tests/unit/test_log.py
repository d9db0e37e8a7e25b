"""Logs go to standard error only, as JSON lines or readable text, and never contain secrets."""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from connector import log


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    librdkafka = logging.getLogger("confluent_kafka.librdkafka")
    librdkafka.filters.clear()
    librdkafka.setLevel(logging.NOTSET)
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def records(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_log_event_is_one_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    log.configure("auto", "info", stream)
    log.get("connector.web").info("http_listening", port=9464)
    (record,) = records(stream)
    assert record["timestamp"].endswith("Z")
    del record["timestamp"]
    assert record == {"level": "info", "logger": "connector.web", "event": "http_listening", "port": 9464}
    assert capsys.readouterr().out == ""


def test_log_goes_to_standard_error_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("console")
    log.get("connector").info("started")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "started" in captured.err


def test_reconfigured_log_does_not_write_events_twice() -> None:
    first, second = io.StringIO(), io.StringIO()
    log.configure("json", "info", first)
    log.configure("json", "warning", second)
    log.get("connector").info("started")
    log.get("connector").warning("slow")
    assert first.getvalue() == ""
    assert [record["event"] for record in records(second)] == ["slow"]


@pytest.mark.parametrize(
    "secret",
    [
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJodHRwczovL2dyYXBoIn0.c2lnbmF0dXJl",
        "Bearer abcdefghijklmnop",
        "+4915112345678",
        "+12345678***",
        "client_secret=hunter2hunter2&x",
        '{"access_token": "hunter2hunter2"}',
    ],
)
@pytest.mark.parametrize("style", ["json", "console"])
def test_log_redacts_tokens_secrets_and_phone_numbers(style: log.Format, secret: str) -> None:
    stream = io.StringIO()
    log.configure(style, "info", stream)
    logger = log.get("connector")
    logger.info("a", text=f"before {secret} after", deep={"list": [secret, ValueError(secret)]})
    logging.getLogger("msal").warning("answer %s", secret)
    try:
        raise RuntimeError(secret)  # noqa: TRY301
    except RuntimeError:
        logger.exception("failed")
    for hidden in ("eyJ0", "abcdefghijklmnop", "4915112345678", "12345678", "hunter2hunter2"):
        assert hidden not in stream.getvalue().replace(r"\u002b", "+")
    assert "before" in stream.getvalue()


def test_log_redacts_members_named_like_secrets() -> None:
    stream = io.StringIO()
    log.configure("json", "info", stream)
    log.get("connector").info("a", client_secret="x1", nested={"password": "x2"}, sasl_password="x3", tokens=3)
    (record,) = records(stream)
    assert (record["client_secret"], record["nested"], record["sasl_password"]) == ("***", {"password": "***"}, "***")
    assert record["tokens"] == 3


def test_log_does_not_redact_timestamps_and_plain_numbers() -> None:
    stream = io.StringIO()
    log.configure("json", "info", stream)
    log.get("connector").info("a", at="2026-01-31T00:00:00+00:00", rows=12345678, share=0.5, none=None, ok=True)
    (record,) = records(stream)
    assert (record["at"], record["rows"], record["share"], record["none"], record["ok"]) == (
        "2026-01-31T00:00:00+00:00",
        12345678,
        0.5,
        None,
        True,
    )


def test_logged_traceback_shows_no_local_variables() -> None:
    for style in ("json", "console"):
        stream = io.StringIO()
        log.configure(style, "info", stream)
        row = "a-row-with-personal-data"
        try:
            raise RuntimeError("boom " + row[:1])  # noqa: TRY301
        except RuntimeError:
            log.get("connector").exception("failed")
        assert "RuntimeError: boom a" in stream.getvalue()
        assert "a-row-with" not in stream.getvalue().replace('row = "a-row-with-personal-data"', "")


def test_log_of_libraries_contains_only_warnings_and_errors() -> None:
    stream = io.StringIO()
    log.configure("json", "debug", stream)
    logging.getLogger("msal.application").info("token")
    logging.getLogger("aiohttp.access").info("GET /")
    log.kafka_logger().error("broker %s down", 1)
    (record,) = records(stream)
    assert (record["event"], record["message"]) == ("library_message", "broker 1 down")
    assert (record["logger"], record["level"]) == ("confluent_kafka.librdkafka", "error")


def test_librdkafka_message_is_logged_once_per_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a broker, librdkafka repeats this message twenty times a second."""
    stream = io.StringIO()
    log.configure("json", "info", stream)
    logger = log.kafka_logger()
    for number in range(5):
        logger.error("broker %d: refused", number)
    logger.error("another sentence")
    monkeypatch.setattr(log, "_AGAIN_S", 0.0)
    logger.error("broker 7: refused")
    logged = [(record["message"], record.get("more_since_last")) for record in records(stream)]
    assert logged == [("broker 0: refused", None), ("another sentence", None), ("broker 7: refused", 4)]


def test_librdkafka_message_about_a_loading_coordinator_is_dropped() -> None:
    stream = io.StringIO()
    log.configure("json", "info", stream)
    sentence = "Failed to acquire transactional PID from broker localhost:9092/1: Broker: Coordinator load in progress"
    log.kafka_logger().warning("%s: retrying", sentence)
    log.kafka_logger().warning("%s: fatal", sentence)
    assert [record["message"] for record in records(stream)] == [f"{sentence}: fatal"]


def test_python_warnings_are_logged() -> None:
    stream = io.StringIO()
    log.configure("json", "info", stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning("old", DeprecationWarning, "file.py", 3)
    (record,) = records(stream)
    assert record["event"] == "warning_raised"
    assert "old" in record["message"]


@pytest.mark.parametrize(
    "hostile",
    [
        "a\n2026-01-31T00:00:00.000Z [info     ] forged",
        "a\r\nforged=1",
        "\x1b[2J\x1b[31mred",
        "\x1b]0;title\x07",
        "a\x00b\x08c",
        "\x9b31m",
        "\u2028\u2029\x85",
        "\u202eright\u2066to left",
    ],
)
@pytest.mark.parametrize("style", ["json", "console"])
def test_log_escapes_external_text(style: log.Format, hostile: str) -> None:
    stream = io.StringIO()
    log.configure(style, "info", stream)
    log.get("connector").warning("tenant_failing", tenant=hostile, reason=f"Graph said: {hostile}", deep=[hostile])
    logging.getLogger("aiohttp").warning("answer %s", hostile)
    lines = stream.getvalue().removesuffix("\n").split("\n")
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("style", ["json", "console"])
def test_log_escapes_exception_messages(style: log.Format) -> None:
    stream = io.StringIO()
    log.configure(style, "info", stream)
    try:
        raise RuntimeError("\x1b[31mred\r\x9b0m")  # noqa: TRY301
    except RuntimeError:
        log.get("connector").exception("failed")
    assert all(line.isprintable() for line in stream.getvalue().removesuffix("\n").split("\n"))
