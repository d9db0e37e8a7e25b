"""Brokers that accept tokens of Microsoft's sign-in, like Azure Event Hubs. A real broker checks each token."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests import commands, oracle
from tests.brokers import HOST, wait_until
from tests.simulation import Simulation
from tests.token_broker import TokenBroker
from tests.workers import Worker, configuration

LIFETIME_S = 12

pytestmark = [pytest.mark.broker, pytest.mark.java]


@pytest.fixture
def source() -> Iterator[Simulation]:
    with Simulation(
        days=1, calls_per_day=400, frozen=True, token_lifetime_s=LIFETIME_S, tenants=2, lateness="none"
    ) as source:
        yield source


def test_worker_renews_its_token_for_event_hubs(
    source: Simulation, new_worker: Callable[..., Worker], topic: str, app: str
) -> None:
    """The token is requested from the first tenant, for the host of the brokers.

    During a sign-in outage, the worker waits.
    """
    broker = TokenBroker(source)
    with broker.cluster:
        settings: dict[str, Any] = configuration(
            broker.bootstrap,
            topic,
            app,
            source,
            kafka={
                "azure_event_hubs": True,
                "properties": {
                    "security.protocol": "SASL_PLAINTEXT",
                    "session.timeout.ms": "2000",
                    "heartbeat.interval.ms": "200",
                },
            },
        )
        worker = new_worker(settings)
        source.set_faults(sign_in_down=True)
        worker.start()
        failed = worker.until_logged("sign_in_failed")
        assert failed["tenant"] == f"Kafka at {HOST}"
        assert worker.get("/livez")[0] == 200
        source.clear_faults()
        worker.until_complete(datetime.now(UTC))
        before = len(source.requests("token"))
        committed = worker.metric("transactions_total", outcome="committed")
        started_at = datetime.now(UTC)
        worker.until(
            lambda: (
                (datetime.now(UTC) - started_at).total_seconds() > LIFETIME_S
                and len(source.requests("token")) >= before + 3
                and worker.metric("transactions_total", outcome="committed") > committed
            ),
            "renewed tokens and further transactions",
        )
        worker.until_complete(datetime.now(UTC))
        findings = {f["check"]: f for f in json.loads(commands.succeed(worker.config, "check", "--json"))}
        assert all(finding["ok"] for finding in findings.values()), findings
        assert len(commands.status(worker.config)["tenants"]) == 2
        assert worker.stop() == 0
        assert "eyJ" not in worker.log.read_text(encoding="utf-8")
        # On a slow machine, a token may expire before it is replaced. The broker then ends the last transaction itself.
        mine = [topic, *(f"{app}.{name}" for name in ("state", "seen", "control"))]
        wait_until(lambda: not oracle.open_transactions(broker.cluster.bootstrap, mine), "no open transaction", 60)
        oracle.check(broker.cluster.bootstrap, topic, app, source.truth())
