-- Written by npm run db:diff from sql/ and policies/; read the sources for the reasons.
set lock_timeout = '5s';
set statement_timeout = '60s';

CREATE OR REPLACE FUNCTION private.uuid_v7()
 RETURNS uuid
 LANGUAGE plpgsql
 SET search_path TO ''
AS $function$
declare
  v_micros bigint := extract(epoch from clock_timestamp()) * 1000000;
begin
  return encode(
    overlay(
      uuid_send(gen_random_uuid())
      placing substring(int8send(v_micros / 1000) from 3) || int2send((28672 + v_micros % 1000 * 4096 / 1000)::smallint)
      from 1 for 8
    ),
    'hex')::uuid;
end $function$;

COMMENT ON FUNCTION "private"."uuid_v7"() IS 'A UUID version 7 (RFC 9562): 48 bits of Unix milliseconds, 12 bits of their fraction (6.2, method 3), then random bits. Sorts by time, to the microsecond. PostgreSQL 18 has uuidv7().';
