"""Checks resources with the Java classes from which Strimzi generates its CRDs, kept in the cache.

Strimzi publishes these classes to Maven, but not the CRDs. The check is as strict as the CRDs about the names and the
types of members. It does not check limits of numbers and patterns of texts.
"""

import hashlib
import os
import subprocess
from pathlib import Path

from tests.java_compiler import compile_class
from tests.kafka_software import MissingSoftwareError, cache_directory, fetch_with_maven, find_java, install_once

VERSION = "0.51.0"
SOURCE = """
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.dataformat.yaml.YAMLFactory;
import io.strimzi.api.kafka.model.topic.KafkaTopic;
import io.strimzi.api.kafka.model.user.KafkaUser;
import java.io.File;
import java.lang.reflect.Method;
import java.util.Map;

public class Check {
    static void walk(String path, Object value) throws Exception {
        if (value instanceof Iterable<?> many) {
            int number = 0;
            for (Object one : many) walk(path + "[" + number++ + "]", one);
            return;
        }
        if (value == null || !value.getClass().getName().startsWith("io.strimzi") || value instanceof Enum) return;
        for (Method method : value.getClass().getMethods()) {
            if (method.getParameterCount() > 0 || !method.getName().startsWith("get")) continue;
            Object found = method.invoke(value);
            if (method.getName().equals("getAdditionalProperties")) {
                for (Object name : ((Map<?, ?>) found).keySet()) System.out.println(path + "." + name + ": unknown");
            } else {
                walk(path + "." + method.getName().substring(3), found);
            }
        }
    }

    /** What the classes do not take over, such as the name of an operation that does not exist. */
    static void compare(String path, JsonNode given, JsonNode taken) {
        if (given.isContainerNode()) {
            for (int i = 0; i < given.size() && given.isArray(); i++) {
                compare(path + "[" + i + "]", given.get(i), taken.path(i));
            }
            given.fields().forEachRemaining(one ->
                compare(path + "." + one.getKey(), one.getValue(), taken.path(one.getKey())));
        } else if (!given.asText().equals(taken.asText())) {
            System.out.println(path + ": " + given.asText() + " is not taken");
        }
    }

    public static void main(String[] files) throws Exception {
        YAMLFactory yaml = new YAMLFactory();
        ObjectMapper mapper = new ObjectMapper(yaml);
        for (String file : files) {
            var documents = mapper.readerFor(JsonNode.class).<JsonNode>readValues(new File(file));
            while (documents.hasNext()) {
                var node = documents.next();
                var kind = node.get("kind").asText().equals("KafkaTopic") ? KafkaTopic.class : KafkaUser.class;
                String name = node.at("/metadata/name").asText();
                try {
                    Object taken = mapper.treeToValue(node, kind);
                    walk(name, taken);
                    compare(name, node, mapper.valueToTree(taken));
                } catch (JsonProcessingException error) {
                    System.out.println(name + ": " + error.getOriginalMessage());
                }
            }
        }
    }
}
"""


def problems(*files: Path) -> list[str]:
    """Return a line for each member of a KafkaTopic or KafkaUser in `files` that Strimzi's classes do not take."""
    home = cache_directory() / f"strimzi-{VERSION}-{hashlib.sha256(SOURCE.encode()).hexdigest()[:8]}"
    install_once(home, _fetch)
    java, _ = find_java()
    class_path = os.pathsep.join((str(home), *map(str, sorted(home.glob("*.jar")))))
    command = [str(java), "-cp", class_path, "Check", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return done.stdout.splitlines()


def _fetch(target: Path) -> None:
    problem = fetch_with_maven(target, [("io.strimzi", "api", VERSION)])
    if problem is not None:
        raise MissingSoftwareError(f"Strimzi {VERSION} could not be fetched: {problem}")
    compile_class("Check", SOURCE, target.glob("*.jar"), target)
