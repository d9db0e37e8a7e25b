"""Settings of a topic that are unsafe if a record's timestamp is the start of the call (event time).

The call may have started months ago. Kafka deletes records by their timestamp and not by the time at which they were
written. Kafka also refuses timestamps that are too far from its clock.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import NamedTuple

AHEAD_MAX = timedelta(hours=1)
"Maximum time by which a timestamp may be ahead of the brokers' clock, unless they are configured otherwise."
# The second setting of each pair exists up to Kafka 3.9.
_BEFORE = ("message.timestamp.before.max.ms", "message.timestamp.difference.max.ms")
_AFTER = ("message.timestamp.after.max.ms", "message.timestamp.difference.max.ms")
_MILLISECOND = timedelta(milliseconds=1)


class Danger(NamedTuple):
    """Setting of a topic that may lose records whose timestamp is the start of the call. `needed` is a safe value."""

    setting: str
    value: str
    reason: str
    needed: str


def dangers(settings: Mapping[str, str | None], reach: timedelta, horizon: timedelta) -> list[Danger]:
    """Return the settings of a topic that are unsafe if the timestamp of a record is the start of the call.

    With these settings, brokers may delete or refuse records, or replace the timestamp. `reach` is how far back in call
    time the sweeps and the first start read. `horizon` is how far back a backfill may read.
    """
    if settings.get("message.timestamp.type") == "LogAppendTime":
        reason = "the broker stamps records with its own time, not with the start of the call"
        return [Danger("message.timestamp.type", "LogAppendTime", reason, "CreateTime")]
    found = []
    wanted = str(horizon // _MILLISECOND)
    if "delete" in (settings.get("cleanup.policy") or "delete"):
        kept = _span(settings, "retention.ms")
        if kept is not None and kept <= max(reach, horizon):
            readers = _readers(kept, reach, horizon)
            reason = (
                "the record of a call that began longer ago than retention.ms is deleted as soon as it is written, and "
                f"{readers}"
            )
            found.append(Danger("retention.ms", str(settings["retention.ms"]), reason, wanted))
    for name in _BEFORE:
        limit = _span(settings, name)
        if limit is not None and limit < max(reach, horizon):
            readers = _readers(limit, reach, horizon)
            reason = (
                "the broker refuses the record of a call that began longer ago than this setting allows, together with "
                f"its whole batch; {readers}"
            )
            found.append(Danger(name, str(settings[name]), reason, wanted))
    for name in _AFTER:
        limit = _span(settings, name)
        if limit is not None and limit < AHEAD_MAX:
            reason = (
                "the broker refuses the record of a call that began further ahead of the broker's clock than this "
                "setting allows, together with its whole batch"
            )
            found.append(Danger(name, str(settings[name]), reason, str(AHEAD_MAX // _MILLISECOND)))
    return list({danger.setting: danger for danger in reversed(found)}.values())[::-1]


def _readers(limit: timedelta, reach: timedelta, horizon: timedelta) -> str:
    if limit <= reach:
        return f"sweeps and the first start of a tenant read up to {_days(reach)} days back"
    return f"a backfill may read up to {_days(horizon)} days back"


def _days(span: timedelta) -> str:
    return f"{span / timedelta(days=1):.3g}"


def _span(settings: Mapping[str, str | None], name: str) -> timedelta | None:
    """Return the value of a setting, given in milliseconds, as a timedelta; None if the setting has no limit."""
    text = settings.get(name)
    try:
        limit = int(text or -1)
    except ValueError:
        return None
    if limit < 0 or limit > timedelta.max // _MILLISECOND:
        return None
    return timedelta(milliseconds=limit)
