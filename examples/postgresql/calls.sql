-- The rows of Graph as a table of PostgreSQL: one line per row, in its newest version.
--   psql -f calls.sql
-- The columns have the names of the fields. Leave out columns that you do not need, such as names and phone numbers:
-- calls_to_postgresql.py writes only the columns that exist.

CREATE TABLE IF NOT EXISTS calls (
  "tenantId" text NOT NULL,
  id text NOT NULL,
  revision integer NOT NULL,
  "correlationId" text,
  "callType" text,
  "callerNumber" text,
  "calleeNumber" text,
  "userId" text,
  "userPrincipalName" text,
  "userDisplayName" text,
  "startDateTime" timestamptz,
  "inviteDateTime" timestamptz,
  "failureDateTime" timestamptz,
  "endDateTime" timestamptz,
  duration integer,
  "successfulCall" boolean,
  "finalSipCode" integer,
  "finalSipCodePhrase" text,
  "callEndSubReason" integer,
  "trunkFullyQualifiedDomainName" text,
  "mediaBypassEnabled" boolean,
  "mediaPathLocation" text,
  "signalingLocation" text,
  "userCountryCode" text,
  "otherPartyCountryCode" text,
  "transferorCorrelationId" text,
  "administrativeUnitInfos" jsonb,
  "observedDateTime" timestamptz,
  "additionalProperties" jsonb,
  PRIMARY KEY ("tenantId", id)
);
CREATE INDEX IF NOT EXISTS calls_by_start ON calls ("tenantId", "startDateTime");

-- A sink that upserts without a condition, such as a JDBC sink of Kafka Connect, would replace a row by an older version
-- when it reads records again. This trigger ignores such an update.
CREATE OR REPLACE FUNCTION ignore_update() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE OR REPLACE TRIGGER keep_newest_revision BEFORE UPDATE ON calls
  FOR EACH ROW WHEN (NEW.revision <= OLD.revision) EXECUTE FUNCTION ignore_update();
