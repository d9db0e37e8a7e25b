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
"Statuses whose series exist from the start in each lane; others appear when they occur."
ROW_OUTCOMES = ("published", "revised", "duplicate", "dead_letter")
SWEEP_OUTCOMES = ("ok", "failed")


class TenantMetrics:
    """Metrics of one tenant while this worker owns it. Made by `Metrics.tenant`."""

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

    def request_finished(self, lane: str, status: str, seconds: float) -> None:
        """Count a request that Graph answered with an HTTP status, or did not answer (`error`)."""
        count = self._requests.get((lane, status))
        if count is None:
            if not self._open:
                return
            count = self._requests[lane, status] = self._families.requests.labels(self.label, lane, status)
        count.inc()
        self._request_duration.observe(seconds)

    def throttled(self, seconds: float) -> None:
        """Add seconds that were spent waiting because Graph asked for it."""
        self._throttled_seconds.inc(seconds)

    def rows_committed(self, published: int = 0, revised: int = 0, duplicate: int = 0, dead_letter: int = 0) -> None:
        """Count the rows of a committed transaction."""
        if published or revised:
            self.pace.add(published + revised, self._clock())
        self._rows["published"].inc(published)
        self._rows["revised"].inc(revised)
        self._rows["duplicate"].inc(duplicate)
        self._rows["dead_letter"].inc(dead_letter)

    def rows_first_read(self, lateness_s: Iterable[float]) -> None:
        """Record how late rows were first read in regular sweeps: seconds since their call's end, else its start."""
        for seconds in lateness_s:
            self._lateness.observe(seconds)

    def found_by_deepest_sweep(self, n: int) -> None:
        """Count `n` rows that appeared too late for every sweep but the one with the longest overlap."""
        self._deepest_sweep_rows.inc(n)

    def batch_committed(self, delay_s: float) -> None:
        """Record the seconds from receiving a response to committing its rows."""
        self._commit_delay.observe(delay_s)

    def sweep_ended(self, every: str, outcome: str) -> None:
        """Count a sweep that ended, by its cadence and `outcome` (`ok` or `failed`)."""
        self._sweeps[every, outcome].inc()

    def unknown_properties_seen(self, n: int) -> None:
        """Count `n` members of rows that the schema does not know."""
        self._unknown_properties.inc(n)

    def watch(self, view: Callable[[], TenantView]) -> None:
        """Call `view` at each scrape from now on: once, in the thread in which `Metrics.scrape` is awaited.

        It should take microseconds. When it raises, the tenant's gauges are absent from that scrape.
        """
        self._view = view

    def closed(self) -> None:
        """Remove the tenant's series because the tenant was handed over. Later events are dropped."""
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
        ):
            family.remove(self.label)

    def requests_by_status(self) -> dict[str, int]:
        """Return the number of requests by status, in all lanes."""
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
        """Return the tenant's current view; None when it raises, which is logged once until it works again."""
        try:
            view = self._view()
        except Exception:  # noqa: BLE001 — an error of one tenant must not fail the scrape of all others
            if not self._view_failed:
                _log.exception("tenant_view_failed", tenant=self.label, effect="its gauges are absent from /metrics")
            self._view_failed = True
            return None
        if self._view_failed:
            _log.info("tenant_view_recovered", tenant=self.label)
            self._view_failed = False
        return view
