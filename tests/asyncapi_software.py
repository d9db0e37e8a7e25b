"""The official parser of AsyncAPI documents and its parser of Avro schemas, kept in the cache.

`requirements/asyncapi` pins them and everything that they need, with hashes. Their install scripts do not run.
"""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.kafka_software import MissingSoftwareError, cache_directory, install_once
from tests.system_software import program

REQUIREMENTS = Path(__file__).parent.parent / "requirements" / "asyncapi"
SCRIPT = """
const { Parser } = require('@asyncapi/parser');
const { AvroSchemaParser } = require('@asyncapi/avro-schema-parser');
const parser = new Parser();
parser.registerSchemaParser(AvroSchemaParser());
const text = require('fs').readFileSync(0, 'utf8');
parser.parse(text).then(({ document, diagnostics }) => {
  const addresses = document ? document.channels().all().map((channel) => channel.address()) : [];
  const problems = diagnostics.map(({ severity, path, message }) => ({ severity, path: path.join('.'), message }));
  console.log(JSON.stringify({ addresses, problems }));
});
"""


def parse(text: str) -> dict[str, Any]:
    """Return the `addresses` of the channels, and the `problems` with severity (0 is an error), path and message.

    Raises MissingSoftwareError.
    """
    node = program("node")
    lock = (REQUIREMENTS / "package-lock.json").read_bytes()
    home = cache_directory() / f"asyncapi-{hashlib.sha256(lock).hexdigest()[:12]}"
    install_once(home, _install)
    done = subprocess.run(
        [node, "-e", SCRIPT], cwd=home, input=text, capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    parsed: dict[str, Any] = json.loads(done.stdout)
    return parsed


def _install(target: Path) -> None:
    for file in REQUIREMENTS.iterdir():
        shutil.copy(file, target)
    command = [str(program("npm")), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(command, cwd=target, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        raise MissingSoftwareError(f"The parser of AsyncAPI could not be installed: {done.stderr.strip()[-2000:]}")
