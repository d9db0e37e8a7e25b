"""docs/kafka.md matches the code."""

from connector.kafka import topics
from tests.default_topics import default_topics
from tests.secured import commands


def test_documented_topic_commands_match_the_created_topics() -> None:
    assert commands("Topics by hand") == [topics.create_command(topic) for topic in default_topics()]
