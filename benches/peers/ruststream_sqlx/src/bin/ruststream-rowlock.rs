//! The leg of ruststream-sqlx's inbox in the row lock form: a transaction stays open over the handler.

use std::num::NonZeroUsize;
use std::process::ExitCode;

use inbox::pool;
use leg::{Description, Error, Payload, Peer, Setting, Work};
use ruststream_sqlx::prelude::*;
use sqlx::PgPool;

const BEST: &str = "best";

/// As in its production guide.
const SCHEMA: &str = "
    create table bench_jobs (
        id bigserial primary key,
        name text not null,
        attempt smallint not null default 1,
        payload bytea not null
    );
    create index bench_jobs_claim on bench_jobs (name, id)";

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
            fenced: "yes: by the open transaction, at the cost of a connection and a snapshot each"
                .to_owned(),
            left: "select count(*) from bench_jobs".to_owned(),
            settings: vec![
                Setting::new("default", "as its production guide: 8 workers, pool 9")
                    .drain_at_most(15_000)
                    .one_process()
                    .no_enqueue()
                    .no_latency(),
                Setting::new(BEST, "batch 1000, 4 workers, pool 10")
                    .no_enqueue()
                    .no_latency(),
            ],
        }
    }

    async fn migrate(url: &str) -> Result<(), Error> {
        sqlx::raw_sql(SCHEMA).execute(&pool(url, 1).await?).await?;
        Ok(())
    }

    async fn worker(url: &str, setting: &str) -> Result<Work, Error> {
        let pool = pool(url, if setting == BEST { 10 } else { 9 }).await?;
        let service = RustStream::new(AppInfo::new("bench", "0.1.0"));
        let service = service.with_broker(SqlxBroker::new(pool), |b| match setting {
            BEST => {
                let (batch, workers): (NonZeroUsize, NonZeroUsize) = (nonzero!(1_000), nonzero!(4));
                b.include(noops.batch(batch).workers(workers));
            }
            _ => {
                let workers: NonZeroUsize = nonzero!(8);
                b.include(noop.workers(workers));
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
        self.many(vec![payload]).await
    }

    async fn many(&mut self, payloads: Vec<Payload>) -> Result<(), Error> {
        inbox::insert_many(&self.0, &payloads).await
    }
}

fn main() -> ExitCode {
    leg::run::<Ruststream>()
}
