"""Dashboard *Trunks*: telephony figures in the tables that examples/final_minutes.py writes into PostgreSQL."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.generator.panels import BLUE, GREEN, ORANGE, Panel, Row, Steps, database_board, figure, lines, rows
from deploy.grafana.generator.sql import Sql

_CHOSEN = "$__timeFilter(minute) AND tenant_id IN ($tenant) AND trunk IN ($trunk)"
_ATTEMPTS = "sum(attempts)"
_ASR = "100.0 * sum(answered) / nullif(sum(attempts), 0)"
_NER = "100.0 * sum(effective) / nullif(sum(attempts), 0)"
_ACD = "1.0 * sum(duration_seconds) / nullif(sum(answered), 0)"
_SHORT = "100.0 * sum(short_calls) / nullif(sum(answered), 0)"
_CONCURRENT = "max(concurrent_calls)"
_FAILURES = """trunk_minutes
CROSS JOIN LATERAL jsonb_to_recordset(failures)
  AS failure (final_sip_code integer, call_end_sub_reason integer, calls integer)"""
_PLAIN: Steps = ((None, BLUE),)
_NER_STEPS: Steps = ((None, ORANGE), (95, GREEN))


def dashboard() -> Dashboard:
    """Return the dashboard of the trunks."""
    return database_board(
        "trunks",
        "Trunks",
        "Telephony figures of the selected trunks. docs/downstream.md defines them. The newest minutes are missing"
        " until they are final.",
        [_glance(), _trends(), _failures()],
        {
            "tenant": ("Tenant", "SELECT DISTINCT tenant_id FROM trunk_minutes ORDER BY 1"),
            "trunk": ("Trunk", "SELECT DISTINCT trunk FROM trunk_minutes WHERE tenant_id IN ($tenant) ORDER BY 1"),
        },
    )


def _glance() -> Row:
    def now(title: str, description: str, unit: str, value: str, steps: Steps = _PLAIN) -> Panel:
        return figure(title, description, unit, _of_range(value), steps=steps)

    return Row(
        "Selected time range",
        [
            now("Attempts", "Calls that began, answered or not.", "short", _ATTEMPTS),
            now(
                "Answer seizure ratio (ASR)",
                "The share of the attempts that were answered. It also depends on how people behave: busy, no answer.",
                "percent",
                _ASR,
            ),
            now(
                "Network effectiveness ratio (NER)",
                "The share of the attempts that reached the called party: answered, busy, no answer or declined."
                " If it falls, look at the failures below. With fewer than 100 attempts, it says little.",
                "percent",
                _NER,
                _NER_STEPS,
            ),
            now(
                "Average call duration (ACD)",
                "The mean duration of answered calls. If it falls far below its usual value, people may hang up"
                " because of bad quality.",
                "s",
                _ACD,
            ),
            now(
                "Short calls",
                "The share of the answered calls that lasted less than 10 s.",
                "percent",
                _SHORT,
            ),
            now(
                "Most concurrent calls",
                "The highest number of calls that were connected at the same instant on one of the trunks."
                " Compare it with the channels and licenses of the SBC.",
                "none",
                _CONCURRENT,
            ),
        ],
    )


def _trends() -> Row:
    def trend(title: str, description: str, unit: str, value: str) -> Panel:
        return lines(title, description, unit, [_over_time(value)])

    return Row(
        "Trunks",
        [
            trend("Attempts, by trunk", "Calls that began in the interval, answered or not.", "short", _ATTEMPTS),
            trend(
                "Concurrent calls, by trunk",
                "The highest number of calls that were connected at the same instant of the interval.",
                "short",
                _CONCURRENT,
            ),
            trend("ASR, by trunk", "The share of the attempts that were answered.", "percent", _ASR),
            trend("NER, by trunk", "The share of the attempts that reached the called party.", "percent", _NER),
            trend("ACD, by trunk", "The mean duration of the answered calls that began in the interval.", "s", _ACD),
            trend("Short calls, by trunk", "The share of the answered calls that were short.", "percent", _SHORT),
            rows(
                "Comparison",
                "The figures of each trunk in the selected time range.",
                Sql(
                    f'SELECT tenant_id AS "Tenant", trunk AS "Trunk", {_ATTEMPTS} AS "Attempts",'
                    f' {_ASR} AS "ASR", {_NER} AS "NER", {_ACD} AS "ACD", {_SHORT} AS "Short calls",'
                    f' {_CONCURRENT} AS "Concurrent calls"\n'
                    f"FROM trunk_minutes\nWHERE {_CHOSEN}\nGROUP BY 1, 2\nORDER BY 1, 2"
                ),
                {"ASR": "percent", "NER": "percent", "ACD": "s", "Short calls": "percent"},
            ),
        ],
    )


def _failures() -> Row:
    return Row(
        "Failures",
        [
            lines(
                "Failed attempts, by SIP code",
                "Attempts that were not answered. 486, 480, 487 and 603 mean that the called party was reached.",
                "short",
                [
                    Sql(
                        "SELECT $__timeGroupAlias(minute, $__interval),"
                        " coalesce(final_sip_code::text, 'none') AS metric, sum(calls) AS value\n"
                        f"FROM {_FAILURES}\nWHERE {_CHOSEN}\nGROUP BY 1, 2\nORDER BY 1, 2",
                        over_time=True,
                    )
                ],
                stacked=True,
                width=24,
            ),
            rows(
                "Causes",
                "Failed attempts by SIP code and Microsoft's sub-code, most frequent first. A sub-code that begins"
                " with 560 comes from the SBC. The meanings are those of examples/sip_codes.csv.",
                Sql(
                    'SELECT failure.final_sip_code AS "SIP code",'
                    ' failure.call_end_sub_reason AS "Sub-code",'
                    ' sum(failure.calls) AS "Calls", coalesce(exact.outcome, general.outcome) AS "Outcome",'
                    ' coalesce(exact.meaning, general.meaning) AS "Meaning"\n'
                    f"FROM {_FAILURES}\n"
                    "LEFT JOIN sip_codes AS exact ON exact.final_sip_code = failure.final_sip_code"
                    " AND exact.call_end_sub_reason = failure.call_end_sub_reason\n"
                    "LEFT JOIN sip_codes AS general ON general.final_sip_code = failure.final_sip_code"
                    " AND general.call_end_sub_reason IS NULL\n"
                    f"WHERE {_CHOSEN}\nGROUP BY 1, 2, 4, 5\nORDER BY 3 DESC\nLIMIT 50"
                ),
                {},
            ),
        ],
    )


def _of_range(value: str) -> Sql:
    return Sql(f"SELECT {value}\nFROM trunk_minutes\nWHERE {_CHOSEN}")


def _over_time(value: str) -> Sql:
    return Sql(
        f"SELECT $__timeGroupAlias(minute, $__interval), trunk AS metric, {value} AS value\n"
        f"FROM trunk_minutes\nWHERE {_CHOSEN}\nGROUP BY 1, 2\nORDER BY 1, 2",
        over_time=True,
    )
