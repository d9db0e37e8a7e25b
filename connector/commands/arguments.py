"""Interpretation of options that several commands share. An invalid value raises ConfigurationError (exit code 2)."""

import dataclasses
import json
import logging
import math
import os
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from connector import log
from connector.config import Settings, Tenant, duration_text, load, no_tenants
from connector.config.durations import parse_instant
from connector.config.quoting import shown
from connector.core import instants
from connector.core.coverage import Window
from connector.errors import ConfigurationError

_SECOND = timedelta(seconds=1)
_BROKERS = ("kafka.bootstrap_servers",)


def read_settings(
    config: Path | None,
    *,
    required: Iterable[str] = _BROKERS,
    contacts_graph: bool = False,
    overridden: bool = True,
) -> Settings:
    """Load the settings of a command, and turn off the log of librdkafka, which would hide the command's own errors.

    `required` names keys that must not be empty. Credentials for Graph are required only if `contacts_graph` is true.
    If `overridden` is false, CONNECTOR_* variables are ignored.
    """
    settings = load(config, os.environ, required=required, contacts_graph=contacts_graph, overridden=overridden)
    logging.getLogger("connector.kafka").setLevel(logging.CRITICAL)
    log.kafka_logger().setLevel(logging.CRITICAL + 1)  # a fatal error has the level CRITICAL
    return settings


def find_tenant(settings: Settings, text: str) -> Tenant:
    """Return the tenant whose name or id is `text`. Raises ConfigurationError if there is none."""
    for tenant in settings.tenants:
        if text.lower() == tenant.key or text == tenant.name:
            return tenant
    if not settings.tenants:
        raise no_tenants()
    names = [name for tenant in settings.tenants for name in (tenant.name, tenant.id) if name]
    lower = {name.lower(): name for name in names}
    nearest = get_close_matches(text.lower(), lower, 1, 0.0)
    raise ConfigurationError([f"--tenant: there is no tenant {shown(text)}; the nearest is {lower[nearest[0]]}"])


def read_graph_range(
    config: Path | None,
    tenant: str,
    begin: str,
    end: str,
    requests_per_minute: float,
    *,
    required: Iterable[str] = _BROKERS,
) -> tuple[Settings, Tenant, Window]:
    """Interpret the options of a command that reads a range of call time from Graph.

    The returned tenant has `requests_per_minute` as its request budget. The function also configures the log.
    `required` names keys that must not be empty.
    """
    settings = read_settings(config, required=required, contacts_graph=True)
    log.configure(settings.log.format, settings.log.level)
    chosen = find_tenant(settings, tenant)
    window = read_window(begin, end, datetime.now(UTC))
    if not 1 <= requests_per_minute < math.inf:
        raise ConfigurationError(["--requests-per-minute: must be at least 1; write a number such as 5"])
    return settings, dataclasses.replace(chosen, requests_per_minute=requests_per_minute), window


def read_window(begin: str, end: str, now: datetime, horizon: timedelta | None = None) -> Window:
    """Return the range of call time from --from to --to, with both ends in whole seconds.

    The start is rounded down to a second. The end is rounded up, but not beyond the last second that has passed.

    Raises ConfigurationError if the range is reversed, lies in the future, is shorter than a second, or begins before
    `now - horizon`. If `horizon` is None, it may begin at any time.
    """
    first, last = _moment("--from", begin, now), _moment("--to", end, now)
    problems = [
        f"{option}: {instants.text(moment)} is in the future (it is now {instants.text(now)}); use a time in the past"
        for option, moment in (("--from", first), ("--to", last))
        if moment > now
    ]
    if first >= last:
        problems.append(
            f"--from: {instants.text(first)} is not before --to, which is {instants.text(last)}; "
            "swap them, or widen the range"
        )
    if horizon is not None and first < now.replace(microsecond=0) - horizon:
        problems.append(
            f"--from: {instants.text(first)} is longer ago than dedup.horizon ({duration_text(horizon)}): the "
            "deduplication index may have forgotten the rows of that time, so they could be published twice; "
            f"begin at {instants.text(now - horizon)} or later"
        )
    if problems:
        raise ConfigurationError(problems[:1])
    cut = now.replace(microsecond=0)
    window = Window(first.replace(microsecond=0), min(cut, (last + _SECOND - _TICK).replace(microsecond=0)))
    if window.start >= window.end:
        raise ConfigurationError(["--from: the range is shorter than a second; widen it"])
    return window


_TICK = timedelta(microseconds=1)


def _moment(option: str, text: str, now: datetime) -> datetime:
    try:
        moment = parse_instant(text)
        return now.replace(microsecond=0) + moment if isinstance(moment, timedelta) else moment
    except ValueError as wrong:
        raise ConfigurationError([f"{option}: {wrong}"]) from None
    except OverflowError:
        raise ConfigurationError([f"{option}: {text[:40]} is before the year 1; use a later time"]) from None


def print_json(value: Any) -> None:
    """Write a value to standard output as JSON. Characters are escaped if the encoding of the output is not UTF-8."""
    escaped = sys.stdout.encoding.lower().replace("-", "") != "utf8"
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=escaped) + "\n")
