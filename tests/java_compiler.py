"""Compiles single Java classes for tests, also with a Java that has no compiler."""

import os
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.kafka_software import MissingSoftwareError, fetch_with_maven, find_java

_COMPILER = ("org.eclipse.jdt", "ecj", "3.33.0")


def compile_class(name: str, source: str, jars: Iterable[Path], target: Path) -> None:
    """Compile the class `name`, which uses `jars`, into the folder `target`. Raises MissingSoftwareError."""
    with tempfile.TemporaryDirectory(prefix="drc-java-") as scratch:
        problem = fetch_with_maven(Path(scratch, "compiler"), [_COMPILER])
        if problem is not None:
            raise MissingSoftwareError(f"The Java compiler could not be fetched: {problem}")
        (compiler,) = Path(scratch, "compiler").glob("ecj-*.jar")
        file = Path(scratch, f"{name}.java")
        file.write_text(source, encoding="utf-8")
        java, _ = find_java()
        class_path = os.pathsep.join(map(str, jars))
        command = [str(java), "-jar", str(compiler), "-17", "-cp", class_path, "-d", str(target), str(file)]
        subprocess.run(command, check=True, capture_output=True)
