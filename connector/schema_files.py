"""Avro schemas of the connector. They are in the installed package, or next to the package in a source checkout."""

from pathlib import Path

NAMES = ("directRoutingLogRow", "progress")
_PLACES = (Path(__file__).parent / "schemas", Path(__file__).parent.parent / "schemas")


def schema_text(name: str) -> str:
    """Return the text of the Avro schema `name` (a member of `NAMES`), exactly as it is shipped."""
    if name not in NAMES:
        raise ValueError(f"no schema is called {name!r}")
    for place in _PLACES:
        file = place / f"{name}.avsc"
        if file.is_file():
            return file.read_text(encoding="utf-8")
    raise FileNotFoundError(f"{name}.avsc is missing from the installation; install the package again")
