"""Sign-in of the service with a certificate: a bad one is refused, a new file fixes it, and none is ever shown."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import oracle
from tests.certificates import key_pair
from tests.conftest import SharedBroker
from tests.simulation import Simulation
from tests.workers import Worker


def test_unregistered_certificate_fails_the_tenants_that_use_it(
    broker: SharedBroker,
    topic: str,
    app: str,
    tmp_path: Path,
    simulate: Callable[..., Simulation],
    new_worker: Callable[..., Worker],
    settings: Callable[..., dict[str, Any]],
) -> None:
    mine = key_pair("e2e")
    source = simulate(
        days=1, calls_per_day=200, frozen=True, lateness="none", tenants=2, certificates=(mine.certificate_pem,)
    )
    file = tmp_path / "connector.pem"
    file.write_bytes(key_pair("e2e-other").pem("p4ss"))
    identity = {
        "client_id": source.identity["client_id"],
        "client_certificate": {"file": str(file)},
        "client_certificate_password": "p4ss",
    }
    worker = new_worker(settings(source) | {"identity": identity})
    assert worker.run_once() == 1
    problems = [entry["problem"] for entry in worker.named("sign_in_failed")]
    assert len(problems) == 2
    assert all("AADSTS700027" in problem and "add its public part" in problem for problem in problems)
    assert source.requests("graph") == []
    refused = worker.log.read_text(encoding="utf-8")

    file.write_bytes(mine.pem("p4ss"))
    assert worker.run_once() == 0
    oracle.check(broker.bootstrap, topic, app, source.truth())
    for text in ("p4ss", "PRIVATE", "eyJ"):
        assert text not in refused + worker.log.read_text(encoding="utf-8")
