"""Queries of a PostgreSQL data source, which the SDK of Grafana does not have."""

from typing import NamedTuple

from grafana_foundation_sdk.cog import builder, variants
from grafana_foundation_sdk.models import dashboard

DATABASE = dashboard.DataSourceRef(type_val="grafana-postgresql-datasource", uid="${datasource}")


class Sql(NamedTuple):
    """An SQL query. For lines over time, its columns are `time`, `metric` (the name of the line) and the value."""

    text: str
    over_time: bool = False

    def target(self, ref_id: str) -> builder.Builder[variants.Dataquery]:
        """Return the query as a target of a panel."""
        return _Builder(_Target(self, ref_id))


class _Target(variants.Dataquery):
    def __init__(self, query: Sql, ref_id: str) -> None:
        self._query, self._ref_id = query, ref_id

    def to_json(self) -> dict[str, object]:
        return {
            "refId": self._ref_id,
            "datasource": DATABASE,
            "editorMode": "code",
            "format": "time_series" if self._query.over_time else "table",
            "rawQuery": True,
            "rawSql": self._query.text,
        }


class _Builder(builder.Builder[variants.Dataquery]):
    def __init__(self, target: _Target) -> None:
        self._target = target

    def build(self) -> variants.Dataquery:
        return self._target
