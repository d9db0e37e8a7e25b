"""AsyncAPI document of the topics, generated from schemas/*.avsc and the code that creates the topics.

`python -m tests.asyncapi` writes docs/asyncapi.yaml (`make docs`). Its facts in words are those of docs/interface.md.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import yaml

from connector import __version__
from connector.kafka import control
from connector.kafka.topics import Topic
from connector.schema_files import schema_text
from tests.default_topics import default_topics

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docs/asyncapi.yaml"
_AVRO = "application/vnd.apache.avro;version=1.9.0"
_HEAD = "# Written by `make docs` from schemas/*.avsc and the code, not by hand. docs/interface.md is the reference.\n"
_INSTANT = {"format": "date-time"}
_COMMAND = {
    "id": {"format": "uuid", "description": "A command takes effect once per id."},
    "tenant": {"description": "Tenant id."},
    "filed": _INSTANT,
    "from": {**_INSTANT, "description": "Start of a backfill."},
    "to": {**_INSTANT, "description": "End of a backfill."},
    "again": {"description": "True if a backfill publishes unchanged rows once more."},
    "job": {"format": "uuid", "description": "Job to cancel."},
}
"Facts about members of a command that their types do not express."
_ERROR_HEADERS = {
    "__connect.errors.topic": "The topic that the row would have been published to.",
    "__connect.errors.exception.class.name": "connector.RowDoesNotFit or connector.RowConflict.",
    "__connect.errors.exception.message": "The field and the expected type, never the value.",
    "tenant": "Tenant id.",
    "window.from": "Start of the window in which the row was read.",
    "window.to": "End of the window in which the row was read.",
}
_MURMUR2 = "Partitioned by murmur2 as Java clients do."


def document() -> dict[str, Any]:
    """Return the document."""
    named = dict(zip(_CHANNELS, default_topics(), strict=True))
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "direct-routing-connector",
            "version": __version__,
            "description": (
                "Topics of the connector with the default names. Consumers must set isolation.level=read_committed. "
                "docs/interface.md is the reference."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {name: _channel(name, topic) for name, topic in named.items()},
        "operations": {
            f"{action}_{name}": {
                "action": action,
                "channel": {"$ref": f"#/channels/{name}"},
                "summary": summary,
                "messages": [{"$ref": f"#/channels/{name}/messages/{name}"}],
            }
            for name, (_, actions) in _CHANNELS.items()
            for action, summary in actions.items()
        },
        "components": {"messages": _messages()},
    }


def text() -> str:
    """Return the content of the file."""
    return _HEAD + yaml.dump(document(), Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Dumper without anchors, which some tools do not read."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the name is PyYAML's
        return True


_CHANNELS = {
    "rows": ("One record per published version of a row.", {"send": "The connector publishes each version once."}),
    "deadLetters": (
        "Invalid rows and rejected contents of conflicting rows, each once.",
        {"send": "The connector keeps what it does not publish."},
    ),
    "progress": ("Statements about complete call time.", {"send": "The connector states what is complete."}),
    "control": ("Commands of operators.", {"receive": "Workers take commands. Only operators may write."}),
    "state": (
        "Checkpoints, coverage and jobs. The content is internal.",
        {"send": "A shard writes its checkpoint with its rows.", "receive": "A shard restores it."},
    ),
    "seen": (
        "The dedup index. The content is internal.",
        {"send": "A shard writes what it remembers with its rows.", "receive": "A shard restores it."},
    ),
}


def _channel(name: str, topic: Topic) -> dict[str, Any]:
    binding: dict[str, Any] = {"topic": topic.name, "partitions": topic.partitions, "bindingVersion": "0.5.0"}
    if topic.settings:
        settings = {setting: yaml.safe_load(value) for setting, value in topic.settings.items()}
        binding["topicConfiguration"] = settings | {"cleanup.policy": [topic.settings["cleanup.policy"]]}
    return {
        "address": topic.name,
        "description": _CHANNELS[name][0],
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        "bindings": {"kafka": binding},
    }


def _command() -> dict[str, Any]:
    """Return the JSON Schema of a command, from the type that workers decode."""
    _, parts = msgspec.json.schema_components([control._Record])
    schema: dict[str, Any] = parts["_Record"]
    members = schema["properties"]
    for name, facts in _COMMAND.items():
        kinds = members[name].pop("anyOf", None)
        members[name] |= ({"type": [kind["type"] for kind in kinds]} if kinds else {}) | facts
    return {name: part for name, part in schema.items() if name != "title"}


def _messages() -> dict[str, Any]:
    internal = {"type": "string", "description": "Internal: it may change with any version."}
    headers = {name: {"type": "string", "description": description} for name, description in _ERROR_HEADERS.items()}
    return {
        "rows": _message(
            "Version of a row", "directRoutingLogRow", f"The id of the call, or the field of rows.key. {_MURMUR2}"
        ),
        "deadLetters": {
            "title": "Dead letter",
            "contentType": "application/json",
            "headers": {"type": "object", "properties": headers},
            "payload": {"type": ["object", "array", "string", "number", "boolean", "null"]},
            "bindings": _key(f"The id of the row if it is a non-empty string, otherwise none. {_MURMUR2}"),
        },
        "progress": _message("Progress record", "progress", "Tenant id. The partition is 0."),
        "control": {
            "title": "Command",
            "contentType": "application/json",
            "payload": _command(),
            "bindings": _key("Tenant id. The partition is the tenant's shard: CRC-32 of the id modulo kafka.shards."),
        },
        "state": {"title": "Checkpoint", "contentType": "application/json", "payload": internal},
        "seen": {"title": "Part of the dedup index", "contentType": "application/octet-stream", "payload": internal},
    }


def _message(title: str, schema: str, key: str) -> dict[str, Any]:
    return {
        "title": title,
        "contentType": "avro/binary",
        "payload": {"schemaFormat": _AVRO, "schema": json.loads(schema_text(schema))},
        "bindings": _key(key),
    }


def _key(description: str) -> dict[str, Any]:
    return {"kafka": {"key": {"type": "string", "description": description}, "bindingVersion": "0.5.0"}}


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
