"""Writes every dashboard; see `make dashboards`."""

from pathlib import Path

from deploy.grafana.generator import kafka, overview, tenant, trunks
from deploy.grafana.generator.panels import text

FOLDER = Path(__file__).parents[1] / "dashboards"
TRUNKS = Path(__file__).parents[3] / "examples/postgresql/trunks.json"
"Dashboard that belongs to the examples, because it needs the tables that an example writes."


def dashboards() -> dict[str, str]:
    """Return the content of each file by name."""
    return {
        "direct-routing-overview.json": text(overview.dashboard()),
        "direct-routing-tenant.json": text(tenant.dashboard()),
        "direct-routing-kafka.json": text(kafka.dashboard()),
    }


if __name__ == "__main__":
    for name, content in dashboards().items():
        (FOLDER / name).write_text(content, encoding="utf-8")
    TRUNKS.write_text(text(trunks.dashboard()), encoding="utf-8")
