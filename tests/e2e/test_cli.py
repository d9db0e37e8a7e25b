"""The program as a process: exit codes, one sentence per error, only results on standard output."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.forked import without_settings

TENANT = "11111111-1111-1111-1111-111111111111"
DEADLINE_S = 30


def environment(**variables: str) -> dict[str, str]:
    return {**without_settings(), **variables}


def connector(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "connector", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        env=environment(**variables),
    )
    assert "Traceback" not in done.stderr
    return done


def test_version_option_prints_to_standard_output() -> None:
    done = connector("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"connector \d+\.\d+\.\d+\S*\n", done.stdout)


@pytest.mark.parametrize(
    "arguments", [(), ("run",), ("schema",), ("schema", "show"), ("schema", "config"), ("simulate",)]
)
def test_help_option_shows_an_example(arguments: tuple[str, ...]) -> None:
    done = connector(*arguments, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Example" in done.stdout
    assert f"connector {' '.join(arguments)}".strip() in done.stdout.partition("Example")[2]
    if arguments and arguments != ("schema",):
        assert "--config" in done.stdout


def test_version_and_help_options_import_no_heavy_package() -> None:
    heavy = ("connector.config", "structlog", "aiohttp", "msal", "numpy", "confluent_kafka", "rich", "fastavro")
    for argument in ("--version", "--help"):
        code = (
            "import sys\nfrom connector.cli import main\n"
            f"try: main([{argument!r}])\n"
            "except SystemExit: pass\n"
            f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE_S, check=True
        )
        assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("frobnicate",), "connector: No such command 'frobnicate'; see connector --help"),
        (("run", "--twice"), "connector run: No such option: --twice"),
        (("schema", "show", "x"), 'schema show: there is no schema "x"; write directRoutingLogRow or progress'),
        (("simulate", "--listen", "here"), "--listen: "),
    ],
)
def test_invalid_arguments_exit_2_with_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    done = connector(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1


def test_invalid_configuration_exits_2_with_one_line_per_problem(tmp_path: Path) -> None:
    path = tmp_path / "connector.toml"
    path.write_text('[kafka]\ntopik = "x"\nshards = 0\n[identity]\nclient_secret = "hunter2"\n')
    done = connector("run", "--config", str(path), CONNECTOR_HTTP__LISTEN="here")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"{path}: kafka.shards: is 0; write at least 1",
        f"{path}: kafka.topik: is not a known key; the most similar is kafka.topic",
        (
            'CONNECTOR_HTTP__LISTEN: http.listen: is "here", which is not an address; '
            'write HOST:PORT, for example "0.0.0.0:9464"'
        ),
        (
            f"{path}: tenants: has no tenant; add [[tenants]], "
            "or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"
        ),
        f'{path}: kafka.bootstrap_servers: is empty; set it, for example "broker-1:9092"',
    ]


def test_configuration_path_is_read_from_connector_config() -> None:
    done = connector("run", CONNECTOR_CONFIG="/nowhere/connector.toml")
    assert done.returncode == 2
    assert done.stderr.startswith("CONNECTOR_CONFIG: /nowhere/connector.toml cannot be read")


def test_schema_commands_print_to_standard_output() -> None:
    shown = connector("schema", "show")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert json.loads(shown.stdout)["name"] == "directRoutingLogRow"
    config = connector("schema", "config", "--config", "unread.toml")
    assert (config.returncode, config.stderr) == (0, "")
    assert json.loads(config.stdout)["$schema"].startswith("https://json-schema.org/")


def test_closed_output_pipe_causes_no_traceback() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "connector", "schema", "config"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_simulate_command_exits_0_on_sigint_and_sigterm(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "connector", "simulate", "--days", "0", "--ca-out", str(tmp_path / "ca.pem")],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    watchdog = threading.Timer(DEADLINE_S, process.kill)
    watchdog.start()
    with process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert ready["url"].startswith("https://")
        process.send_signal(number)
        began = time.monotonic()
        assert process.wait(DEADLINE_S) == 0
        assert time.monotonic() - began < 10
    watchdog.cancel()


def test_crashing_command_leaves_no_core_file() -> None:
    """A core file would contain tokens, secrets and rows."""
    program = (
        "import resource; most = resource.getrlimit(resource.RLIMIT_CORE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (most, most))\n"
        "from connector.cli import main\n"
        "try: main(['run'])\n"
        "except SystemExit: print(resource.getrlimit(resource.RLIMIT_CORE)[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
        env=environment(),
    )
    assert done.stdout == "0\n"
