"""Writes every dashboard; see `make dashboards`."""

from pathlib import Path

from deploy.grafana.generator import kafka, overview, tenant
from deploy.grafana.generator.panels import text

FOLDER = Path(__file__).parents[1] / "dashboards"


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
