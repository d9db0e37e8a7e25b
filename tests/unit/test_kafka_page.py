"""docs/kafka.md says what the code does."""

from connector.kafka import topics
from tests.secured import commands


def test_documented_topic_commands_match_the_created_topics() -> None:
    wanted = topics.wanted("direct-routing", ["direct-routing-calls"], 8, 6, {})
    assert commands("Topics by hand") == [topics.create_command(topic) for topic in wanted]
