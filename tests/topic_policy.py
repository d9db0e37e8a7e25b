"""Real broker that refuses topic settings with a policy of its own (KIP-108), as managed clusters do."""

import hashlib
import os
from pathlib import Path

from tests.brokers import Cluster
from tests.java_compiler import compile_class
from tests.kafka_software import cache_directory, install_once, kafka

SOURCE = """
import java.util.Map;
import org.apache.kafka.common.errors.PolicyViolationException;
import org.apache.kafka.server.policy.CreateTopicPolicy;

public class Policy implements CreateTopicPolicy {
    private String refused;
    private String replicas;

    public void configure(Map<String, ?> configs) {
        refused = System.getProperty("policy.refused", "");
        replicas = System.getProperty("policy.replicas", "");
    }

    public void validate(RequestMetadata request) {
        for (String name : refused.split(",")) {
            if (request.configs().containsKey(name)) {
                throw new PolicyViolationException(System.getProperty("policy.message", "refused by the policy"));
            }
        }
        if (!replicas.isEmpty() && !replicas.equals(String.valueOf(request.replicationFactor()))) {
            throw new PolicyViolationException("Topic replication factor must be " + replicas);
        }
    }

    public void close() {}
}
"""


def cluster(refused: str, message: str = "refused by the policy", replicas: int = 0) -> Cluster:
    """Return brokers that refuse each topic with one of the settings `refused`, separated by commas.

    `replicas`: how many each topic must have, and how many brokers there are; 0: one broker, and any number.
    """
    brokers = Cluster(max(1, replicas), {"create.topic.policy.class.name": "Policy"})
    options = {"refused": refused, "message": message, "replicas": replicas or ""}
    for broker in brokers.brokers:
        place = broker._command.index("-cp") + 1
        broker._command[place] = os.pathsep.join((broker._command[place], str(_classes())))
        broker._command[1:1] = [f"-Dpolicy.{name}={value}" for name, value in options.items()]
    return brokers


def _classes() -> Path:
    """Return the folder of the compiled policy, which the cache keeps."""
    folder = cache_directory() / f"topic-policy-{hashlib.sha256(SOURCE.encode()).hexdigest()[:8]}"
    install_once(folder, lambda target: compile_class("Policy", SOURCE, kafka().jars, target))
    return folder
