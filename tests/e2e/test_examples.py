"""Each example of the command `connector` in help texts and documentation works as it is written.

Each runs in a folder with the configuration files that it names. Replaced are placeholders, times that have passed,
and addresses. Filters are run with the real jq.
"""

import re
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import commands, examples, system_software
from tests.brokers import wait_until
from tests.commands import DEADLINE_S, Done, Started
from tests.conftest import SharedBroker
from tests.examples import Example
from tests.forked import Forked, without_settings
from tests.registries import RegistryClient
from tests.simulation import Simulation
from tests.workers import Worker, configuration, toml

Settings = dict[str, Any]

# Not run here, because tests/e2e/test_demo.py runs the demo on both kinds of broker. One run takes half a minute.
EXCLUDED = frozenset(
    {
        "connector demo",
        "connector demo --for 1m",
        "connector demo --bootstrap-servers localhost:9092",
        "connector demo --for 30s --bootstrap-servers ADDRESS",
    }
)
VALUES = {
    **dict.fromkeys(("T", "TENANT"), "contoso"),
    **dict.fromkeys(("A", "FROM"), "-30d"),
    **dict.fromkeys(("B", "TO"), "-7d"),
    **dict.fromkeys(("N", "S", "D"), "2"),
    **dict.fromkeys(("HOST:PORT", "127.0.0.1:8443"), "127.0.0.1:0"),
    "PATH": "ca.pem",
    "OLD.toml": "old.toml",
}
"Replacements for the placeholders of the documents, and for an address that may be in use."
UNTIL_STOPPED = {"run": "shard_restored", "simulate": "client_secret"}
"Commands that run until Ctrl-C, and what they write when they are ready."
WITHOUT_WORKER = frozenset({"run", "cancel", "pause", "resume"})
"Commands that use the app without a worker: their effect would change what other examples find."
FOUND = examples.collect()


def _value(word: str) -> str:
    return "JOB" if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", word) else VALUES.get(word, word)


def _distinct() -> Iterator[Example]:
    """Yield one of the examples that are equal after replacement.

    Without --config, CONNECTOR_CONFIG names the same file.
    """
    seen = set()
    for example in FOUND:
        words = re.sub(r" --config (connector|new)\.toml", "", " ".join(map(_value, example.words)))
        key = example._replace(words=(words,), variables=tuple((name, "") for name, _ in example.variables))
        if key not in seen and str(example) not in EXCLUDED:
            seen.add(key)
            yield example


class Scene(NamedTuple):
    """App with a running worker, and app of the past that has state and no worker; both with tenant contoso."""

    live: Settings
    old: Settings
    old_config: Path
    registry: RegistryClient

    def write(self, folder: Path, example: Example) -> None:
        """Write the configuration files that an example names, or that CONNECTOR_CONFIG names for it."""
        settings = self.old if example.name in WITHOUT_WORKER else self.live
        if example.name == "copy-state":
            settings = _with(self.old, "kafka", app=f"{self.old['kafka']['app']}-{uuid.uuid4().hex[:8]}", shards=3)
        if example.name.startswith("schema"):
            settings = _with(settings, "schema_registry", url=self.registry.url)
        for name, content in {"connector": settings, "new": settings, "old": self.old}.items():
            known = _without_graph(content) if example.words[0] in offline_commands() else content
            (folder / f"{name}.toml").write_text(toml(known), encoding="utf-8")

    def variables(self, example: Example) -> dict[str, str]:
        """Return the variables of an example with values, and those that lead a worker to the simulator."""
        if not example.variables:
            return {"CONNECTOR_CONFIG": "connector.toml"}
        values = {
            "AZURE_TENANT_ID": self.old["tenants"][0]["id"],
            "AZURE_CLIENT_ID": self.old["identity"]["client_id"],
            "AZURE_CLIENT_SECRET": self.old["identity"]["client_secret"],
            "CONNECTOR_KAFKA__BOOTSTRAP_SERVERS": self.old["kafka"]["bootstrap_servers"],
        }
        given = {name: values[name] for name, _ in example.variables}
        for key in ("graph.base_url", "graph.authority", "graph.ca_bundle", "kafka.app", "kafka.topic", "http.listen"):
            table, _, name = key.partition(".")
            given[f"CONNECTOR_{table}__{name}".upper()] = self.old[table][name]
        return given | {"CONNECTOR_KAFKA__SHARDS": "2", "CONNECTOR_LOG__FORMAT": "json"}


def offline_commands() -> frozenset[str]:
    """Return the commands that need no credentials of Graph, as docs/interface.md lists them."""
    page = (examples.ROOT / "docs" / "interface.md").read_text(encoding="utf-8")
    listed = re.search(r"^- ((?:`[a-z-]+`(?:, | and |\s)*)+)do\s+not\s+contact\s+Graph", page, re.MULTILINE)
    assert listed is not None
    return frozenset(re.findall(r"`([a-z-]+)`", listed[1]))


def _with(settings: Mapping[str, Any], section: str, **members: Any) -> Settings:
    return {**settings, section: {**settings.get(section, {}), **members}}


def _without_graph(settings: Settings) -> Settings:
    """Return a configuration whose client secret cannot be read, and whose Graph nobody serves."""
    unserved = "https://127.0.0.1:1"
    known = _with(settings, "identity", client_secret={"env": "ABSENT"})
    return _with(known, "graph", base_url=unserved, authority=unserved)


@pytest.fixture(scope="module")
def scene(broker: SharedBroker, registry: RegistryClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    name, folder = f"examples-{uuid.uuid4().hex[:8]}", tmp_path_factory.mktemp("examples")
    with Simulation(tenants=2, days=31, calls_per_day=20, frozen=True) as source:
        live, old = (
            configuration(broker.bootstrap, f"{name}-{age}", f"app-{name}-{age}", source) for age in ("live", "old")
        )
        for settings in live, old:
            settings["windows"] = {"slice": "30d"}  # the default sweeps, with few transactions
            settings["tenants"] = [
                {"id": tenant, "name": label, "start": "-31d"}
                for tenant, label in zip(source.tenants, ("contoso", "fabrikam"), strict=True)
            ]
        past, worker = Worker(folder / "old", old), Worker(folder / "live", live)
        try:
            began = datetime.now(UTC)
            worker.start()
            assert past.run_once() == 0
            worker.until_complete(began)
            yield Scene(live, old, past.config, registry)
        finally:
            worker.kill()
            past.kill()


def start(scene: Scene, folder: Path, example: Example) -> Started:
    """Start an example in `folder`."""
    if example.name != "simulate":
        scene.write(folder, example)
    words = [*map(_value, example.words)]
    if "--again" in words:  # so that `verify` finds no row of contoso twice
        words[words.index("contoso")] = "fabrikam"
    if example.name == "cancel":
        period = ("--tenant", "contoso", "--from", "-2d", "--to", "-1d")
        words[1] = commands.succeed(scene.old_config, "backfill", *period)
    if example.name == "verify":
        words += ["--requests-per-minute", "60000"]  # the default of 5 only makes the test wait
    output, error = folder / (example.output or "output"), folder / "error"
    environment = without_settings() | scene.variables(example)
    return Started(Forked(["connector", *_moved(words)], environment, folder, output, error), output, error)


def _moved(words: list[str]) -> list[str]:
    """Move the instants in `words` by whole days, so that the last of them is within the last day."""
    instants = [word for word in words if re.fullmatch(r"\d{4}-\d\d-\d\dT.*Z", word)]
    if not instants:
        return words
    days = timedelta((datetime.now(UTC) - datetime.fromisoformat(max(instants))).days)
    return [f"{datetime.fromisoformat(w) + days:%Y-%m-%dT%H:%M:%SZ}" if w in instants else w for w in words]


def result(example: Example, started: Started) -> Done:
    """Return the result of an example; stop it with Ctrl-C when it is ready, if it runs until then."""
    ready = UNTIL_STOPPED.get(example.name)
    if ready is None or "--once" in example.words:
        return commands.ended(started)
    files = (started.output, started.error)

    def is_ready() -> bool:
        assert started.process.poll() is None, [file.read_text(encoding="utf-8") for file in files]
        return any(ready in file.read_text(encoding="utf-8") for file in files if file.is_file())

    wait_until(is_ready, f"{example} ready", DEADLINE_S)
    return commands.interrupt(started)


def assert_filters(example: Example, output: str) -> None:
    """Assert that jq accepts the output of an example, and that it has the members that the filter names."""
    name, *arguments = example.filter
    assert name == "jq"
    program = [str(system_software.program("jq")), *arguments]
    done = subprocess.run(program, input=output, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert (done.returncode, done.stderr) == (0, ""), example
    members = set(re.findall(r"\b[a-z_]+\b", re.sub('"[^"]*"', "", arguments[-1]))) - {"select", "not"}
    assert [member for member in members if f'"{member}":' not in output] == []


@pytest.mark.parametrize("example", [*_distinct()], ids=str)
def test_documented_example_exits_0(scene: Scene, tmp_path: Path, example: Example) -> None:
    started = start(scene, tmp_path, example)
    try:
        done = result(example, started)
    finally:
        started.process.kill()
    assert done.code == 0, (FOUND[example], done)
    assert done.output or example.name in {"run", "pause", "resume", "cancel"}, done
    if example.filter:
        assert_filters(example, done.output)
    if example.name == "verify" and "--json" not in example.words:
        assert done.output.rstrip().endswith("identical")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("`connector backfill --again` and `connector\njobs`", ["connector jobs"]),
        ("```\n/opt/bin/connector run --config /etc/x.toml  # the worker's\n```\n", ["connector run --config x.toml"]),
        ("```\nkubectl exec POD -- connector status\n```\n", ["connector status"]),
        (
            "```\nA=1 B=2 \\\n  connector plan [--tenant T] [--json]\n```\n",
            ["A=1 B=2 connector plan --tenant T --json"],
        ),
        ("```\nconnector jobs --json | jq '.[] | .id'\n```\n", ["connector jobs --json | jq .[] | .id"]),
        ("| `connector pause` | Stops reading: `--tenant contoso`. |\n", ["connector pause --tenant contoso"]),
    ],
)
def test_command_examples_in_a_page_are_found(text: str, found: list[str]) -> None:
    assert [*map(str, examples.in_page(text))] == found


def test_excluded_examples_occur_in_the_documentation() -> None:
    assert set(map(str, FOUND)) >= EXCLUDED


def test_help_of_each_command_has_an_example_of_it() -> None:
    shown = {(place, example.name) for example, places in FOUND.items() for place in places}
    for name, text in examples.helps():
        if name and name != "schema":
            assert (f"connector {name} --help", name) in shown, text


def test_found_examples_cover_commands_that_need_no_credentials() -> None:
    places = {place for found in FOUND.values() for place in found}
    assert places >= {"README.md", "docs/interface.md", "docs/operating.md", "docs/runbook.md", "connector run --help"}
    assert {"status", "jobs", "pause", "resume", "cancel", "plan"} <= {e.name for e in FOUND} & offline_commands()
