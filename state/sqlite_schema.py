"""The tables and views of a change log in a file, as documented for plain SQL."""

APPLICATION_ID = 0x53544C47  # "STLG"
FORMAT = 1

SCHEMA = f"""
BEGIN IMMEDIATE;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT};
CREATE TABLE run (key TEXT PRIMARY KEY, value);
CREATE TABLE actor (id INTEGER PRIMARY KEY, path TEXT, kind TEXT, source TEXT);
CREATE TABLE field (id INTEGER PRIMARY KEY, name TEXT, scope TEXT, type TEXT, description TEXT, "default" TEXT);
CREATE TABLE slot (id INTEGER PRIMARY KEY, actor INTEGER, kind TEXT, field INTEGER, evidence TEXT);
CREATE TABLE template (id INTEGER PRIMARY KEY, length INTEGER);
CREATE TABLE template_slot (template INTEGER, idx INTEGER, slot INTEGER, PRIMARY KEY (template, idx)) WITHOUT ROWID;
-- texts that stand for values: a tensor's dtype and shape, a collection's keys or length, the name of a class
CREATE TABLE meta (id INTEGER PRIMARY KEY, text TEXT);
-- one row per round. vals: a JSON array, one value per slot of the template: a plain value,
-- [id of a meta text], [that, low, high, mean, norm, fingerprint, where it is not finite], {{"f": "nan" | "inf" |
-- "-inf"}}, or [outcome, duration in ns, reason] where a stage is left
CREATE TABLE segment (
    seq INTEGER PRIMARY KEY, t_ns INTEGER, epoch INTEGER, phase TEXT, batch INTEGER, upd INTEGER,
    template INTEGER, vals TEXT
);
CREATE INDEX by_template ON segment (template);
-- one row per record: who (actor) wrote what (field, value), when (seq, t_ns in ns of unix time, position; upd is the
-- number of updates so far), known how (evidence), where its code is (source, "qualname file:line");
-- kind is write, enter or exit of a stage, open or close of a scope, or gap, where records are missing because the disk
-- was full; and field is null for all but the first. Scopes
-- (named as evidence) are told where the position does not tell one from the next; the run is, each time it begins
CREATE VIEW change AS
SELECT
    segment.seq + item.key AS seq, t_ns, epoch, phase, batch, upd, actor.path AS actor, slot.kind AS kind,
    field.name AS field,
    CASE
        WHEN item.type = 'object' THEN json_extract(item.value, '$.f')
        WHEN item.type = 'array' AND json_type(item.value, '$[0]') = 'integer'
            THEN (SELECT text FROM meta WHERE id = json_extract(item.value, '$[0]'))
        ELSE item.value
    END AS value,
    evidence, actor.source AS source
FROM segment, json_each(segment.vals) AS item
JOIN template_slot ON template_slot.template = segment.template AND template_slot.idx = item.key
JOIN slot ON slot.id = template_slot.slot
JOIN actor ON actor.id = slot.actor
LEFT JOIN field ON field.id = slot.field;
-- one row per write of a field or part, with what the write before it left there, also where that was in a scope that
-- has ended since. Ask for one field at a time: WHERE field = 'loss'
CREATE VIEW written AS
SELECT
    seq, t_ns, epoch, phase, batch, upd, actor, field, lag(value) OVER (PARTITION BY field ORDER BY seq) AS before,
    value AS after, evidence, source
FROM change WHERE kind = 'write';
-- one row per write that was measured, at the levels stats and full: numbers of the elements, of a part only the norm
-- (NaN is null); a fingerprint of their bits; and what is not finite: the field, or the first such tensor of a part
CREATE VIEW measured AS
SELECT
    segment.seq + item.key AS seq, t_ns, epoch, phase, batch, upd, actor.path AS actor, field.name AS field,
    CASE json_extract(item.value, '$[1].f') WHEN 'nan' THEN NULL WHEN 'inf' THEN 9e999 WHEN '-inf' THEN -9e999
        ELSE json_extract(item.value, '$[1]') END AS low,
    CASE json_extract(item.value, '$[2].f') WHEN 'nan' THEN NULL WHEN 'inf' THEN 9e999 WHEN '-inf' THEN -9e999
        ELSE json_extract(item.value, '$[2]') END AS high,
    CASE json_extract(item.value, '$[3].f') WHEN 'nan' THEN NULL WHEN 'inf' THEN 9e999 WHEN '-inf' THEN -9e999
        ELSE json_extract(item.value, '$[3]') END AS mean,
    CASE json_extract(item.value, '$[4].f') WHEN 'nan' THEN NULL WHEN 'inf' THEN 9e999 WHEN '-inf' THEN -9e999
        ELSE json_extract(item.value, '$[4]') END AS norm,
    json_extract(item.value, '$[5]') AS fingerprint,
    coalesce(json_extract(item.value, '$[6]'), CASE WHEN 'object' IN (
        json_type(item.value, '$[1]'), json_type(item.value, '$[2]'), json_type(item.value, '$[4]')
    ) THEN field.name END) AS not_finite
FROM segment, json_each(segment.vals) AS item
JOIN template_slot ON template_slot.template = segment.template AND template_slot.idx = item.key
JOIN slot ON slot.id = template_slot.slot
JOIN actor ON actor.id = slot.actor
JOIN field ON field.id = slot.field
WHERE item.type = 'array' AND json_type(item.value, '$[0]') = 'integer' AND json_array_length(item.value) = 7;
-- one row per time a stage was left: its outcome (ok, failed, cancelled and so on), how long it took (null if it was
-- not timed), and why it ended (null if ok): for a cancelled one who did it and what ends by it, 'actor (scope): why'.
-- Where stages are timed, there is a row for each hook too, and for each look of the guard
CREATE VIEW stage AS
SELECT
    seq, t_ns, epoch, phase, batch, upd, actor, json_extract(value, '$[0]') AS outcome,
    json_extract(value, '$[1]') AS duration_ns, json_extract(value, '$[2]') AS reason
FROM change WHERE kind = 'exit';
COMMIT;
"""

BY_TEMPLATE = "CREATE INDEX IF NOT EXISTS by_template ON segment (template)"
"""What a file of an earlier version lacks."""
