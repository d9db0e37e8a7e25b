"""Real broker with the security of production: TLS, mutual TLS, SASL, and only the operations that an ACL allows.

Its plain listener is for the tests themselves: a client that connects there is a super user.
"""

import argparse
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from confluent_kafka.cimpl import NewTopic

from connector.simulator.certificates import Authority
from tests.brokers import HOST, IPV6, Cluster, wait_until
from tests.workers import ROOT

PASSWORD = "it is no secret 1%"
_SCRAM = {"SCRAM-SHA-256": ScramMechanism.SCRAM_SHA_256, "SCRAM-SHA-512": ScramMechanism.SCRAM_SHA_512}


class SecuredBroker:
    """Secured broker as a context manager. `plain`: the tests' own address."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="drc-tls-")
        self._authority = Authority("throw-away CA of a broker")
        self.ca = self._file("ca.pem", self._authority.pem)
        server = self._file("server.pem", self._authority.issue("broker", (HOST, "::1", "localhost")))
        plain = "org.apache.kafka.common.security.plain.PlainLoginModule"
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule"
        settings = {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": server,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self.ca,
            "listener.name.mutual.ssl.client.auth": "required",
            "listener.name.sasl.sasl.enabled.mechanisms": ",".join(("PLAIN", *_SCRAM)),
            "listener.name.sasl.plain.sasl.jaas.config": f'{plain} required user_plain="{PASSWORD}";',
            **{f"listener.name.sasl.{name.lower()}.sasl.jaas.config": f"{scram} required;" for name in _SCRAM},
        }
        protocols = {"TLS": "SSL", "MUTUAL": "SSL", IPV6: "SSL", "SASL": "SASL_SSL"}
        self.cluster = Cluster(properties=settings, listeners=protocols)

    @property
    def plain(self) -> str:
        """Return the tests' own address."""
        return self.cluster.bootstrap

    def __enter__(self) -> Self:
        self.cluster.__enter__()
        self.admin = AdminClient({"bootstrap.servers": self.plain, "log_level": 0})
        return self

    def __exit__(self, *_: object) -> None:
        self.cluster.close()
        self._folder.cleanup()

    def add_user(self, name: str, password: str = PASSWORD) -> None:
        """Add a user who may sign in with either SCRAM mechanism."""
        changes = [
            UserScramCredentialUpsertion(name, ScramCredentialInfo(mechanism, 4096), password.encode())
            for mechanism in _SCRAM.values()
        ]
        for change in changes:
            for future in self.admin.alter_user_scram_credentials([change]).values():
                future.result(20)

    def create(self, topics: Sequence[NewTopic]) -> None:
        """Create topics, and wait until the broker shows them, which is later than its response."""
        for future in self.admin.create_topics(list(topics)).values():
            future.result(20)
        names = {topic.topic for topic in topics}
        wait_until(lambda: names <= self.admin.list_topics(timeout=20).topics.keys(), "the topics")

    def grant(self, *rights: AclBinding) -> None:
        """Add ACL rules, and wait until the broker shows them, which is later than its response."""
        for future in self.admin.create_acls(list(rights)).values():
            future.result(20)
        wait_until(lambda: self._rights() >= set(rights), "the rights")

    def take(self, *rights: AclBinding) -> None:
        """Remove ACL rules, each of which must exist."""
        for r in rights:
            rule = AclBindingFilter(
                r.restype, r.name, r.resource_pattern_type, r.principal, r.host, r.operation, r.permission_type
            )
            for future in self.admin.delete_acls([rule]).values():
                assert len(future.result(20)) == 1
        wait_until(lambda: self._rights().isdisjoint(rights), "the rights to be removed")

    def _rights(self) -> set[AclBinding]:
        any_name: Any = None
        kinds = ResourceType.ANY, any_name, ResourcePatternType.ANY, any_name, any_name
        any_right = AclBindingFilter(*kinds, AclOperation.ANY, AclPermissionType.ANY)
        return set(self.admin.describe_acls(any_right).result(20))

    def client(self, name: str) -> str:
        """Return the path of a file with a client's key and certificate; its principal is User:CN={name}."""
        return self._file(f"{name}.pem", self._authority.issue(name))

    def kafka(self, mechanism: str, user: str) -> dict[str, Any]:
        """Return `kafka.bootstrap_servers` and `kafka.properties` for a listener or a SASL mechanism.

        `mechanism` is TLS, MUTUAL, IPV6 (TLS on an IPv6 address) or the name of a SASL mechanism.
        """
        properties = {"ssl.ca.location": self.ca, "security.protocol": "SSL"}
        if mechanism == "MUTUAL":
            pem = self.client(user)
            properties |= {"ssl.certificate.location": pem, "ssl.key.location": pem}
        elif mechanism not in {"TLS", IPV6}:
            properties |= {
                "security.protocol": "SASL_SSL",
                "sasl.mechanism": mechanism,
                "sasl.username": user,
                "sasl.password": PASSWORD,
            }
        listener = mechanism if mechanism in {"TLS", "MUTUAL", IPV6} else "SASL"
        return {"bootstrap_servers": self.cluster.address(listener), "properties": properties}

    def _file(self, name: str, content: bytes) -> str:
        path = Path(self._folder.name, name)
        path.write_bytes(content)
        return str(path)


def commands(heading: str) -> list[str]:
    """Return the commands below a heading of docs/kafka.md."""
    text = (ROOT / "docs" / "kafka.md").read_text(encoding="utf-8")
    section = re.split(rf"^#+ {re.escape(heading)}$", text, flags=re.MULTILINE)[1]
    section = re.split(r"^#+ ", section, flags=re.MULTILINE)[0]
    return [
        line
        for block in re.findall(r"^```\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
        for line in block.replace(" \\\n  ", " ").splitlines()
    ]


def documented_rights(heading: str, topic: str, app: str, principal: str, group: str = "") -> list[AclBinding]:
    """Return the rights that the commands below a heading of docs/kafka.md grant, for a connector with other names."""
    rights = []
    for command in commands(heading):
        options = _OPTIONS.parse_args(command.split()[1:])
        pattern = ResourcePatternType[options.resource_pattern_type.upper()]
        resources = [(ResourceType.TOPIC, _renamed(name, topic, app)) for name in options.topic]
        resources += [(ResourceType.GROUP, group or _renamed(name, topic, app)) for name in options.group]
        resources += [(ResourceType.TRANSACTIONAL_ID, _renamed(name, topic, app)) for name in options.transactional_id]
        rights += [
            AclBinding(kind, name, pattern, f"User:{principal}", "*", OPERATIONS[operation], AclPermissionType.ALLOW)
            for kind, name in resources
            for operation in options.operation
        ]
    return rights


def documented_topics(topic: str, app: str, partitions: int, shards: int) -> list[NewTopic]:
    """Return the topics that docs/kafka.md creates by hand, for a connector with other names and numbers."""
    new = []
    for command in commands("Topics by hand"):
        options = _OPTIONS.parse_args(command.split()[1:])
        (name,) = options.topic
        count = {"8": shards, "6": partitions, "1": 1}[options.partitions]
        settings = dict(item.split("=", 1) for item in options.config)
        new.append(NewTopic(_renamed(name, topic, app), count, config=settings))
    return new


def _renamed(name: str, topic: str, app: str) -> str:
    for ours, theirs in (("direct-routing-calls", topic), ("direct-routing", app)):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise AssertionError(f"{name} is not a name of the connector")


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("--topic", "--group", "--transactional-id", "--operation", "--config"):
        parser.add_argument(name, action="append", default=[])
    for flag in ("--add", "--create"):
        parser.add_argument(flag, action="store_true")
    for name in ("--bootstrap-server", "--allow-principal", "--partitions"):
        parser.add_argument(name)
    parser.add_argument("--resource-pattern-type", default="literal")
    return parser


_OPTIONS = _options()
OPERATIONS = {
    "Read": AclOperation.READ,
    "Write": AclOperation.WRITE,
    "Create": AclOperation.CREATE,
    "Describe": AclOperation.DESCRIBE,
    "DescribeConfigs": AclOperation.DESCRIBE_CONFIGS,
}
