"""Text of docs/licences.md, written from what the pinned packages declare (`make docs`)."""

import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/licences.md"
COMPATIBLE = frozenset(
    [
        "0BSD",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "CC0-1.0",
        "ISC",
        "MIT",
        "MIT-0",
        "MPL-2.0",
        "PSF-2.0",
        "Zlib",
    ]
)
"SPDX names of the licences under which a program under Apache-2.0 may include a package."
_SPELLINGS = {
    "Apache 2.0": "Apache-2.0",
    "ISC License": "ISC",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: MIT License": "MIT",
}
_BY_ITS_LICENCE_FILE = {"jinja2": "BSD-3-Clause"}
"Packages that declare a family of licences only."
_ON_WINDOWS = {"colorama": "BSD-3-Clause"}
_INTRODUCTION = """\
# Licences

<!-- Written from requirements/runtime.txt and the packages by `make docs`, not by hand. -->

The licence of the connector is [Apache 2.0](../LICENSE). It needs the packages in this table, which
are pinned in `requirements/runtime.txt`. The licence of each package is the one that the package
declares. All of them may be distributed together with a program under Apache 2.0. MPL-2.0 (certifi)
requires that changes to its files are published. The connector does not change them.

Wheels contain compiled libraries with licences of their own. confluent-kafka contains librdkafka
(BSD-2-Clause) and its dependencies, cryptography contains OpenSSL (Apache-2.0), and numpy contains
OpenBLAS (BSD-3-Clause) and the runtime libraries of GCC (GPL-3.0 with the runtime exception, which
allows this). The image also contains Python and the packages of its base image.
`/opt/connector/sbom.cdx.json` in the image lists the Python packages for tools.

| package | version | licence | |
| --- | --- | --- | --- |
"""


class Package(NamedTuple):
    """Line of the requirements. `where`: the environment marker under which the package is installed."""

    name: str
    version: str
    where: str


def pinned() -> list[Package]:
    """Return the packages that `requirements/runtime.txt` names."""
    lines = (ROOT / "requirements/runtime.txt").read_text(encoding="utf-8")
    found = re.findall(r"^([a-z0-9._-]+)==([^\s;]+)(?: ; ([^\\\n]*))?", lines, re.MULTILINE)
    return [Package(name, version, where.strip()) for name, version, where in found]


def licence(name: str) -> str:
    """Return the licence that an installed package declares, in SPDX spelling.

    Raises KeyError for an unknown spelling.
    """
    known = _ON_WINDOWS | _BY_ITS_LICENCE_FILE
    if name in known:
        return known[name]
    for declared in _declared_licences(metadata.metadata(name)):
        spelled = _SPELLINGS.get(declared, declared)
        if set(re.split(r" (?:AND|OR) ", spelled)) <= COMPATIBLE:
            return spelled
    raise KeyError(f"{name}: {list(_declared_licences(metadata.metadata(name)))}")


def _declared_licences(about: metadata.PackageMetadata) -> Iterator[str]:
    expressions = about.get_all("License-Expression") or []
    yield from expressions
    if not expressions:  # an expression states the whole licence
        yield from about.get_all("License") or []
        yield from (word for word in about.get_all("Classifier") or [] if word.startswith("License ::"))


def line(package: Package) -> str:
    """Return the package's line of the page."""
    where = f"`{package.where}`" if package.where else ""
    return f"| {package.name} | {package.version} | {licence(package.name)} | {where} |\n"


if __name__ == "__main__":
    PAGE.write_text(_INTRODUCTION + "".join(map(line, pinned())), encoding="utf-8")
