"""Settings of the Kafka clients. Only this module combines them with the sign-in of Microsoft, for Azure Event Hubs."""

from connector.config import EventHubs, Settings
from connector.graph.bearer import Bearer
from connector.kafka.clients import Clients, resolve


def clients(settings: Settings) -> Clients:
    """Return the object that builds the settings of all Kafka clients: consumers, producers and admin clients.

    Raises ConfigurationError if the CA bundle for the sign-in at Azure Event Hubs cannot be read.
    """
    kafka = settings.kafka
    hubs: EventHubs | None = kafka.event_hubs
    bearer = Bearer.start(settings.graph, hubs) if hubs is not None else None
    return Clients(kafka.bootstrap_servers, resolve(kafka.properties), kafka.app, bearer)
