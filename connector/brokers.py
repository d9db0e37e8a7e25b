"""Settings of the brokers' clients, where Kafka's sign-in and Microsoft's meet."""

from connector.config import EventHubs, Settings
from connector.graph.bearer import Bearer
from connector.kafka.clients import Clients, resolve


def clients(settings: Settings) -> Clients:
    """Of every kind of client. Raises ConfigurationError."""
    kafka = settings.kafka
    hubs: EventHubs | None = kafka.event_hubs
    bearer = Bearer.start(settings.graph, hubs, hubs.scope) if hubs is not None else None
    return Clients(kafka.bootstrap_servers, resolve(kafka.properties), kafka.app, bearer)
