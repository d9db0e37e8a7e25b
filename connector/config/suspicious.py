"""Warnings about configured values that are valid, but are probably mistakes."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from connector.config.document import Document
from connector.config.durations import duration_text
from connector.config.settings import Settings, Tenant
from connector.config.source import FILE_VARIABLE, PREFIX
from connector.core import instants

_GRAPH_LIMIT = 50
"Documented limit of Graph for this log, in requests per minute and tenant, for all clients together."
_MICROSOFT = (".microsoft.com", ".microsoft.us")


def suspicious_values(settings: Settings, environ: Mapping[str, str], now: datetime) -> list[str]:
    """Return one warning per suspicious value: the key or variable, what is wrong, and what to do."""
    return [
        *_variables(environ),
        *_sweeps(settings),
        *(warning for tenant in settings.tenants for warning in _tenant(settings, tenant, now)),
    ]


def _variables(environ: Mapping[str, str]) -> list[str]:
    """Return a warning for each variable that is ignored because its name has one underscore instead of two."""
    meant = {
        f"{PREFIX}{table}_{key}".upper(): f"{PREFIX}{table}__{key}".upper()
        for table, info in Document.model_fields.items()
        for key in getattr(info.annotation, "model_fields", ())
    }
    return [
        f"{name}: is ignored, because two underscores separate table and key; set {meant[name.upper()]}"
        for name in sorted(environ)
        if name.upper() in meant and name.upper() != FILE_VARIABLE
    ]


def _sweeps(settings: Settings) -> list[str]:
    return [
        f'windows.sweeps: the sweep with every = "{duration_text(sweep.every)}" has the overlap '
        f'"{duration_text(sweep.overlap)}", so it reads most call time only once and misses late rows; '
        "set an overlap that is longer than every"
        for sweep in settings.windows.sweeps
        if sweep.overlap <= sweep.every
    ]


def _tenant(settings: Settings, tenant: Tenant, now: datetime) -> list[str]:
    found: list[str] = []
    start = now + tenant.start if isinstance(tenant.start, timedelta) else tenant.start
    horizon = settings.dedup.horizon
    where = f"tenant {tenant.label}"
    if start > now:
        found.append(
            f"{where}: start: {instants.text(start)} is in the future, so nothing is read before then; "
            "set a time in the past"
        )
    elif start < now - horizon:
        found.append(
            f"{where}: start: {instants.text(start)} is before the horizon "
            f'(dedup.horizon = "{duration_text(horizon)}"), so older call time is not read; '
            "set a later start or a longer horizon"
        )
    is_microsoft = settings.graph.root.partition("://")[2].partition("/")[0].endswith(_MICROSOFT)
    if is_microsoft and tenant.requests_per_minute > _GRAPH_LIMIT:
        found.append(
            f"{where}: requests_per_minute: {tenant.requests_per_minute:g} is more than Graph allows "
            f"({_GRAPH_LIMIT} for all clients together), so Graph will refuse requests; set {_GRAPH_LIMIT} or less"
        )
    return found
