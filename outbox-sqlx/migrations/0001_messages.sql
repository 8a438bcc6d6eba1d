-- Migration 1: messages, dead letters and the schema's version.
--
-- Applied in one transaction. Workers of older builds: there are none before this version.

-- "create schema if not exists" asks for CREATE on the database even where the schema exists;
-- a schema prepared by an administrator must do.
do $$
begin
    if to_regnamespace('{schema}') is null then
        create schema {schema};
    end if;
end
$$;

create table if not exists {schema}.schema_version (
    version    integer     primary key,
    applied_at timestamptz not null default now()
);

-- Fails on a version that somebody else has applied meanwhile, and rolls back what follows.
insert into {schema}.schema_version (version) values (1);

-- A message is available when it has no lease or its lease has expired. There is no state column:
-- it would say the same thing twice, and could disagree.
create table {schema}.message (
    id               bigint      generated always as identity primary key,
    queue            text        not null,
    kind             text        not null,
    payload          bytea       not null,
    content_type     text        not null,
    headers          jsonb,
    priority         smallint    not null default 0,
    key              text,
    group_key        text,
    tag              text,
    attempts         smallint    not null default 0,
    max_attempts     smallint    not null default 10,
    deliveries       integer     not null default 0,
    created_at       timestamptz not null default now(),
    next_attempt_at  timestamptz not null default now(),
    acquired_token   uuid,
    acquired_at      timestamptz,
    lease_expires_at timestamptz,
    lease_losses     smallint    not null default 0,
    last_error       text,
    -- A half-set lease would be invisible to every claim, for ever.
    constraint message_lease_check check (
        (acquired_token is null) = (acquired_at is null)
        and (acquired_token is null) = (lease_expires_at is null)
    ),
    constraint message_priority_check check (priority >= -3 and priority <= 3),
    constraint message_queue_check check (octet_length(queue) >= 1 and octet_length(queue) <= 255),
    constraint message_kind_check check (octet_length(kind) >= 1 and octet_length(kind) <= 255),
    constraint message_attempts_check check (attempts >= 0 and max_attempts >= 1)
);

-- id is part of the index: without it, messages of one bulk insert share their due time and every
-- claim sorts all of them (measured).
create index message_pending_idx on {schema}.message (queue, priority, next_attempt_at, id)
    where acquired_token is null;

create index message_lease_idx on {schema}.message (queue, lease_expires_at, id)
    where acquired_token is not null;

create unique index message_key_idx on {schema}.message (queue, key)
    where key is not null;

-- Every message leaves one dead row when claimed and one when settled. A share of the table as the
-- trigger would let a full table rot the longer it stays full, so a fixed number starts vacuum,
-- and vacuum does not pause: measured, the paused one falls behind for good at full speed.
-- Pages are filled to a half on insert, so that a claim finds room for its version on the same page:
-- of such a change the log holds what is new, and a claim reads and writes one page and not two.
-- The empty end of the table is kept: cutting it off takes a lock against everybody, for which an
-- autovacuum waits up to five seconds, and keeps the workers' own vacuums out meanwhile.
alter table {schema}.message set (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = 1000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    vacuum_truncate = false
);

create table {schema}.dead_letter (
    message_id   bigint      primary key,
    queue        text        not null,
    kind         text        not null,
    payload      bytea       not null,
    content_type text        not null,
    headers      jsonb,
    priority     smallint    not null,
    key          text,
    group_key    text,
    tag          text,
    attempts     smallint    not null,
    max_attempts smallint    not null,
    deliveries   integer     not null,
    lease_losses smallint    not null,
    created_at   timestamptz not null,
    died_at      timestamptz not null default now(),
    reason       text        not null,
    last_error   text
);

create index dead_letter_queue_idx on {schema}.dead_letter (queue, died_at);
