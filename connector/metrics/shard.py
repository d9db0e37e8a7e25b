"""Metrics of one shard while this worker owns it."""

from collections.abc import Callable

from connector.metrics.families import ShardFamilies

TRANSACTION_OUTCOMES = ("committed", "aborted")


class ShardMetrics:
    """Metrics of one shard while this worker owns it. `Metrics.shard` creates them."""

    def __init__(self, families: ShardFamilies, number: int, on_closed: Callable[["ShardMetrics"], None]) -> None:
        self.number = number
        self._families = families
        self._on_closed = on_closed
        self._open = True
        label = str(number)
        self._committed = families.transactions.labels(label, "committed")
        self._aborted = families.transactions.labels(label, "aborted")
        self._transaction_duration = families.transaction_duration.labels(label)
        self._restore_duration = families.restore_duration.labels(label)

    def transaction_committed(self, seconds: float) -> None:
        """Count a committed transaction, and record its duration."""
        self._committed.inc()
        self._transaction_duration.observe(seconds)

    def transaction_aborted(self) -> None:
        """Count a transaction that was aborted or has an unknown outcome."""
        self._aborted.inc()

    def restored(self, seconds: float) -> None:
        """Record how long it took to restore the shard's state."""
        self._restore_duration.set(seconds)

    def closed(self) -> None:
        """Remove all series of the shard, because it was handed over to another worker."""
        if not self._open:
            return
        self._open = False
        families = self._families
        self._on_closed(self)
        label = str(self.number)
        for outcome in TRANSACTION_OUTCOMES:
            families.transactions.remove(label, outcome)
        families.transaction_duration.remove(label)
        families.restore_duration.remove(label)
