"""Warnings about rows that were committed. Each kind of warning is logged at a limited rate."""

import time
from collections import Counter

from connector import log
from connector.config import Tenant
from connector.kafka import topics
from connector.pipeline.change import Change
from connector.pipeline.member_names import MemberNames

_logger = log.get(__name__)
_LOG_AGAIN_S = 60.0
_TOO_OLD_REMEDY = (
    "run connector backfill --again to publish them; rows that were published before are then published twice"
)
_CONFLICT_REMEDY = (
    "compare the dead letters of class connector.RowConflict with the rows of the same ids, "
    "and report the ids to Microsoft"
)


class RowWarnings:
    """Warnings about the rows of one shard. They are not repeated when the shard restarts."""

    def __init__(self) -> None:
        self._unknown_names = MemberNames()
        self._too_old = 0
        self._logged_too_old_at = -_LOG_AGAIN_S
        self._dead_letters: Counter[str] = Counter()
        self._logged_dead_letters_at: dict[str, float] = {}
        self._conflicting = 0
        self._logged_conflicts_at = -_LOG_AGAIN_S

    def committed(self, tenant: Tenant, change: Change) -> None:
        """Log the warnings about the rows of a committed batch, which `change` counts."""
        self._log_unknown(tenant, change)
        self._log_too_old(tenant, change)
        self._log_dead_letters(tenant, change)
        self._log_conflicts(tenant, change)

    def _log_unknown(self, tenant: Tenant, change: Change) -> None:
        """Log, once per name, the names of JSON members that the schema does not have.

        The number of stored names is limited. When the limit is reached, the log states once that more names exist.
        """
        logged_all = not self._unknown_names.unnamed
        names = sorted(self._unknown_names.add(change.unknown_names))
        self._unknown_names.unnamed += change.unknown_names.unnamed
        if logged_all and self._unknown_names.unnamed:
            _logger.warning("unknown_properties", tenant=tenant.label, names=names, more_names_exist=True)
        elif names:
            _logger.warning("unknown_properties", tenant=tenant.label, names=names)

    def _log_too_old(self, tenant: Tenant, change: Change) -> None:
        """Log, at most once per minute, how many rows were not published because they may have been published before.

        Their page chain took so long that the horizon moved past their call time. Since then, the deduplication index
        may have forgotten them.
        """
        self._too_old += change.too_old
        if self._too_old and time.monotonic() - self._logged_too_old_at >= _LOG_AGAIN_S:
            _logger.warning(
                "rows_skipped_near_horizon", tenant=tenant.label, rows=self._too_old, remedy=_TOO_OLD_REMEDY
            )
            self._logged_too_old_at, self._too_old = time.monotonic(), 0

    def _log_dead_letters(self, tenant: Tenant, change: Change) -> None:
        """Log, at most once per minute and tenant, how many rows were dead-lettered."""
        label = tenant.label
        self._dead_letters[label] += len(change.dead_letters)
        rows, logged_at = self._dead_letters[label], self._logged_dead_letters_at.get(label, -_LOG_AGAIN_S)
        if rows and time.monotonic() - logged_at >= _LOG_AGAIN_S:
            _logger.warning("rows_dead_lettered", tenant=label, rows=rows, topic=topics.dead_letters(tenant.topic))
            self._logged_dead_letters_at[label], self._dead_letters[label] = time.monotonic(), 0

    def _log_conflicts(self, tenant: Tenant, change: Change) -> None:
        """Log, at most once per minute, how many rows have the same id as another row, but a different content."""
        self._conflicting += change.conflicting
        if self._conflicting and time.monotonic() - self._logged_conflicts_at >= _LOG_AGAIN_S:
            _logger.warning("rows_conflict", tenant=tenant.label, rows=self._conflicting, remedy=_CONFLICT_REMEDY)
            self._logged_conflicts_at, self._conflicting = time.monotonic(), 0
