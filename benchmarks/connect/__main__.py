"""Entry point of the package."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.limit import bodies_of
from benchmarks.rig import Rig, rig_from_arguments
from connector.core.pages import decode_page
from tests.kafka_software import Software, kafka

_SOURCE = Path(__file__).with_name("RowsConnector.java")
_DEADLINE_S = 600.0
_WORKER = """
bootstrap.servers={bootstrap}
key.converter=org.apache.kafka.connect.storage.StringConverter
value.converter=org.apache.kafka.connect.json.JsonConverter
value.converter.schemas.enable=false
offset.storage.file.filename={directory}/offsets
listeners=http://127.0.0.1:0
"""
_CONNECTOR = """
name=rows
connector.class=RowsConnector
tasks.max=1
topic={topic}
rows={directory}/rows.json
outcome={directory}/outcome.json
passes=2
"""


def _compile(software: Software, directory: Path) -> None:
    compiler = software.java.resolve().with_name("javac")
    if not compiler.is_file():
        raise SystemExit(f"there is no javac next to {software.java.name}: install a JDK")
    libraries = os.pathsep.join(map(str, software.jars))
    subprocess.run([compiler, "-cp", libraries, "-d", directory, _SOURCE], check=True)


def main(rig: Rig, topic: str) -> dict[str, Any]:
    """Run Kafka Connect, which writes to `topic`, and return the number of rows, the seconds and the processor seconds.

    They are measured from the first record to the last acknowledgement.
    """
    software = kafka()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        _compile(software, directory)
        with (directory / "rows.json").open("wb") as file:
            for body in asyncio.run(bodies_of(rig)):
                file.writelines(msgspec.json.format(bytes(row), indent=-1) + b"\n" for row in decode_page(body).rows)
        for part, template in (("worker", _WORKER), ("connector", _CONNECTOR)):
            text = template.format(bootstrap=rig.bootstrap, directory=directory, topic=topic)
            (directory / f"{part}.properties").write_text(text, encoding="utf-8")
        jars = (directory, *software.jars)
        files = [str(directory / "worker.properties"), str(directory / "connector.properties")]
        command = Software(software.java, jars, software.formatted, software.classes).command(
            "org.apache.kafka.connect.cli.ConnectStandalone", *files, options=["-Xmx768m", "-XX:+UseSerialGC"]
        )
        with (directory / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
            try:
                return _outcome(process, directory)
            finally:
                process.kill()


def _outcome(process: "subprocess.Popen[bytes]", directory: Path) -> dict[str, Any]:
    deadline = time.monotonic() + _DEADLINE_S
    while not (directory / "outcome.json").is_file():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"Kafka Connect did not finish:\n{(directory / 'log').read_text()[-3000:]}")
        time.sleep(0.1)
    result: dict[str, Any] = json.loads((directory / "outcome.json").read_text(encoding="utf-8"))
    return result


if __name__ == "__main__":
    print(json.dumps(main(rig_from_arguments(), sys.argv[2])))
