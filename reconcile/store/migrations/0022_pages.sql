-- An attempt's row is written once, when it has ended, so room for a second writing is half of its pages
-- for nothing. Holds a lock on each partition that only maintenance wants, for a moment.

-- +goose Up
SET LOCAL lock_timeout = '5s';

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION attune.make_partitions(first_day date, last_day date) RETURNS integer
LANGUAGE plpgsql
AS $$
DECLARE
    history text;
    day     date;
    part    text;
    low     text;
    high    text;
    made    integer := 0;
BEGIN
    FOREACH history IN ARRAY ARRAY['event', 'enforcement', 'execution', 'attempt', 'output'] LOOP
        day := first_day;
        WHILE day <= last_day LOOP
            part := history || '_' || to_char(day, 'YYYYMMDD');
            low  := to_char(day, 'YYYY-MM-DD') || ' 00:00:00+00';
            high := to_char(day + 1, 'YYYY-MM-DD') || ' 00:00:00+00';
            IF to_regclass(format('attune.%I', part)) IS NULL THEN
                EXECUTE format('LOCK TABLE attune.%I IN ACCESS EXCLUSIVE MODE', history || '_default');
                EXECUTE format('CREATE TABLE attune.%I (LIKE attune.%I INCLUDING ALL)', part, history);
                IF history = 'execution' THEN
                    -- Each row is written a second time, on the same page and with no index knowing. Half of
                    -- the page would be dead rows otherwise, and the indexes twice as large.
                    EXECUTE format('ALTER TABLE attune.%I SET (fillfactor = 50)', part);
                END IF;
                EXECUTE format(
                    'WITH moved AS (DELETE FROM attune.%I WHERE created_at >= %L AND created_at < %L RETURNING *) INSERT INTO attune.%I SELECT * FROM moved',
                    history || '_default', low, high, part
                );
                EXECUTE format('COMMENT ON TABLE attune.%I IS %L', part, 'The rows of ' || history || ' of ' || day || ' (UTC).');
                EXECUTE format('ALTER TABLE attune.%I ATTACH PARTITION attune.%I FOR VALUES FROM (%L) TO (%L)', history, part, low, high);
                made := made + 1;
            END IF;
            day := day + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
DO $$
DECLARE
    part regclass;
BEGIN
    FOR part IN
        SELECT pg_inherits.inhrelid::regclass
        FROM pg_catalog.pg_inherits
        WHERE pg_inherits.inhparent = 'attune.attempt'::regclass
    LOOP
        EXECUTE format('ALTER TABLE %s RESET (fillfactor)', part);
    END LOOP;
END
$$;
-- +goose StatementEnd
