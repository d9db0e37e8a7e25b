"""`connector demo` as a user starts it: on the mock cluster, on a real broker, stopped early."""

import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.conftest import SharedBroker
from tests.forked import without_settings

LAST = re.compile(r"served (\d+), published (\d+), missing 0, duplicated 0")
CLEAR_NUMBER = re.compile(r"\+\d{6,}|\b\d{9,}\b")
DEADLINE_S = 120

pytestmark = pytest.mark.java


@contextmanager
def started(*arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "connector", "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**without_settings(), **variables},
    )
    watch = threading.Timer(DEADLINE_S, process.kill)
    watch.start()
    try:
        yield process
    finally:
        watch.cancel()
        process.kill()
        process.communicate()


def page(process: subprocess.Popen[str]) -> tuple[str, list[str]]:
    """Return the address of the status page, and the output lines up to the one that contains it."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        found = re.fullmatch(r"\s*page\s+(http://\S+)\n", line)
        if found:
            return found[1], lines
    raise AssertionError(f"no line names the page: {lines}")


def test_demo_prints_its_result_and_masks_phone_numbers() -> None:
    """Proxy variables do not affect the demo."""
    proxies = dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"), "http://127.0.0.1:9")
    with started("--for", "8s", **proxies) as process:
        address, lines = page(process)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=10) as answer:
            assert b"contoso" in answer.read()
        out, err = process.communicate()
    out = "".join(lines) + out
    last = LAST.fullmatch(out.splitlines()[-1])
    assert last is not None, out[-2000:] + err
    assert process.returncode == 0
    assert last[1] == last[2]
    assert int(last[1]) > 1_000
    for mark in ("+", "!"):
        assert re.search(rf"^{re.escape(mark)} .+", out, re.MULTILINE), f"no line begins with {mark}"
    rows = [line for line in out.splitlines() if line[:2] in {"+ ", "~ ", "! "}]
    assert not [line for line in rows if CLEAR_NUMBER.search(line)]
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 100
    assert "Traceback" not in err


def test_demo_runs_on_a_real_broker(broker: SharedBroker) -> None:
    with started("--for", "8s", "--bootstrap-servers", broker.bootstrap) as process:
        out, err = process.communicate()
    assert process.returncode == 0, out[-2000:] + err
    assert LAST.fullmatch(out.splitlines()[-1])
    assert broker.bootstrap in out


def test_demo_exits_130_on_ctrl_c() -> None:
    with started("--for", "10m") as process:
        page(process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in err


@pytest.mark.parametrize("span", ["30", "1s", "soon"])
def test_demo_refuses_an_invalid_duration(span: str) -> None:
    with started("--for", span) as process:
        out, err = process.communicate()
    assert (process.returncode, out) == (2, "")
    assert re.fullmatch(r"--for: is .+\n", err)


def test_demo_names_the_broker_that_does_not_respond() -> None:
    with started("--for", "5s", "--bootstrap-servers", "127.0.0.1:9") as process:
        _, err = process.communicate()
    assert process.returncode == 1
    assert "127.0.0.1:9" in err.splitlines()[-1]
    assert "Traceback" not in err
