"""`connector copy-state`: what the copy keeps, and that it cannot be used before it is complete."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from connector.commands import state_copy
from connector.config import load
from connector.core import windows
from connector.core.dedup import DedupIndex
from connector.core.fingerprints import ENTRY
from connector.core.windows import Rules, Sweep
from connector.errors import FatalError
from connector.kafka import state
from connector.kafka.copy_marker import KEY, CopyMarker
from connector.kafka.row_ends import RowEnd
from connector.kafka.state import Checkpoint

NOW = datetime(2026, 3, 1, tzinfo=UTC)
RULES = Rules((Sweep(timedelta(minutes=1), timedelta(minutes=15)),), timedelta(0), timedelta(days=1), timedelta(days=9))
STATE = windows.first_state(RULES, NOW - timedelta(days=1), NOW)
KNOWN = Checkpoint("calls", STATE, 17, (3, 9), ((900, 1, 2),), topic_id="old-id", stated_gaps=((900, 5),))
MARKER = CopyMarker("app", "cluster-1", "calls", (1, 2, 3))
CONFIGURATION = """
[[tenants]]
id = "11111111-1111-1111-1111-111111111111"
topic = "TOPIC"
[kafka]
bootstrap_servers = "localhost:9092"
"""


def relocated(tmp_path: Path, topic: str, *, same_cluster: bool, known: Checkpoint = KNOWN) -> Checkpoint:
    """Return the checkpoint of the configured tenant in an app whose tenant has a row topic."""
    settings = []
    for number, name in enumerate(("calls", topic)):
        path = tmp_path / f"{number}.toml"
        path.write_text(CONFIGURATION.replace("TOPIC", name), encoding="utf-8")
        settings.append(load(path, {}, contacts_graph=False))
    ends = cast("Any", SimpleNamespace(of=lambda name: RowEnd((40, 0, 7), f"id of {name}")))
    move = state_copy._Relocation(settings[0], settings[1], ends, same_cluster)
    return move.apply("11111111-1111-1111-1111-111111111111", known)


def test_checkpoint_copied_for_the_same_topic_is_unchanged(tmp_path: Path) -> None:
    assert relocated(tmp_path, "calls", same_cluster=True) == KNOWN


@pytest.mark.parametrize(("topic", "same_cluster"), [("calls", False), ("other", True), ("other", False)])
def test_checkpoint_for_another_topic_gets_its_end_offsets(tmp_path: Path, topic: str, same_cluster: bool) -> None:  # noqa: FBT001
    """Offsets of the old topic would let a consumer act on progress before it has read the rows."""
    moved = relocated(tmp_path, topic, same_cluster=same_cluster)
    assert moved == msgspec.structs.replace(
        KNOWN, topic=topic, offsets=(40, 0, 7), topic_id=f"id of {topic}", stated=(), stated_gaps=()
    )


def test_environment_does_not_override_the_source_configuration(tmp_path: Path) -> None:
    path = tmp_path / "old.toml"
    path.write_text(CONFIGURATION + 'app = "old"\n', encoding="utf-8")
    environ = {"CONNECTOR_KAFKA__APP": "new"}
    assert load(path, environ, contacts_graph=False).kafka.app == "new"
    assert load(path, environ, contacts_graph=False, overridden=False).kafka.app == "old"


def test_worker_refuses_state_of_an_incomplete_copy() -> None:
    for marker in (MARKER, msgspec.structs.replace(MARKER, complete=True)):
        with pytest.raises(FatalError, match="an incomplete copy of app app on cluster cluster-1: run connector"):
            state.restore({KEY: marker.record.value or b""})


def test_copy_marker_has_a_version_that_older_releases_refuse() -> None:
    assert msgspec.json.decode(MARKER.record.value or b"")["v"] > state.VERSION


def test_copy_marker_of_another_program_is_refused() -> None:
    with pytest.raises(FatalError, match="was not written by the connector"):
        CopyMarker.parse(b"{}")


def test_state_copy_fails_if_the_source_changes_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_copy, "check_stopped", lambda _: None)
    source = cast("Any", SimpleNamespace(marker=lambda: msgspec.structs.replace(MARKER, ends=(1, 2, 4))))
    with pytest.raises(FatalError, match="has changed during the copy: stop its workers"):
        state_copy._check_untouched(source, MARKER)
    source.marker = lambda: MARKER
    state_copy._check_untouched(source, MARKER)


def test_dedup_index_digest_depends_on_its_entries_only() -> None:
    entries = np.zeros(50, ENTRY)
    entries["hi"], entries["lo"], entries["fp"] = np.arange(50) // 2, np.arange(50), np.arange(50)
    hours = np.arange(50, dtype=np.uint32)
    whole, pieces, other = DedupIndex(), DedupIndex(), DedupIndex()
    whole.put(entries, hours)
    for part in (slice(30, 50), slice(0, 7), slice(7, 30)):
        pieces.put(entries[part][::-1], hours[part][::-1])
    assert whole.digest() == pieces.digest()
    for name in ("hi", "lo", "meta", "fp"):
        changed = entries.copy()
        changed[name][49] = 10_000
        other.restore(changed, hours)
        assert other.digest() != whole.digest()
    other.restore(entries, hours + np.uint32(1))
    assert other.digest() != whole.digest()
    assert DedupIndex().digest() != whole.digest()
