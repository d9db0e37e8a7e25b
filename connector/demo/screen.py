"""Output of the demo on standard output: a few records per second, with a progress line below them.

1. Phone numbers are always masked, even if Graph shows them in full. Names and addresses of people are left out.
2. On a terminal, the progress is one line at the bottom. Otherwise, it is written to standard error.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from connector.core.privacy import CLEAR, mask
from connector.demo.tally import Arrival, Verdict
from connector.words import duration

_WIDTH = 100
_LINES_A_SECOND = 4.0
_FOLD_EVERY_S = 1.0
_PROGRESS_EVERY_S = 5.0
_BAR = 24


class Screen:
    """Output of one run of the demo, as a context manager. Its methods must be called in the event loop."""

    def __init__(self, names: Mapping[str, str], begun: datetime) -> None:
        """Start the output. `names` maps the id of each tenant to its name.

        `begun` is the time at which the demo began. For a row whose call ended before that time, the output shows
        `history` instead of the time that the row took to appear.
        """
        self._names = names
        self._begun = begun
        self._out = Console(highlight=False, soft_wrap=True)
        self._width = min(_WIDTH, self._out.width) if self._out.is_terminal else _WIDTH
        animated = self._out.is_terminal and not self._out.is_dumb_terminal
        self._live = Live(console=self._out, auto_refresh=False, transient=True) if animated else None
        self._lines = _LINES_A_SECOND
        self._folded = 0
        self._shown_at = self._folded_at = time.monotonic()
        self._told_at = 0.0
        self._has_head = False

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.settle()

    def settle(self) -> None:
        """Remove the progress line permanently. Other lines may still be printed."""
        if self._live is not None:
            self._live.update(Text(""), refresh=True)
            self._live.stop()
            self._live = None

    def say(self, text: str = "", style: str = "") -> None:
        """Print a line."""
        self._print(Text(text, style))

    def facts(self, facts: Sequence[tuple[str, str]]) -> None:
        """Print pairs of name and value, one per line."""
        width = max(len(name) for name, _ in facts)
        for name, what in facts:
            self._print(Text.assemble(("  " + name.ljust(width), "bold"), "  ", what))

    def show(self, arrivals: Sequence[Arrival]) -> None:
        """Print a few of the records that arrived, and the number of the others. Rare kinds of records come first."""
        if arrivals and not self._has_head:
            self._has_head = True
            self.say()
            self.say(_row("began", "tenant", "call", "from", "to", "lasted", "late by", mark=" "), "dim")
        now = time.monotonic()
        self._lines = min(_LINES_A_SECOND, self._lines + (now - self._shown_at) * _LINES_A_SECOND)
        self._shown_at = now
        chosen = _chosen(arrivals, int(self._lines))
        for arrival in chosen:
            self._print(self._line(arrival))
        self._lines -= len(chosen)
        self._folded += len(arrivals) - len(chosen)
        if self._folded and now - self._folded_at >= _FOLD_EVERY_S:
            self._print(Text(f"  {'':8}  … and {self._folded:,} more", "dim"))
            self._folded = 0
            self._folded_at = now

    def progress(self, share: float, phase: str, counts: str) -> None:
        """Show the progress line. `share` is the progress from 0 to 1, `phase` and `counts` are text."""
        if self._live is not None:
            done = round(_BAR * min(1.0, max(0.0, share)))
            bar = Text.assemble("  ", ("━" * done, "green"), ("━" * (_BAR - done), "bright_black"))
            text = Text.assemble(bar, "  ", (phase, "bold"), "  ", (counts, "dim"))
            text.truncate(self._width - 1, overflow="ellipsis")
            self._live.update(Text.assemble("\n", text), refresh=True)
        elif time.monotonic() - self._told_at >= _PROGRESS_EVERY_S:
            self._told_at = time.monotonic()
            sys.stderr.write(f"{phase}  {counts}\n")
            sys.stderr.flush()

    def table(self, verdicts: Mapping[str, Verdict]) -> None:
        """Print the result of the comparison as a table: one line per tenant, and one line with the sums."""
        head = ("tenant", "rows at Graph", "published", "revised", "dead letters", "missing", "duplicated")
        lines = [(self._names.get(tenant, tenant), *_cells(verdict)) for tenant, verdict in verdicts.items()]
        lines.append(("all", *_cells(total(verdicts.values()))))
        widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
        for line, style in zip((head, *lines), ("dim", *[""] * len(verdicts), "bold"), strict=True):
            cells = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
            self._print(Text("   ".join(("  " + line[0].ljust(widths[0]), *cells)), style))

    def _line(self, arrival: Arrival) -> Text:
        name = self._names.get(arrival.tenant, arrival.tenant)
        row = arrival.row
        if row is None:
            text = f"! {'':8}  {name:10.10}  {'dead letter':14}  {arrival.complaint}"
            return Text(_cut(text, self._width), "red")
        began = _clock(row["startDateTime"])
        if row["revision"]:
            changed = ", ".join(_changed(row, arrival.former)) or "again"
            text = f"~ {began:8}  {name:10.10}  {'revision ' + str(row['revision']):14}  {changed}"
            return Text(_cut(text, self._width), "yellow")
        caller, callee = masked(row["callerNumber"]), masked(row["calleeNumber"])
        lasted = _lasted(row)
        return Text(_row(began, name, row["callType"] or "", caller, callee, lasted, self._late(row), mark="+"))

    def _late(self, row: Mapping[str, Any]) -> str:
        ended = row["endDateTime"] or row["failureDateTime"] or row["startDateTime"]
        if ended is None:
            return ""
        if ended < self._begun:
            return "history"
        return duration(max(0.0, (row["observedDateTime"] - ended).total_seconds()))

    def _print(self, text: Text) -> None:
        self._out.print(text, soft_wrap=True)
        self._out.file.flush()


def total(verdicts: Any) -> Verdict:
    """Return a result with the sums over all tenants."""
    return Verdict(*(sum(column) for column in zip(*verdicts, strict=True)))


def masked(value: str | None) -> str:
    """Mask a number or a name in the same way as the privacy setting `mask`.

    Unlike `mask`, this function also masks short extensions.
    """
    text = value or ""
    return mask(text, CLEAR if len(text) > CLEAR else 0)


def _row(began: str, tenant: str, call: str, caller: str, callee: str, lasted: str, late: str, *, mark: str) -> str:  # noqa: PLR0913
    cells = f"{began:8}  {tenant:10.10}  {_cut(call, 14):14}  {_cut(caller, 15):15}  {_cut(callee, 15):15}"
    return f"{mark} {cells}  {lasted:>10}  {late:>10}"


def _cells(verdict: Verdict) -> list[str]:
    return [f"{number:,}" for number in verdict]


def _chosen(arrivals: Sequence[Arrival], most: int) -> list[Arrival]:
    """Choose up to `most` records to print, and return them in their original order.

    The newest dead letter, revision and new row are chosen first, then other records.
    """
    kinds: dict[str, list[int]] = {"dead letter": [], "revision": [], "row": []}
    for at, arrival in enumerate(arrivals):
        kinds["dead letter" if arrival.row is None else "revision" if arrival.row["revision"] else "row"].append(at)
    ranked = [numbers.pop() for numbers in kinds.values() if numbers]
    ranked += [at for kind in ("revision", "row", "dead letter") for at in reversed(kinds[kind])]
    return [arrivals[at] for at in sorted(ranked[:most])]


def _changed(row: Mapping[str, Any], former: Mapping[str, Any] | None) -> list[str]:
    own = ("revision", "observedDateTime")
    return [name for name, value in row.items() if former is not None and value != former[name] and name not in own]


def _clock(moment: datetime | None) -> str:
    return f"{moment:%H:%M:%S}" if moment else ""


def _lasted(row: Mapping[str, Any]) -> str:
    if row["successfulCall"] is False:
        return f"failed {row['finalSipCode'] or ''}".strip()
    return duration(row["duration"]) if row["duration"] is not None else ""


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
