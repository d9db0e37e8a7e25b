"""Connector for every Microsoft Teams Direct Routing call record: from Microsoft Graph into Kafka, exactly once."""

from importlib.metadata import version

__version__ = version("direct-routing-connector")
