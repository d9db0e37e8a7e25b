"""JSON Schema (2020-12) of the configuration file."""

from datetime import timedelta
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from connector.config.document import Document, SweepTable
from connector.config.durations import duration_text
from connector.config.values import Reference


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the configuration file."""
    schema = Document.model_json_schema(schema_generator=_Generator)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **{key: _plain(value) for key, value in schema.items()},
        "title": "direct-routing-connector",
    }


class _Generator(GenerateJsonSchema):
    def encode_default(self, dft: Any) -> Any:
        if isinstance(dft, timedelta):
            return duration_text(dft)
        if isinstance(dft, Reference):
            return dft.value
        if isinstance(dft, SweepTable):
            return {"every": self.encode_default(dft.every), "overlap": self.encode_default(dft.overlap)}
        if isinstance(dft, BaseModel):
            return None
        if isinstance(dft, list):
            return [self.encode_default(part) for part in dft]
        return super().encode_default(dft)


def _plain(node: Any) -> Any:
    # TOML has no null. A key without a value is left out of the file, so null is neither a default nor a valid type.
    if isinstance(node, list):
        return [_plain(part) for part in node]
    if not isinstance(node, dict):
        return node
    node = {key: _plain(value) for key, value in node.items() if not (key == "default" and value is None)}
    if isinstance(node.get("title"), str):
        del node["title"]
    choices = [choice for choice in node.get("anyOf", []) if choice != {"type": "null"}]
    if choices:
        node["anyOf"] = choices
    if len(choices) == 1:
        del node["anyOf"]
        node = {**choices[0], **node}
    return node
