//! The leg of awa, with its default engine, queue storage.

use std::process::ExitCode;
use std::time::Duration;

use awa::{
    Client, InsertOpts, InsertParams, JobArgs, JobResult, QueueConfig, QueueStorage,
    QueueStorageConfig, insert_with,
};
use leg::{Description, Error, Payload, Peer, Setting, Work};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

const QUEUE: &str = "bench";
const BEST: &str = "best";

struct Awa {
    pool: PgPool,
    storage: QueueStorage,
}

#[derive(Serialize, Deserialize, JobArgs)]
struct Noop {
    #[serde(flatten)]
    payload: Payload,
}

impl Peer for Awa {
    fn description() -> Description {
        Description {
            package: Some("awa".to_owned()),
            version: None,
            fenced: "yes: by the number of the run".to_owned(),
            left: "select count(*) from awa.jobs where state <> 'completed'".to_owned(),
            settings: vec![
                Setting::new("default", "QueueConfig::default(), pool 10")
                    .drain_at_most(20_000)
                    .one_process(),
                Setting::new(
                    BEST,
                    "1024 workers, claim batch 1000, deadline 0 (its compact path), pool 20",
                )
                .no_enqueue(),
            ],
        }
    }

    async fn migrate(url: &str) -> Result<(), Error> {
        Ok(awa::migrations::run(&pool(url, 1).await?).await?)
    }

    async fn worker(url: &str, setting: &str) -> Result<Work, Error> {
        let (connections, queue) = match setting {
            BEST => {
                let queue = QueueConfig {
                    max_workers: 1_024,
                    claim_batch_size: 1_000,
                    deadline_duration: Duration::ZERO,
                    ..QueueConfig::default()
                };
                (20, queue)
            }
            _ => (10, QueueConfig::default()),
        };
        let client = Client::builder(pool(url, connections).await?)
            .queue(QUEUE, queue)
            .register::<Noop, _, _>(|_, _| async {
                leg::handled();
                Ok(JobResult::Completed)
            })
            .build()?;
        Ok(Box::pin(async move {
            client.start().await?;
            std::future::pending().await
        }))
    }

    async fn producer(url: &str, _: &str) -> Result<Self, Error> {
        Ok(Self {
            pool: pool(url, 1).await?,
            storage: QueueStorage::new(QueueStorageConfig::default())?,
        })
    }

    async fn one(&mut self, payload: Payload) -> Result<(), Error> {
        insert_with(&self.pool, &Noop { payload }, options()).await?;
        Ok(())
    }

    async fn many(&mut self, payloads: Vec<Payload>) -> Result<(), Error> {
        let mut jobs = Vec::with_capacity(payloads.len());
        for payload in payloads {
            jobs.push(InsertParams {
                kind: Noop::kind().to_owned(),
                args: serde_json::to_value(payload)?,
                opts: options(),
            });
        }
        self.storage.enqueue_params_copy(&self.pool, &jobs).await?;
        Ok(())
    }
}

fn options() -> InsertOpts {
    InsertOpts {
        queue: QUEUE.to_owned(),
        ..InsertOpts::default()
    }
}

async fn pool(url: &str, connections: u32) -> Result<PgPool, Error> {
    let options = PgPoolOptions::new().max_connections(connections);
    Ok(options.connect(url).await?)
}

fn main() -> ExitCode {
    leg::run::<Awa>()
}
