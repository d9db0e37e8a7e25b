-- Calls and failures per trunk and minute. The result is updated whenever a late row turns up or a row is revised;
-- final_minutes.py, in this folder, gives each minute once, when it is final.

SELECT
  tenantId,
  FLOOR(startDateTime TO MINUTE) AS `minute`,
  trunkFullyQualifiedDomainName AS trunk,
  COUNT(*) AS calls,
  COUNT(*) FILTER (WHERE successfulCall = FALSE) AS failures
FROM newest_calls
WHERE startDateTime IS NOT NULL
GROUP BY tenantId, FLOOR(startDateTime TO MINUTE), trunkFullyQualifiedDomainName;
