//! The leg of ruststream-sqlx's inbox in the lease form.

use std::num::NonZeroUsize;
use std::process::ExitCode;

use chrono::{DateTime, Utc};
use inbox::pool;
use leg::{Description, Error, Payload, Peer, Setting, Work};
use ruststream_sqlx::prelude::*;
use sqlx::PgPool;

const BEST: &str = "best";
const NOTIFY: &str = "notify";

/// As in its production guide; announced as in its guide on waking.
const SCHEMA: &str = "
    create table bench_jobs (
        id bigserial primary key,
        name text not null,
        attempt smallint not null default 1,
        locked_until timestamptz,
        payload bytea not null
    );
    create index bench_jobs_claim on bench_jobs (name, id);
    create function bench_announce() returns trigger language plpgsql
    as 'begin perform pg_notify(tg_table_name, new.name); return null; end'";
const ANNOUNCE: &str = "
    create trigger bench_announced after insert on bench_jobs
    for each row execute function bench_announce()";

struct Ruststream(PgPool);

#[derive(Inbox, sqlx::FromRow)]
#[inbox(table = "bench_jobs")]
struct BenchJob {
    #[field(id, generated)]
    id: i64,
    #[field(group)]
    name: String,
    #[field(attempt, generated)]
    attempt: i16,
    #[field(locked_until)]
    locked_until: Option<DateTime<Utc>>,
    #[field(payload)]
    payload: Vec<u8>,
}

#[subscriber(InboxQueue::<BenchJob>::new("bench"))]
async fn noop(_: &Payload) -> HandlerOutcome {
    leg::handled();
    HandlerOutcome::ack()
}

#[subscriber(InboxQueue::<BenchJob>::new("bench"))]
async fn noops(payloads: &[Payload]) -> Vec<HandlerOutcome> {
    inbox::handled(payloads)
}

impl Peer for Ruststream {
    fn description() -> Description {
        Description {
            package: Some("ruststream-sqlx".to_owned()),
            version: None,
            fenced: "yes: by the end of the lease".to_owned(),
            left: "select count(*) from bench_jobs".to_owned(),
            settings: vec![
                Setting::new(
                    "default",
                    "b.include(handler), pool 10; its derived insert, and for many an insert of ours, as it \
                     has none",
                )
                .drain_at_most(4_000)
                .one_process()
                .no_latency(),
                Setting::new(BEST, "batch 100, 24 workers, pool 25")
                    .drain_at_most(50_000)
                    .no_enqueue()
                    .no_latency(),
                Setting::new(NOTIFY, "listen_notify() and its trigger, pool 10").only_latency(),
            ],
        }
    }

    async fn migrate(url: &str) -> Result<(), Error> {
        sqlx::raw_sql(SCHEMA).execute(&pool(url, 1).await?).await?;
        Ok(())
    }

    async fn worker(url: &str, setting: &str) -> Result<Work, Error> {
        let pool = pool(url, if setting == BEST { 25 } else { 10 }).await?;
        let broker = if setting == NOTIFY {
            sqlx::raw_sql(ANNOUNCE).execute(&pool).await?;
            SqlxBroker::new(pool).listen_notify()
        } else {
            SqlxBroker::new(pool)
        };
        let service = RustStream::new(AppInfo::new("bench", "0.1.0"));
        let service = service.with_broker(broker, |b| match setting {
            BEST => {
                let (batch, workers): (NonZeroUsize, NonZeroUsize) = (nonzero!(100), nonzero!(24));
                b.include(noops.batch(batch).workers(workers));
            }
            _ => {
                b.include(noop);
            }
        });
        Ok(Box::pin(async move {
            Ok(service.run_until(std::future::pending()).await?)
        }))
    }

    async fn producer(url: &str, _: &str) -> Result<Self, Error> {
        Ok(Self(pool(url, 1).await?))
    }

    async fn one(&mut self, payload: Payload) -> Result<(), Error> {
        let job = BenchJob {
            id: 0,
            name: "bench".to_owned(),
            attempt: 1,
            locked_until: None,
            payload: serde_json::to_vec(&payload)?,
        };
        let mut connection = self.0.acquire().await?;
        job.insert(&mut *connection).await?;
        Ok(())
    }

    async fn many(&mut self, payloads: Vec<Payload>) -> Result<(), Error> {
        inbox::insert_many(&self.0, &payloads).await
    }
}

fn main() -> ExitCode {
    leg::run::<Ruststream>()
}
