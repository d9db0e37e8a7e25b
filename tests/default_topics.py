"""Topics of a connector whose configuration leaves names and numbers out."""

from connector.config.document import KafkaTable
from connector.kafka.topics import Topic, wanted


def default_topics() -> list[Topic]:
    """Return all topics, with the default names, numbers and settings."""
    app, topic, shards, partitions = (
        KafkaTable.model_fields[key].default for key in ("app", "topic", "shards", "partitions")
    )
    return wanted(app, [topic], shards, partitions, {})
