-- Tables of final_minutes.py --postgres, which creates them. docs/downstream.md defines the figures.

-- One row per tenant, trunk and minute.
CREATE TABLE IF NOT EXISTS trunk_minutes (
  tenant_id text NOT NULL,
  trunk text NOT NULL, -- Fully qualified domain name of the SBC. Empty if the calls name none.
  minute timestamptz NOT NULL, -- Start of the minute.
  attempts integer NOT NULL,
  answered integer NOT NULL,
  effective integer NOT NULL,
  duration_seconds bigint NOT NULL, -- Sum over the answered calls.
  asr double precision, -- Percent. Null without attempts, as ner.
  ner double precision,
  acd_seconds double precision, -- Null without answered calls.
  short_calls integer NOT NULL,
  concurrent_calls integer NOT NULL,
  failures jsonb NOT NULL, -- [{"final_sip_code": 486, "call_end_sub_reason": 560486, "calls": 2}, ...]
  PRIMARY KEY (tenant_id, trunk, minute)
);
CREATE INDEX IF NOT EXISTS trunk_minutes_minute ON trunk_minutes (minute);

-- Content of sip_codes.csv. A line without sub-code stands for all sub-codes that are not listed.
CREATE TABLE IF NOT EXISTS sip_codes (
  final_sip_code integer NOT NULL,
  call_end_sub_reason integer,
  outcome text NOT NULL,
  meaning text NOT NULL
);
