-- The connector's topics as tables of Flink SQL. Change topic, brokers and registry, then in the SQL client:
--   sql-client.sh -i calls.sql -f calls_per_minute.sql
-- Needs the SQL jars of Flink's Kafka connector and of its `avro-confluent` format, and `schema_registry.url` in the
-- connector's configuration. Flink reads aborted rows too unless it is told otherwise: keep read_committed.

SET 'table.local-time-zone' = 'UTC';

CREATE TABLE calls (
  id STRING NOT NULL,
  tenantId STRING NOT NULL,
  revision INT NOT NULL,
  startDateTime TIMESTAMP(3),
  endDateTime TIMESTAMP(3),
  duration INT,
  trunkFullyQualifiedDomainName STRING,
  successfulCall BOOLEAN,
  finalSipCode INT,
  callEndSubReason INT,
  `partition` INT METADATA VIRTUAL,
  `offset` BIGINT METADATA VIRTUAL
) WITH (
  'connector' = 'kafka',
  'topic' = 'direct-routing-calls',
  'properties.bootstrap.servers' = 'localhost:9092',
  'properties.isolation.level' = 'read_committed',
  'scan.startup.mode' = 'earliest-offset',
  'format' = 'avro-confluent',
  'avro-confluent.url' = 'http://localhost:8081'
);

CREATE TABLE progress (
  tenantId STRING NOT NULL,
  overlapSeconds BIGINT NOT NULL,
  completeThroughDateTime TIMESTAMP(3) NOT NULL,
  offsets ARRAY<BIGINT NOT NULL> NOT NULL
) WITH (
  'connector' = 'kafka',
  'topic' = 'direct-routing-calls.progress',
  'properties.bootstrap.servers' = 'localhost:9092',
  'properties.isolation.level' = 'read_committed',
  'scan.startup.mode' = 'earliest-offset',
  'format' = 'avro-confluent',
  'avro-confluent.url' = 'http://localhost:8081'
);

-- Only the newest revision of a call counts.
CREATE VIEW newest_calls AS
SELECT * FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY tenantId, id ORDER BY revision DESC) AS place FROM calls
) WHERE place = 1;
