"""Undocumented behaviour of libraries that the code relies on. An upgrade that changes it fails here."""

import inspect
import logging
from asyncio import sslproto
from importlib.metadata import version
from typing import Any

import aiohttp
import pytest
import structlog
import typer
from aiohttp import http_exceptions
from confluent_kafka import KafkaError

KAFKA_ERRORS = (
    *("_ALL_BROKERS_DOWN", "_AUTHENTICATION", "_FATAL", "_FENCED", "_MSG_TIMED_OUT", "_PARTITION_EOF"),
    *("_PURGE_INFLIGHT", "_PURGE_QUEUE", "_QUEUE_FULL", "_RESOLVE", "_SSL", "_TIMED_OUT", "_TRANSPORT"),
    "_UNSUPPORTED_FEATURE",
)


def test_asyncio_allocates_max_size_bytes_per_tls_connection() -> None:
    assert isinstance(sslproto.SSLProtocol.max_size, int)
    assert "bytearray(self.max_size)" in inspect.getsource(sslproto.SSLProtocol.__init__)


async def test_aiohttp_session_retries_requests_by_default() -> None:
    async with aiohttp.ClientSession() as session:
        assert session._retry_connection is True


def test_aiohttp_errors_of_invalid_requests_have_one_base_class() -> None:
    assert issubclass(http_exceptions.BadStatusLine, http_exceptions.HttpProcessingError)


@pytest.mark.parametrize("name", KAFKA_ERRORS)
def test_confluent_kafka_defines_every_error_code_in_use(name: str) -> None:
    assert isinstance(getattr(KafkaError, name), int)


def test_installed_confluent_kafka_is_the_tested_version() -> None:
    """`fatal_errors` recognizes errors that callbacks distort. Try it with a new version."""
    assert version("confluent-kafka").split(".")[:2] == ["2", "16"]


def test_typer_usage_errors_are_click_exceptions() -> None:
    assert "ClickException" in [kind.__name__ for kind in typer.BadParameter.__mro__]


def test_structlog_passes_foreign_records_to_the_pre_chain() -> None:
    seen: list[Any] = []

    def keep(_logger: Any, _method: str, event: Any) -> Any:
        seen.append(event["_record"].name)
        return event

    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[keep], processor=structlog.processors.JSONRenderer(default=str)
    )
    formatter.format(logging.LogRecord("library", logging.INFO, __file__, 1, "message", None, None))
    assert seen == ["library"]
