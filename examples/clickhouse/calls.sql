-- The rows of Graph as a table of ClickHouse. Change topic, brokers and registry, then:
--   clickhouse-client --multiquery < calls.sql
-- It needs `schema_registry.url` in the connector's configuration. The Kafka consumer of ClickHouse, librdkafka, reads
-- committed records only, unless it is configured otherwise.

-- ReplacingMergeTree keeps the line with the highest revision of each tenantId and id. It removes the others in the
-- background, so that they can be seen for a while. Do not partition this table by startDateTime: a revision may change
-- it, and lines in different partitions are never merged.
CREATE TABLE IF NOT EXISTS calls (
  tenantId String,
  id String,
  revision UInt32,
  correlationId Nullable(String),
  callType Nullable(String),
  callerNumber Nullable(String),
  calleeNumber Nullable(String),
  userId Nullable(String),
  userPrincipalName Nullable(String),
  userDisplayName Nullable(String),
  startDateTime Nullable(DateTime64(3, 'UTC')),
  inviteDateTime Nullable(DateTime64(3, 'UTC')),
  failureDateTime Nullable(DateTime64(3, 'UTC')),
  endDateTime Nullable(DateTime64(3, 'UTC')),
  duration Nullable(Int32),
  successfulCall Nullable(Bool),
  finalSipCode Nullable(Int32),
  finalSipCodePhrase Nullable(String),
  callEndSubReason Nullable(Int32),
  trunkFullyQualifiedDomainName Nullable(String),
  mediaBypassEnabled Nullable(Bool),
  mediaPathLocation Nullable(String),
  signalingLocation Nullable(String),
  userCountryCode Nullable(String),
  otherPartyCountryCode Nullable(String),
  transferorCorrelationId Nullable(String),
  administrativeUnitInfos Array(Tuple(id Nullable(String))),
  observedDateTime DateTime64(3, 'UTC'),
  additionalProperties Map(String, String)
) ENGINE = ReplacingMergeTree(revision) ORDER BY (tenantId, id);

-- Queries read this view. FINAL leaves out the lines that are not removed yet.
CREATE VIEW IF NOT EXISTS newest_calls AS SELECT * FROM calls FINAL;

-- The consumer of the topic. Records that are read again change nothing.
CREATE TABLE IF NOT EXISTS calls_queue AS calls
ENGINE = Kafka SETTINGS
  kafka_broker_list = 'localhost:9092',
  kafka_topic_list = 'direct-routing-calls',
  kafka_group_name = 'clickhouse-calls',
  kafka_format = 'AvroConfluent',
  format_avro_schema_registry_url = 'http://localhost:8081';

CREATE MATERIALIZED VIEW IF NOT EXISTS calls_writer TO calls AS SELECT * FROM calls_queue;
