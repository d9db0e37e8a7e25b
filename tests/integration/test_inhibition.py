"""Inhibition rules of the example for Alertmanager, in a real Alertmanager: each cause leads to one notification."""

import http.client
import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.brokers import HOST, free_ports, wait_until
from tests.system_software import program

FOLDER = Path(__file__).parents[2] / "deploy/prometheus"
CONFIGURATION = FOLDER / "alertmanager.yml"
TENANT = {"job": "connector", "tenant": "contoso"}
WORKER = {"job": "connector"}
PER_TENANT_ALERTS = {
    ("Lag", "warning"),
    ("Lag", "critical"),
    ("Gap", "warning"),
    ("SweepOverdue", "warning"),
    ("FreshnessBudgetBurn", "critical"),
    ("FreshnessBudgetBurn", "warning"),
    ("CompletenessBudgetBurn", "critical"),
    ("CompletenessBudgetBurn", "warning"),
}


class Alertmanager:
    """Running Alertmanager with the example's configuration."""

    def __init__(self, port: int) -> None:
        self._port = port

    def ask(self, method: str, path: str, content: Any = None) -> Any:
        """Return the response of the API, or None if it does not respond."""
        connection = http.client.HTTPConnection(HOST, self._port, timeout=10)
        try:
            body = None if content is None else json.dumps(content)
            connection.request(method, f"/api/v2/{path}", body, {"Content-Type": "application/json"})
            text = connection.getresponse().read()
            return json.loads(text) if text else {}
        except OSError:
            return None
        finally:
            connection.close()

    def pages(self, namespace: str, *alerts: tuple[str, str, dict[str, str]]) -> list[str]:
        """Return the alerts that reach the receiver `page` when all of them fire, in a namespace of their own."""
        labels = [
            {"alertname": f"DirectRouting{name}", "severity": severity, "namespace": namespace, **more}
            for name, severity, more in alerts
        ]
        self.ask("POST", "alerts", [{"labels": alert} for alert in labels])

        def fired() -> list[dict[str, Any]]:
            path = f"alerts?filter=namespace%3D%22{namespace}%22&receiver=page&unprocessed=true"
            found: list[dict[str, Any]] = self.ask("GET", path)
            return found

        critical = sum(alert["severity"] == "critical" for alert in labels)
        wait_until(
            lambda: len(fired()) == critical and all(alert["status"]["state"] != "unprocessed" for alert in fired()),
            "every alert to be processed",
            30,
        )
        return [alert["labels"]["alertname"] for alert in fired() if not alert["status"]["inhibitedBy"]]


@pytest.fixture(scope="module")
def alertmanager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alertmanager]:
    folder = tmp_path_factory.mktemp("alertmanager")
    configuration = yaml.safe_load(CONFIGURATION.read_text(encoding="utf-8"))
    configuration["route"]["group_wait"] = "0s"
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
    (port,) = free_ports(1)
    command = [
        str(program("prometheus-alertmanager")),
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'data'}",
        f"--web.listen-address={HOST}:{port}",
        "--cluster.listen-address=",
        "--log.level=warn",
    ]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            running = Alertmanager(port)
            wait_until(lambda: running.ask("GET", "status") is not None, "Alertmanager to serve", 60)
            yield running
        finally:
            process.kill()


def of_tenant() -> Sequence[tuple[str, str, dict[str, str]]]:
    return [(name, severity, TENANT) for name, severity in sorted(PER_TENANT_ALERTS)]


def test_amtool_accepts_the_alertmanager_example() -> None:
    amtool = str(program("prometheus-alertmanager").with_name("amtool"))
    done = subprocess.run(
        [amtool, "check-config", str(CONFIGURATION)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for severity, receiver in (("critical", "page"), ("warning", "working-hours"), ("info", "nobody")):
        command = [amtool, "config", "routes", "test", f"--config.file={CONFIGURATION}", f"severity={severity}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.stdout.strip() == receiver, done.stderr


def test_inhibition_rules_name_existing_alerts_only() -> None:
    text = "".join((FOLDER / name).read_text(encoding="utf-8") for name in ("alerts.yml", "slo.yml"))
    exist = set(re.findall(r"alert: DirectRouting(\w+)", text))
    inhibits = CONFIGURATION.read_text(encoding="utf-8").partition("inhibit_rules:")[2]
    named = set(re.findall(r'DirectRouting(\w+)"', inhibits))
    named |= {alert for group in re.findall(r"DirectRouting\(([\w|]+)\)", inhibits) for alert in group.split("|")}
    assert len(named) > 10
    assert named <= exist


def test_stopped_brokers_cause_only_one_notification(alertmanager: Alertmanager) -> None:
    workers = [("BrokersUnreachable", "critical", {**WORKER, "instance": instance}) for instance in "a"]
    shards = ("ShardsWithoutOwner", "critical", WORKER)
    aborted = ("TransactionsAborted", "warning", {**WORKER, "shard": "0"})
    unknown = ("LagUnknown", "critical", TENANT)
    pages = alertmanager.pages("brokers", *workers, shards, aborted, unknown, *of_tenant())
    assert pages == ["DirectRoutingBrokersUnreachable"]


def test_shards_without_owner_cause_only_one_notification(alertmanager: Alertmanager) -> None:
    missing = ("WorkerMissing", "warning", WORKER)
    pages = alertmanager.pages("shards", ("ShardsWithoutOwner", "critical", WORKER), missing, *of_tenant())
    assert pages == ["DirectRoutingShardsWithoutOwner"]


def test_failing_tenant_causes_only_one_notification(alertmanager: Alertmanager) -> None:
    failing = ("TenantFailing", "critical", {**TENANT, "reason": "sign_in"})
    assert alertmanager.pages("failing", failing, *of_tenant()) == ["DirectRoutingTenantFailing"]


def test_lagging_tenant_without_known_cause_notifies_only_once(alertmanager: Alertmanager) -> None:
    lag = [("Lag", "warning", TENANT), ("Lag", "critical", TENANT), ("FreshnessBudgetBurn", "critical", TENANT)]
    assert alertmanager.pages("lag", *lag) == ["DirectRoutingFreshnessBudgetBurn"]


def test_warning_alert_does_not_silence_a_critical_alert(alertmanager: Alertmanager) -> None:
    unreachable = ("TenantFailing", "warning", {**TENANT, "reason": "unreachable"})
    assert alertmanager.pages("unreachable", unreachable, ("Lag", "critical", TENANT)) == ["DirectRoutingLag"]


def test_alert_silences_only_alerts_of_its_tenant_and_deployment(alertmanager: Alertmanager) -> None:
    failing = ("TenantFailing", "critical", {**TENANT, "reason": "sign_in"})
    brokers = ("BrokersUnreachable", "critical", {"job": "elsewhere", "instance": "a"})
    other = ("Lag", "critical", {**WORKER, "tenant": "fabrikam"})
    pages = alertmanager.pages("others", failing, brokers, other)
    assert sorted(pages) == ["DirectRoutingBrokersUnreachable", "DirectRoutingLag", "DirectRoutingTenantFailing"]


def test_absent_workers_cause_only_one_notification(alertmanager: Alertmanager) -> None:
    """This test must be the last one, because its alert silences every other alert."""
    absent: tuple[str, str, dict[str, str]] = ("Absent", "critical", {})
    pages = alertmanager.pages("absent", absent, ("ShardsWithoutOwner", "critical", WORKER), *of_tenant())
    assert pages == ["DirectRoutingAbsent"]
