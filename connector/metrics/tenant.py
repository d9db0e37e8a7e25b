"""Metrics of one tenant while this worker owns it."""

from collections.abc import Callable, Iterable
from typing import get_args

from connector import log
from connector.core.budget import Lane
from connector.metrics.families import TenantFamilies
from connector.metrics.gauges import TenantView
from connector.metrics.rate import Rate

_log = log.get(__name__)


LANES: tuple[str, ...] = get_args(Lane)
STATUSES = ("200", "429", "error")
"Statuses of requests that have series in each lane from the start. Series of other statuses are added when they occur."
ROW_OUTCOMES = ("published", "revised", "duplicate", "dead_letter")
SWEEP_OUTCOMES = ("ok", "failed")


class TenantMetrics:
    """Metrics of one tenant while this worker owns it. `Metrics.tenant` creates them."""

    def __init__(
        self,
        families: TenantFamilies,
        label: str,
        everys: tuple[str, ...],
        clock: Callable[[], float],
        on_closed: Callable[["TenantMetrics"], None],
    ) -> None:
        self.label = label
        self.everys = everys
        self._families = families
        self._clock = clock
        self._on_closed = on_closed
        self._open = True
        self._view: Callable[[], TenantView] = TenantView
        self._view_failed = False
        self.pace = Rate(clock())
        self._rows = {outcome: families.rows.labels(label, outcome) for outcome in ROW_OUTCOMES}
        self._lateness = families.lateness.labels(label)
        self._commit_delay = families.commit_delay.labels(label)
        self._requests = {
            (lane, status): families.requests.labels(label, lane, status) for lane in LANES for status in STATUSES
        }
        self._request_duration = families.request_duration.labels(label)
        self._throttled_seconds = families.throttled_seconds.labels(label)
        self._sweeps = {
            (every, outcome): families.sweeps.labels(label, every, outcome)
            for every in everys
            for outcome in SWEEP_OUTCOMES
        }
        self._unknown_properties = families.unknown_properties.labels(label)
        self._deepest_sweep_rows = families.deepest_sweep_rows.labels(label)
        self._withdrawn_rows = families.withdrawn_rows.labels(label)

    def request_finished(self, lane: str, status: str, seconds: float) -> None:
        """Count a request to Graph and record its duration.

        `status` is the HTTP status, or `error` if there was no response.
        """
        count = self._requests.get((lane, status))
        if count is None:
            if not self._open:
                return
            count = self._requests[lane, status] = self._families.requests.labels(self.label, lane, status)
        count.inc()
        self._request_duration.observe(seconds)

    def throttled(self, seconds: float) -> None:
        """Add the seconds for which requests waited because Graph throttled them."""
        self._throttled_seconds.inc(seconds)

    def rows_committed(self, published: int = 0, revised: int = 0, duplicate: int = 0, dead_letter: int = 0) -> None:
        """Count the rows of a committed transaction by their outcome."""
        if published or revised:
            self.pace.add(published + revised, self._clock())
        self._rows["published"].inc(published)
        self._rows["revised"].inc(revised)
        self._rows["duplicate"].inc(duplicate)
        self._rows["dead_letter"].inc(dead_letter)

    def rows_first_read(self, lateness_s: Iterable[float]) -> None:
        """Record the lateness of rows that a sweep has read for the first time.

        The lateness of a row is the number of seconds since the end of its call, or since its start if the end is not
        known.
        """
        for seconds in lateness_s:
            self._lateness.observe(seconds)

    def found_by_deepest_sweep(self, n: int) -> None:
        """Count `n` rows that appeared so late that only the sweep with the longest overlap read them."""
        self._deepest_sweep_rows.inc(n)

    def rows_withdrawn(self, n: int) -> None:
        """Count `n` rows that Graph has returned before and does not return any more."""
        self._withdrawn_rows.inc(n)

    def batch_committed(self, delay_s: float) -> None:
        """Record the seconds from the receipt of a response of Graph until the commit of its rows."""
        self._commit_delay.observe(delay_s)

    def sweep_ended(self, every: str, outcome: str) -> None:
        """Count a run of a sweep that has ended. `every` is the sweep's cadence, and `outcome` is `ok` or `failed`."""
        self._sweeps[every, outcome].inc()

    def unknown_properties_seen(self, n: int) -> None:
        """Count `n` JSON members of rows that the schema does not have."""
        self._unknown_properties.inc(n)

    def watch(self, view: Callable[[], TenantView]) -> None:
        """Set `view`, the function that returns the tenant's state for its gauges.

        Each scrape calls `view` once, in the event loop, so it should take only microseconds. If it raises an error,
        the tenant has no gauges in that scrape.
        """
        self._view = view

    def closed(self) -> None:
        """Remove all series of the tenant, because it was handed over to another worker. Later events are ignored."""
        if not self._open:
            return
        self._open = False
        families = self._families
        self._on_closed(self)
        for outcome in self._rows:
            families.rows.remove(self.label, outcome)
        for lane, status in self._requests:
            families.requests.remove(self.label, lane, status)
        for every, outcome in self._sweeps:
            families.sweeps.remove(self.label, every, outcome)
        for family in (
            families.lateness,
            families.commit_delay,
            families.request_duration,
            families.throttled_seconds,
            families.unknown_properties,
            families.deepest_sweep_rows,
            families.withdrawn_rows,
        ):
            family.remove(self.label)

    def requests_by_status(self) -> dict[str, int]:
        """Return the number of requests to Graph by status, summed over all lanes."""
        counts: dict[str, int] = {}
        for (_, status), counter in self._requests.items():
            total = sum(
                sample.value
                for metric in counter.collect()
                for sample in metric.samples
                if not sample.name.endswith("_created")
            )
            counts[status] = counts.get(status, 0) + int(total)
        return counts

    def look(self) -> TenantView | None:
        """Return the current state of the tenant for its gauges, or None if it cannot be computed.

        Of several errors in a row, only the first is logged.
        """
        try:
            view = self._view()
        except Exception:  # noqa: BLE001 — an error of one tenant must not fail the scrape of all others
            if not self._view_failed:
                _log.exception("tenant_gauges_failed", tenant=self.label, effect="its gauges are absent from /metrics")
            self._view_failed = True
            return None
        if self._view_failed:
            _log.info("tenant_gauges_recovered", tenant=self.label)
            self._view_failed = False
        return view
