import java.nio.file.Files;
import java.nio.file.Path;
import java.lang.management.ManagementFactory;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicLong;
import com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.config.ConfigDef;
import org.apache.kafka.connect.connector.Task;
import org.apache.kafka.connect.data.Schema;
import org.apache.kafka.connect.source.SourceConnector;
import org.apache.kafka.connect.source.SourceRecord;
import org.apache.kafka.connect.source.SourceTask;

/** Kafka Connect's own floor: rows that are in memory already, over and over; the last pass is measured. */
public class RowsConnector extends SourceConnector {
    private Map<String, String> settings;

    @Override public String version() { return "1"; }
    @Override public void start(Map<String, String> properties) { settings = properties; }
    @Override public void stop() { }
    @Override public Class<? extends Task> taskClass() { return Rows.class; }
    @Override public List<Map<String, String>> taskConfigs(int most) { return List.of(settings); }
    @Override public ConfigDef config() { return new ConfigDef(); }

    public static class Rows extends SourceTask {
        private final List<Map<?, ?>> rows = new ArrayList<>();
        private final AtomicLong acknowledged = new AtomicLong();
        private String topic;
        private Path outcome;
        private int passes;
        private long sent;
        private volatile long began;
        private volatile long cpuBegan;

        @Override public String version() { return "1"; }

        @Override public void start(Map<String, String> properties) {
            topic = properties.get("topic");
            outcome = Path.of(properties.get("outcome"));
            passes = Integer.parseInt(properties.get("passes"));
            ObjectMapper mapper = new ObjectMapper();
            try (var lines = Files.lines(Path.of(properties.get("rows")))) {
                for (String line : (Iterable<String>) lines::iterator) {
                    rows.add(mapper.readValue(line, Map.class));
                }
            } catch (java.io.IOException error) {
                throw new java.io.UncheckedIOException(error);
            }
        }

        @Override public List<SourceRecord> poll() throws InterruptedException {
            long warming = (long) (passes - 1) * rows.size();
            if (sent == (long) passes * rows.size() || (sent == warming && acknowledged.get() < warming)) {
                Thread.sleep(1);
                return null;
            }
            if (sent == warming) {
                began = System.nanoTime();
                cpuBegan = cpu();
            }
            int first = (int) (sent % rows.size());
            int end = Math.min(rows.size(), first + 1000);
            List<SourceRecord> records = new ArrayList<>(end - first);
            for (Map<?, ?> row : rows.subList(first, end)) {
                records.add(new SourceRecord(Map.of("tenant", "t"), Map.of("row", sent), topic,
                    Schema.STRING_SCHEMA, row.get("id"), null, row));
                sent++;
            }
            return records;
        }

        @Override public void commitRecord(SourceRecord record, RecordMetadata metadata) {
            if (acknowledged.incrementAndGet() == (long) passes * rows.size()) {
                double seconds = (System.nanoTime() - began) / 1e9;
                double cpuSeconds = (cpu() - cpuBegan) / 1e9;
                String text = "{\"rows\": " + rows.size() + ", \"seconds\": " + seconds
                    + ", \"cpu_seconds\": " + cpuSeconds + "}";
                try {
                    Path part = outcome.resolveSibling("part");
                    Files.writeString(part, text);
                    Files.move(part, outcome);
                } catch (java.io.IOException error) {
                    throw new java.io.UncheckedIOException(error);
                }
            }
        }

        private static long cpu() {
            return ((com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean())
                .getProcessCpuTime();
        }

        @Override public void stop() { }
    }
}
