"""Output of the metrics as text for one scrape of Prometheus, in the format that the scraper prefers."""

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE_OPENMETRICS
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from connector.metrics.gauges import Glance, tenant_gauges

_openmetrics: Callable[[Collector], bytes] = generate_openmetrics


class _Exposition:
    """Collector of all metrics for one scrape: the counters of the registry and the gauges of the tenants."""

    def __init__(self, registry: CollectorRegistry, glances: Sequence[Glance]) -> None:
        self._registry = registry
        self._glances = glances

    def collect(self) -> Iterator[Metric]:
        yield from tenant_gauges(self._glances)
        # `_created` samples are removed here, because prometheus_client can turn them off only for the whole process.
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


def render(registry: CollectorRegistry, glances: Sequence[Glance], accept: str) -> tuple[bytes, str]:
    """Format the metrics for one scrape, and return the text with its content type.

    The format is OpenMetrics if `accept`, the header of the request, prefers it. Otherwise it is the classic text
    format.
    """
    metrics = _Exposition(registry, glances)
    if _wants_openmetrics(accept):
        return _openmetrics(metrics), CONTENT_TYPE_OPENMETRICS
    return generate_latest(metrics), CONTENT_TYPE_PLAIN_0_0_4


def _wants_openmetrics(accept: str) -> bool:
    # prometheus_client's own selection fails on a version that is not a number, and it ignores q.
    best = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for part in accept.split(","):
        media, *parameters = (piece.strip() for piece in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip().lower() == "q":
                try:
                    quality = float(value)
                except ValueError:
                    quality = 0.0
        if media.lower() in best:
            best[media.lower()] = max(best[media.lower()], quality)
    wanted = best["application/openmetrics-text"]
    return wanted > 0 and wanted >= best["text/plain"]
