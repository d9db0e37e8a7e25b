"""Check of `kafka.properties` for SASL settings with which sign-in always fails, although librdkafka accepts them."""

from collections.abc import Mapping

from connector.config.secret import Secret
from connector.config.source import ConfigSource, Key

_MSK = "AWS_MSK_IAM"
_TODO = (
    'set "sasl.oauthbearer.method" = "oidc" with the client id, client secret and token endpoint, '
    "or kafka.azure_event_hubs = true (docs/kafka.md)"
)


def check(source: ConfigSource, properties: Mapping[str, str | Secret], *, azure_event_hubs: bool) -> None:
    """Report a SASL mechanism with which sign-in to the brokers always fails.

    librdkafka itself would not report it, but wait for the brokers forever.
    """
    values = {name.strip().lower(): (name, value) for name, value in properties.items()}
    for spelling in ("sasl.mechanism", "sasl.mechanisms"):
        name, mechanism = values.get(spelling, (spelling, ""))
        key: Key = ("kafka", "properties", name)
        if _text(mechanism) == _MSK:
            todo = "use SCRAM-SHA-512 or a client certificate (docs/kafka.md)"
            source.report(key, f'is "{_MSK}", which librdkafka does not support; {todo}')
        elif _text(mechanism) == "OAUTHBEARER" and not azure_event_hubs and not _has_token_source(values):
            source.report(key, f'is "OAUTHBEARER", but no source of the token is configured; {_TODO}')
    name, method = values.get("sasl.oauthbearer.method", ("", ""))
    if azure_event_hubs and _text(method) == "OIDC":
        what = "cannot be combined with kafka.azure_event_hubs; remove one of them"
        source.report(("kafka", "properties", name), what)


def _has_token_source(values: Mapping[str, tuple[str, str | Secret]]) -> bool:
    _, method = values.get("sasl.oauthbearer.method", ("", ""))
    _, unsecured = values.get("enable.sasl.oauthbearer.unsecure.jwt", ("", ""))
    return _text(method) == "OIDC" or _text(unsecured) in ("TRUE", "T", "1")


def _text(value: str | Secret) -> str:
    text = value.get() if isinstance(value, Secret) else value
    return text.strip().upper()
