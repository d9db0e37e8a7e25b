"""Real broker with a listener that accepts OAUTHBEARER tokens of the simulator.

The broker verifies tokens with the keys that the simulator serves.
"""

from tests.brokers import HOST, Cluster, free_ports
from tests.simulation import Simulation

AUDIENCE = f"https://{HOST}"


class TokenBroker:
    """Broker with two listeners: `bootstrap` needs a token, `cluster.bootstrap` is for the tests themselves."""

    def __init__(self, source: Simulation) -> None:
        port = free_ports(1)[0]
        self.cluster = Cluster()
        self.bootstrap = f"{HOST}:{port}"
        settings = self.cluster.brokers[0].settings
        text = settings.read_text(encoding="utf-8")
        plain = next(line for line in text.splitlines() if line.startswith("listeners="))
        advertised = next(line for line in text.splitlines() if line.startswith("advertised.listeners="))
        handler = "org.apache.kafka.common.security.oauthbearer.OAuthBearer"
        keys = f"{source.url}/{source.tenants[0]}/discovery/v2.0/keys"
        trust = (
            f'unsecuredLoginStringClaim_sub="broker" ssl.truststore.type="PEM" ssl.truststore.location="{source.ca}"'
        )
        own = {
            "sasl.enabled.mechanisms": "OAUTHBEARER",
            "oauthbearer.sasl.jaas.config": f"{handler}LoginModule required {trust};",
            "oauthbearer.sasl.server.callback.handler.class": f"{handler}ValidatorCallbackHandler",
            "oauthbearer.sasl.oauthbearer.jwks.endpoint.url": keys,
            "oauthbearer.sasl.oauthbearer.expected.audience": AUDIENCE,
            "oauthbearer.sasl.oauthbearer.expected.issuer": f"https://sts.windows.net/{source.tenants[0]}/",
            "oauthbearer.connections.max.reauth.ms": "3600000",
        }
        more = [
            f"{plain},SASL://{self.bootstrap}",
            f"{advertised},SASL://{self.bootstrap}",
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_PLAINTEXT",
            *(f"listener.name.sasl.{name}={value}" for name, value in own.items()),
        ]
        # If a setting occurs twice, the second one counts.
        settings.write_text(text + "\n".join(more) + "\n", encoding="utf-8")
        self.cluster.brokers[0]._command.insert(1, f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={keys}")
