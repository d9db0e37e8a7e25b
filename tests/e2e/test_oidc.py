"""Brokers that accept tokens of an OpenID Connect provider. librdkafka signs in there with client credentials."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests import commands, oracle
from tests.brokers import wait_until
from tests.simulation import Simulation
from tests.token_broker import AUDIENCE, TokenBroker
from tests.workers import Worker, configuration

pytestmark = [pytest.mark.broker, pytest.mark.java]

LIFETIME_S = 12


@pytest.fixture(scope="module")
def source() -> Iterator[Simulation]:
    with Simulation(days=1, calls_per_day=400, frozen=True, token_lifetime_s=LIFETIME_S, lateness="none") as source:
        yield source


@pytest.fixture(scope="module")
def token_broker(source: Simulation) -> Iterator[TokenBroker]:
    broker = TokenBroker(source)
    with broker.cluster:
        yield broker


def configured(broker: TokenBroker, source: Simulation, topic: str, app: str, folder: Path) -> dict[str, Any]:
    """Return settings as docs/kafka.md shows them, with the secret in a file."""
    secret = folder / "secret"
    secret.write_text(f"{source.identity['client_secret']}\n", encoding="utf-8")
    settings = configuration(broker.bootstrap, topic, app, source)
    settings["kafka"]["properties"] |= {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "OAUTHBEARER",
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.client.id": source.identity["client_id"],
        "sasl.oauthbearer.client.secret": {"file": str(secret)},
        "sasl.oauthbearer.scope": f"{AUDIENCE}/.default",
        "sasl.oauthbearer.token.endpoint.url": f"{source.url}/{source.tenants[0]}/oauth2/v2.0/token",
        "https.ca.location": source.ca,
    }
    return settings


def test_worker_renews_its_oidc_token_for_the_brokers(
    token_broker: TokenBroker,
    source: Simulation,
    topic: str,
    app: str,
    tmp_path: Path,
    new_worker: Callable[..., Worker],
) -> None:
    worker = new_worker(configured(token_broker, source, topic, app, tmp_path))
    worker.start()
    started_at = datetime.now(UTC)
    worker.until_complete(started_at)
    committed = worker.metric("transactions_total", outcome="committed")
    worker.until(
        lambda: (
            (datetime.now(UTC) - started_at).total_seconds() > LIFETIME_S
            and worker.metric("transactions_total", outcome="committed") > committed
        ),
        "transactions after the first token has ended",
    )
    findings = json.loads(commands.succeed(worker.config, "check", "--json"))
    assert all(finding["ok"] for finding in findings), findings
    assert len(commands.status(worker.config)["tenants"]) == 1
    assert worker.stop() == 0
    log = worker.log.read_text(encoding="utf-8")
    assert "eyJ" not in log
    assert source.identity["client_secret"] not in log
    mine = [topic, *(f"{app}.{name}" for name in ("state", "seen", "control"))]
    cluster = token_broker.cluster.bootstrap
    wait_until(lambda: not oracle.open_transactions(cluster, mine), "no open transaction", 60)
    oracle.check(cluster, topic, app, source.truth())


FAULTS = {
    "sasl.oauthbearer.client.secret": ("wrong", "Invalid client secret"),
    "sasl.oauthbearer.token.endpoint.url": ("https://127.0.0.1:1/token", "127.0.0.1"),
    "https.ca.location": (None, "certificate"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_check_and_run_name_the_cause_of_a_missing_oidc_token(
    token_broker: TokenBroker, source: Simulation, topic: str, app: str, tmp_path: Path, name: str
) -> None:
    """`check` and `run` print the same message."""
    value, reason = FAULTS[name]
    settings = configured(token_broker, source, topic, app, tmp_path)
    settings["kafka"]["properties"][name] = value
    if value is None:
        del settings["kafka"]["properties"][name]
    worker = Worker(tmp_path / "worker", settings)
    done = commands.run(worker.config, "check", "--json")
    (failed,) = [finding for finding in json.loads(done.output) if not finding["ok"]]
    assert (done.code, failed["check"]) == (1, "brokers")
    assert "no token for the brokers" in failed["message"]
    assert reason in failed["message"]
    assert "sasl.oauthbearer.token.endpoint.url" in failed["remedy"]
    assert source.identity["client_secret"] not in done.output
