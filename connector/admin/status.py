"""`connector status`: tenants, coverage, lag, gaps and jobs, from the state topic and the commands not yet applied."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from connector import __version__, brokers
from connector.admin import arguments, jobs, overview, text
from connector.admin.arguments import ConfigOption, JsonOption
from connector.admin.text import Section
from connector.kafka.desk import OperatorClient

if TYPE_CHECKING:
    from connector.config import Settings

_GAPS = 20
_DAY = timedelta(days=1)


def status(*, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    r"""Show tenants, coverage, lag, gaps and jobs. Needs no running worker.

    \b
    Example:
      connector status --config connector.toml
      connector status --json | jq '.tenants[] | {name, state, lag_seconds}'
    """
    settings = arguments.read_settings(config)
    now = datetime.now(UTC)
    desk = OperatorClient(settings.kafka, brokers.clients(settings))
    found = overview.look(desk, settings, now)
    content = {
        "app": settings.kafka.app,
        "topic": settings.kafka.topic,
        "version": __version__,
        "shards": settings.kafka.shards,
        "workers": found.workers,
        "tenants": found.describe_tenants(settings.kafka.app, now, is_new=desk.is_new),
        "jobs": found.describe_jobs(),
    }
    if as_json:
        arguments.print_json(content)
    else:
        text.show(sections(content, settings, now))


def sections(content: dict[str, Any], settings: "Settings", now: datetime) -> list[Section]:
    """Return the tables for people."""
    tenants = content["tenants"]
    workers = content["workers"]
    about = f"{content['app']} → {content['topic']}   {content['version']}   "
    about += "workers unknown" if workers is None else f"{workers} worker{'' if workers == 1 else 's'}"
    summary = [
        (
            _label(tenant),
            tenant["state"],
            text.span(tenant["lag_seconds"]),
            text.span(tenant["gap_seconds"]) if tenant["gaps"] else "-",
            text.number(tenant["records"]),
            text.number(tenant["remembered_rows"]),
            tenant["reason"] or "",
        )
        for tenant in tenants
    ]
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
        Section(about, ("tenant", "state", "lag>", "gaps>", "records>", "remembered>", "reason"), summary),
        Section("Call time that was read", ("tenant", "last 24 hours", "last 14 days"), coverage),
        Section("Gaps", ("tenant", "from", "to", "cause"), [*gaps[:_GAPS], *more]),
        Section("Sweeps", ("tenant", "every>", "overlap>", "last ended>", "overdue>"), sweeps),
        jobs.section(content["jobs"], settings),
    ]


def _label(tenant: dict[str, Any]) -> str:
    return str(tenant["name"] or tenant["id"])
