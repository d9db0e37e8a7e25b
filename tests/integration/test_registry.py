"""The registry's client on a real registry."""

import copy
from typing import Any

import pytest

from connector.config import SchemaRegistry
from connector.errors import FatalError
from connector.kafka import avro
from connector.kafka.registry import Registry, Subject
from tests.registries import RegistryClient


def client(real: RegistryClient, *, auto_register: bool = True) -> Registry:
    return Registry(
        SchemaRegistry(
            url=real.url,
            username="",
            password=None,
            token=None,
            ca_bundle=None,
            subject_name_strategy="topic",
            auto_register=auto_register,
        )
    )


@pytest.fixture
def subject(topic: str) -> Subject:
    return Subject(f"{topic}-value", avro.ROW, (topic,))


def changed(**types: Any) -> dict[str, Any]:
    """Return the schema of the rows with other types for some fields, and without the fields whose type is None."""
    schema = copy.deepcopy(avro.load(avro.ROW))
    for field in schema["fields"]:
        if field["name"] in types:
            field["type"] = types[field["name"]]
            field.pop("default", None)
    schema["fields"] = [field for field in schema["fields"] if field["type"] is not None]
    return schema


def test_schema_is_registered_only_once(registry: RegistryClient, subject: Subject) -> None:
    with pytest.raises(FatalError, match=r"is not registered \(the subject has no schema\).*connector schema register"):
        client(registry, auto_register=False).ensure([subject])
    assert client(registry).check(subject) == (None, True)
    ids = client(registry).ensure([subject])
    assert client(registry).ensure([subject]) == ids
    assert client(registry, auto_register=False).ensure([subject]) == ids
    assert registry.ask("GET", f"/subjects/{subject.name}/versions") == (200, [1])
    assert client(registry).schema(ids[subject.topics[0]]) == avro.load(avro.ROW)


@pytest.mark.parametrize("auto_register", [True, False])
def test_error_names_the_fields_of_an_incompatible_schema(
    registry: RegistryClient,
    subject: Subject,
    auto_register: bool,  # noqa: FBT001
) -> None:
    """This also holds if the registry requires no compatibility, which is its default here."""
    registry.put(subject.name, changed(callerNumber="long", tenantId=None))
    with pytest.raises(FatalError) as caught:
        client(registry, auto_register=auto_register).ensure([subject])
    assert f"subject {subject.name}: schema directRoutingLogRow is not compatible" in str(caught.value)
    assert (
        "version 1: field callerNumber is long in the registry and null or string in the connector; "
        "field tenantId is missing in the registry"
    ) in str(caught.value)
    assert registry.ask("GET", f"/subjects/{subject.name}/versions") == (200, [1])


def test_schema_conflict_with_an_older_version_is_reported(registry: RegistryClient, subject: Subject) -> None:
    registry.put(subject.name, changed(duration="string"))
    registry.put(subject.name, changed(mediaPathLocation=None), level="FULL_TRANSITIVE")
    with pytest.raises(
        FatalError, match="version 1: field duration is string in the registry and null or int in the connector"
    ):
        client(registry).ensure([subject])


def test_older_schema_stays_usable_after_a_newer_version(registry: RegistryClient, subject: Subject) -> None:
    older = changed(mediaPathLocation=None)
    first = registry.put(subject.name, older, level="FULL_TRANSITIVE")
    ids = client(registry).ensure([subject])
    assert ids[subject.topics[0]] != first
    later = copy.deepcopy(avro.load(avro.ROW))
    later["fields"].append({"name": "learned", "type": ["null", "string"], "default": None})
    registry.put(subject.name, later, level="FULL_TRANSITIVE")
    assert client(registry).ensure([subject]) == ids
    assert registry.ask("GET", f"/subjects/{subject.name}/versions") == (200, [1, 2, 3])
