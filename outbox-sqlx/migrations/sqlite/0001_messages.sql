-- Migration 1: messages, dead letters and the schema's version.
--
-- Applied in one transaction. Workers of older builds: there are none before this version.
--
-- Instants are integers: milliseconds since the Unix epoch, which is as fine as SQLite's own clock.
-- Other programs that write to these tables get the same clock from the defaults.

create table if not exists {prefix}_schema_version (
    version    integer not null primary key,
    applied_at integer not null default ({now})
) strict;

-- Fails on a version that somebody else has applied meanwhile, and rolls back what follows.
insert into {prefix}_schema_version (version) values (1);

-- A message is available when it has no lease or its lease has expired. There is no state column:
-- it would say the same thing twice, and could disagree.
--
-- autoincrement: an id is never used again. A half-set lease would be invisible to every claim, for
-- ever; the first check refuses it. What can be long comes last: SQLite reads a row from its front.
create table {prefix}_message (
    id               integer not null primary key autoincrement,
    queue            text    not null,
    kind             text    not null,
    content_type     text    not null,
    priority         integer not null default 0,
    key              text,
    group_key        text,
    tag              text,
    attempts         integer not null default 0,
    max_attempts     integer not null default 10,
    deliveries       integer not null default 0,
    created_at       integer not null default ({now}),
    next_attempt_at  integer not null default ({now}),
    acquired_token   blob,
    acquired_at      integer,
    lease_expires_at integer,
    lease_losses     integer not null default 0,
    last_error       text,
    headers          text,
    payload          blob    not null,
    constraint message_lease_check check (
        (acquired_token is null) = (acquired_at is null)
        and (acquired_token is null) = (lease_expires_at is null)
    ),
    constraint message_token_check check (length(acquired_token) = 16),
    constraint message_priority_check check (priority between -3 and 3),
    constraint message_queue_check check (length(cast(queue as blob)) between 1 and 255),
    constraint message_kind_check check (length(cast(kind as blob)) between 1 and 255),
    constraint message_attempts_check check (
        attempts between 0 and 32767 and max_attempts between 1 and 32767
    ),
    constraint message_counts_check check (
        deliveries between 0 and 2147483647 and lease_losses between 0 and 32767
    )
) strict;

-- Every index ends with the id, in SQLite without being told: messages of one bulk insert share
-- their due time, and are read in their order all the same.
create index {prefix}_message_pending_idx on {prefix}_message (queue, priority, next_attempt_at)
    where acquired_token is null;

create index {prefix}_message_lease_idx on {prefix}_message (queue, lease_expires_at)
    where acquired_token is not null;

create unique index {prefix}_message_key_idx on {prefix}_message (queue, key)
    where key is not null;

create table {prefix}_dead_letter (
    message_id   integer not null primary key,
    queue        text    not null,
    kind         text    not null,
    content_type text    not null,
    priority     integer not null,
    key          text,
    group_key    text,
    tag          text,
    attempts     integer not null,
    max_attempts integer not null,
    deliveries   integer not null,
    lease_losses integer not null,
    created_at   integer not null,
    died_at      integer not null default ({now}),
    reason       text    not null,
    last_error   text,
    headers      text,
    payload      blob    not null
) strict;

create index {prefix}_dead_letter_queue_idx on {prefix}_dead_letter (queue, died_at);
