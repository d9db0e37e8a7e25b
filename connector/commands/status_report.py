"""Output of `connector status`. It shows committed state and the commands that no worker has applied yet."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from connector import __version__, brokers
from connector.commands import arguments, job_table, overview, text
from connector.commands.text import Section
from connector.kafka.operator_client import OperatorClient

_GAPS = 20
_COLUMNS = (
    "tenant",
    "state",
    "lag>",
    "not read yet>",
    "gaps>",
    "dead letters>",
    "records>",
    "dedup rows>",
    "not read since",
    "reason",
)
_DAY = timedelta(days=1)


def report(config: Path | None, tenant: str | None, *, as_json: bool) -> None:
    """Print the status of all tenants, as JSON or as text.

    With `tenant` (a name or an id), print only the status of this tenant.
    """
    settings = arguments.read_settings(config)
    chosen = arguments.find_tenant(settings, tenant).id if tenant is not None else None
    now = datetime.now(UTC)
    client = OperatorClient(settings.kafka, brokers.clients(settings))
    found = overview.read_state(client, settings, now)
    content: dict[str, Any] = {
        "app": settings.kafka.app,
        "topic": settings.kafka.topic,
        "version": __version__,
        "shards": settings.kafka.shards,
        "workers": found.workers,
        "tenants": found.describe_tenants(settings.kafka.app, now, is_new=client.is_new),
        "jobs": found.describe_jobs(),
    }
    if chosen is not None:
        content["tenants"] = [one for one in content["tenants"] if one["id"] == chosen]
        content["jobs"] = [one for one in content["jobs"] if one["tenant"] == chosen]
    if as_json:
        arguments.print_json(content)
    else:
        text.show([*tables(content, now), job_table.section(content["jobs"], settings)])


def tables(content: dict[str, Any], now: datetime) -> list[Section]:
    """Return the status as tables for people, without the table of jobs."""
    tenants = content["tenants"]
    workers = content["workers"]
    about = f"{content['app']} → {content['topic']}   {content['version']}   "
    about += "number of workers unknown" if workers is None else f"{workers} worker{'' if workers == 1 else 's'}"
    summary = [_summary(tenant, now) for tenant in tenants]
    if len(tenants) > 1:
        summary.append(_total(tenants))
    coverage = [
        (_label(tenant), text.bar(tenant, now, _DAY, 48), text.bar(tenant, now, 14 * _DAY, 56))
        for tenant in tenants
        if tenant["coverage"]
    ]
    gaps = [
        (_label(tenant), text.when(gap["from"]), text.when(gap["to"]), gap["cause"])
        for tenant in tenants
        for gap in tenant["gaps"]
    ]
    more = [("", f"and {len(gaps) - _GAPS} more", "", "")] if len(gaps) > _GAPS else []
    sweeps = [
        (
            _label(tenant),
            sweep["every"],
            sweep["overlap"],
            text.ago(sweep["last_ok"], now),
            text.span(sweep["overdue_seconds"]) if sweep["overdue_seconds"] >= 1 else "-",
        )
        for tenant in tenants
        for sweep in tenant["sweeps"]
    ]
    return [
        Section(about, _COLUMNS, summary),
        Section(f"Call time that was read   {text.LEGEND}", ("tenant", "last 24 hours", "last 14 days"), coverage),
        Section("Gaps", ("tenant", "from", "to", "cause"), [*gaps[:_GAPS], *more]),
        Section("Sweeps", ("tenant", "every>", "overlap>", "last ended>", "overdue>"), sweeps),
    ]


def _summary(tenant: dict[str, Any], now: datetime) -> tuple[str, ...]:
    """Return the table row of one tenant."""
    done = tenant["unread_done"]
    unread = text.span(tenant["unread_seconds"])
    if done:
        unread += f", done in {text.span((datetime.fromisoformat(done) - now).total_seconds())}"
    return (
        _label(tenant),
        tenant["state"],
        text.span(tenant["lag_seconds"]),
        unread,
        text.span(tenant["gap_seconds"]) if tenant["gaps"] else "-",
        text.number(tenant["dead_letters"]),
        text.number(tenant["records"]),
        text.number(tenant["remembered_rows"]),
        text.when(tenant["since"]),
        ": ".join(part for part in (tenant["reason_code"], tenant["reason"]) if part),
    )


def _total(tenants: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return the table row with the sums of all tenants. Its lag is the longest of all tenants."""

    def known(name: str) -> list[float]:
        return [tenant[name] for tenant in tenants if tenant[name] is not None]

    counts = Counter(tenant["state"] for tenant in tenants)
    return (
        f"{len(tenants)} tenants",
        ", ".join(f"{count} {state}" for state, count in counts.most_common()),
        text.span(max(known("lag_seconds"), default=None)),
        text.span(sum(known("unread_seconds"))),
        text.span(sum(known("gap_seconds"))) if any(known("gap_seconds")) else "-",
        *(text.number(sum(known(name))) for name in ("dead_letters", "records", "remembered_rows")),
        "",
        "",
    )


def _label(tenant: dict[str, Any]) -> str:
    return str(tenant["name"] or tenant["id"])
