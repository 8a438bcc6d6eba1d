//! The leg of apalis with apalis-postgres.

use std::process::ExitCode;

use apalis::prelude::*;
use apalis_postgres::{Config, PgPool, PostgresStorage};
use leg::{Description, Error, Payload, Peer, Setting, Work};
use sqlx::postgres::PgPoolOptions;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

const QUEUE: &str = "bench";
const BEST: &str = "best";

struct Apalis(PgPool);

async fn noop(_: Payload) -> Result<(), BoxDynError> {
    leg::handled();
    Ok(())
}

impl Peer for Apalis {
    fn description() -> Description {
        Description {
            package: Some("apalis-postgres".to_owned()),
            version: None,
            fenced: "partly: by the worker's name, which a restarted worker keeps".to_owned(),
            left: "select count(*) from apalis.jobs where status <> 'Done'".to_owned(),
            settings: vec![
                Setting::new(
                    "default",
                    "batch 10, concurrency 24, parallelize(tokio::spawn), pool 25",
                )
                .drain_at_most(10_000)
                .one_process()
                .no_latency(),
                Setting::new(
                    BEST,
                    "batch 3000, concurrency 3000, lock_tasks(false), with_pubsub(), pool 25",
                )
                .drain_at_most(50_000)
                .no_enqueue(),
            ],
        }
    }

    async fn migrate(url: &str) -> Result<(), Error> {
        Ok(PostgresStorage::setup(&pool(url, 1).await?).await?)
    }

    async fn worker(url: &str, setting: &str) -> Result<Work, Error> {
        let pool = pool(url, 25).await?;
        // Two workers of one name are one worker to it.
        let name = format!("bench-{}", std::process::id());
        let config = Config::default().queue(QUEUE);
        let storage = PostgresStorage::<Payload>::new(&pool);
        let worker = WorkerBuilder::new(name);
        // Below a `block_on`, as in its README: the compiler cannot tell that the future of a parallel
        // worker may be sent.
        if setting == BEST {
            let config = config.batch_size(3_000).lock_tasks(false);
            let worker = worker
                .backend(storage.with_config(config).with_pubsub())
                .concurrency(3_000)
                .parallelize(tokio::spawn)
                .build(noop);
            let run = move || Handle::current().block_on(worker.run());
            Ok(Box::pin(async move { Ok(spawn_blocking(run).await??) }))
        } else {
            let worker = worker
                .backend(storage.with_config(config))
                .concurrency(24)
                .parallelize(tokio::spawn)
                .build(noop);
            let run = move || Handle::current().block_on(worker.run());
            Ok(Box::pin(async move { Ok(spawn_blocking(run).await??) }))
        }
    }

    async fn producer(url: &str, _: &str) -> Result<Self, Error> {
        Ok(Self(pool(url, 1).await?))
    }

    async fn one(&mut self, payload: Payload) -> Result<(), Error> {
        self.many(vec![payload]).await
    }

    async fn many(&mut self, payloads: Vec<Payload>) -> Result<(), Error> {
        let mut tasks = Vec::with_capacity(payloads.len());
        for payload in payloads {
            tasks.push(TaskBuilder::new(serde_json::to_vec(&payload)?).build());
        }
        let mut connection = self.0.acquire().await?;
        apalis_postgres::queries::push_tasks(&mut *connection, QUEUE, tasks).await?;
        Ok(())
    }
}

async fn pool(url: &str, connections: u32) -> Result<PgPool, Error> {
    let options = PgPoolOptions::new().max_connections(connections);
    Ok(options.connect(url).await?)
}

fn main() -> ExitCode {
    leg::run::<Apalis>()
}
