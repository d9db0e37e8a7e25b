"""State of a simulator: tenants with their call logs, clocks, faults, tokens, and the row versions that were sent."""

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

import msgspec
import numpy as np

from connector.simulator.arrivals import Arrivals, Visits
from connector.simulator.assertions import Registration
from connector.simulator.calls import Block, CallSequence, guid, mix_one, tenant_key
from connector.simulator.faults import Faults
from connector.simulator.options import Options
from connector.simulator.pages import CallLog, ServedPage, Version, WeightedCache
from connector.simulator.row_content import Texts
from connector.simulator.sign_in import GRAPH_ROOTS, TokenEndpoint

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_INDEX_ROWS = 2_000_000
_TEXT_BYTES = 256 * 1024 * 1024
_PREBUILT_BYTES = 2 * 1024 * 1024 * 1024
_SEAMS = 100_000


def to_ms(moment: datetime) -> int:
    """Return a time as epoch milliseconds, rounded down."""
    return (moment - _EPOCH) // _MS


def from_ms(ms: int) -> datetime:
    """Return the aware UTC time of epoch milliseconds."""
    return _EPOCH + ms * _MS


Marks: TypeAlias = np.ndarray[tuple[int], np.dtype[np.uint8]]


class TruthRow(msgspec.Struct, frozen=True, omit_defaults=False):
    """One version of one row, visible from `visible` until `until`.

    `until` is None if the version is still current at the requested time. The first version has the number 0. `id` is
    None if the row has no id, or one that is not text. `row` is the JSON text as it is served.
    """

    id: str | None
    version: int
    visible: datetime
    until: datetime | None
    start: datetime
    fits: bool
    row: msgspec.Raw


class TenantServed(msgspec.Struct, frozen=True):
    """Count of the different row versions, and of the different rows, that clients received completely."""

    versions: int
    rows: int


def _id_of(row: bytes) -> str | None:
    text = row[7:43] if row.startswith(b'{"id":"') else b""
    return text.decode() if text.count(b"-") == 4 and b'"' not in text else None


def _truth(version: Version) -> TruthRow:
    return TruthRow(
        _id_of(version.text),
        version.number,
        from_ms(version.visible_ms),
        None if version.until_ms is None else from_ms(version.until_ms),
        from_ms(version.block.start_of(version.call, version.number)),
        version.fits,
        msgspec.Raw(version.text),
    )


class SimulatedTenant:
    """One tenant: its call log, its throttling, and the row versions that were sent completely."""

    def __init__(self, tenant_id: str, log: CallLog, limit: int, *, has_role: bool) -> None:
        self.id = tenant_id
        self.log = log
        self.has_role = has_role
        self.arrivals = Arrivals(limit)
        self.seams: dict[tuple[str, int], None] = {}
        self._delivered: dict[int, Marks] = {}

    def delivered(self, page: ServedPage) -> None:
        """Record the versions on a page that was sent completely."""
        for pick in page.picks:
            marks = self._delivered.get(pick.block.number)
            if marks is None:
                marks = self._delivered[pick.block.number] = np.zeros(len(pick.block), dtype=np.uint8)
            marks[pick.calls] |= np.left_shift(1, pick.versions[pick.calls]).astype(np.uint8)

    def served(self) -> TenantServed:
        """Return how many different versions and rows were sent completely."""
        marks = self._delivered.values()
        return TenantServed(
            int(sum(np.bitwise_count(m).sum() for m in marks)), int(sum(np.count_nonzero(m) for m in marks))
        )

    def served_rows(self, at_ms: int) -> Iterator[TruthRow]:
        """Yield every row version that was sent completely. `at_ms` is the current time of the clock of the data."""
        for number in sorted(self._delivered):
            marks = self._delivered[number]
            block: Block = self.log.block(number)
            texts = self.log.texts(block)
            for call in np.flatnonzero(marks).tolist():
                count = block.version_count(call)
                for version in range(count):
                    if marks[call] >> version & 1:
                        until = block.visible_from(call, version + 1) if version + 1 < count else None
                        yield _truth(
                            Version(
                                block,
                                call,
                                version,
                                block.visible_from(call, version),
                                None if until is None or until > at_ms else until,
                                block.fits(call, version),
                                texts.text(call, version),
                            )
                        )

    def seam_is_first(self, key: tuple[str, int]) -> bool:
        """Return whether this is the first call for `key`, which identifies a boundary between two pages.

        The fault `repeat_once` therefore happens at most once per boundary.
        """
        if key in self.seams:
            return False
        if len(self.seams) >= _SEAMS:
            self.seams.pop(next(iter(self.seams)))
        self.seams[key] = None
        return True


class World:
    """State of a simulator, without its network connections."""

    def __init__(self, options: Options, now: Callable[[], datetime]) -> None:
        self.options = options
        self.now = now
        self.offset = timedelta(seconds=options.clock_offset_s)
        self.frozen_at: datetime | None = None
        self.faults = Faults(options.seed, options.faults)
        self.visits = Visits()
        self.since = (self.data_now() - timedelta(days=options.days)).replace(microsecond=0)
        if options.frozen or options.prebuilt:
            self.freeze(on=True)
        index = WeightedCache[tuple[int, int], Block](_INDEX_ROWS)
        texts = WeightedCache[tuple[int, int], Texts](_PREBUILT_BYTES if options.prebuilt else _TEXT_BYTES)
        self.bodies = WeightedCache[tuple[str, str], tuple[bytes, ServedPage]](_PREBUILT_BYTES)
        limit = 0 if options.prebuilt else options.requests_per_minute
        self.tenants: dict[str, SimulatedTenant] = {}
        for number in range(options.tenants):
            key = tenant_key(options.seed, number)
            tenant_id = guid(mix_one(key + 1), mix_one(key + 2))
            log = CallLog(CallSequence(options, key, to_ms(self.since)), index, texts)
            has_role = number < options.tenants - options.without_role
            self.tenants[tenant_id] = SimulatedTenant(tenant_id, log, limit, has_role=has_role)
        own = tenant_key(options.seed, -2)
        self.client_id = guid(mix_one(own + 1), mix_one(own + 2))
        secret = f"{mix_one(own + 3):016x}~{mix_one(own + 4):016x}"
        roles = {tenant.id: tenant.has_role for tenant in self.tenants.values()}
        self.sign_in = TokenEndpoint(roles, self.client_id, secret, options.token_lifetime_s)
        self.sign_in.registration = Registration(options.certificates, options.federation)
        if options.cloud:
            self.sign_in.graph_roots = (GRAPH_ROOTS[options.cloud],)

    def data_now(self) -> datetime:
        """Return the time of the clock of the data, which determines which rows are visible."""
        return self.frozen_at or self.now() + self.offset

    def epoch_s(self) -> float:
        """Return the time in epoch seconds that determines whether tokens have expired."""
        return self.now().timestamp()

    @staticmethod
    def monotonic_s() -> float:
        """Return the monotonic time in seconds, for throttling. It does not depend on the clock of the data."""
        return time.monotonic()

    def freeze(self, *, on: bool) -> None:
        """Stop the clock of the data, so that no more rows become visible. With on=False, let it run again.

        When it runs again, it shows the same time as if it had never stopped.
        """
        self.frozen_at = self.data_now() if on else None

    def set_offset(self, offset: timedelta) -> None:
        """Set the difference between the clock of the data and the real time. Start the clock if it was stopped."""
        self.frozen_at = None
        self.offset = offset

    def bounds(self, start: datetime | None, end: datetime | None) -> tuple[int, int]:
        """Return a range in epoch milliseconds. If start or end is None, the range has no limit on this side."""
        # A bound that is not a whole millisecond is rounded up. A range that starts at the bound thus excludes the
        # millisecond before it, and a range that ends at the bound includes it.
        first = to_ms(self.since) - 60_000 if start is None else -((_EPOCH - start) // _MS)
        last = to_ms(self.data_now()) + 60_000 if end is None else -((_EPOCH - end) // _MS)
        return first, last

    def truth(
        self,
        tenant: str,
        start: datetime | None = None,
        end: datetime | None = None,
        at: datetime | None = None,
        *,
        is_beta: bool = False,
    ) -> Iterator[TruthRow]:
        """Yield every row version that has appeared by `at` (default: now) and whose call start is in [start, end)."""
        log = self.tenants[tenant.lower()].log
        at_ms = to_ms(self.data_now() if at is None else at)
        return map(_truth, log.versions(self.bounds(start, end), at_ms, is_beta=is_beta))

    def served(self) -> dict[str, TenantServed]:
        """Return for each tenant how many different versions and rows were sent completely."""
        return {tenant.id: tenant.served() for tenant in self.tenants.values()}

    def served_rows(self, tenant: str) -> Iterator[TruthRow]:
        """Yield every row version that was sent in a complete response with status 200."""
        return self.tenants[tenant.lower()].served_rows(to_ms(self.data_now()))

    def set_faults(self, changes: Mapping[str, object], tenant: str | None = None) -> None:
        """Change faults and settings of one tenant or of all tenants. Raises ValueError if one of them is invalid."""
        if tenant is not None and tenant.lower() not in self.tenants:
            message = f"there is no tenant {tenant}"
            raise ValueError(message)
        self.faults.set(changes, None if tenant is None else tenant.lower())

    def prebuild(self) -> int:
        """Generate and cache every row of the history, and return the number of rows."""
        rows = 0
        for tenant in self.tenants.values():
            for number in tenant.log.calls.numbers(*self.bounds(None, None)):
                block = tenant.log.block(number)
                tenant.log.texts(block)
                rows += len(block)
        return rows
