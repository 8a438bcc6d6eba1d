//! The leg of riverqueue.

use std::process::ExitCode;
use std::time::Duration;

use leg::{Description, Error, Payload, Peer, Setting, Work};
use riverqueue::migrate::PostgresMigrator;
use riverqueue::sqlx::PgPool;
use riverqueue::sqlx::postgres::PgPoolOptions;
use riverqueue::{BoxError, Client, Job, JobArgs, QueueConfig, WorkContext, WorkOutcome, Workers};
use serde::{Deserialize, Serialize};

const BEST: &str = "best";
const QUICK: &str = "quick";

struct River(Client);

#[derive(Clone, Debug, Deserialize, JobArgs, Serialize)]
#[river(kind = "noop")]
struct Noop {
    #[serde(flatten)]
    payload: Payload,
}

async fn noop(_: WorkContext, _: Job<Noop>) -> Result<WorkOutcome, BoxError> {
    leg::handled();
    Ok(WorkOutcome::Complete)
}

impl Peer for River {
    fn description() -> Description {
        Description {
            package: Some("riverqueue".to_owned()),
            version: None,
            fenced: "no: a job is completed by its id while it is running".to_owned(),
            left: "select count(*) from river_job where state <> 'completed'".to_owned(),
            settings: vec![
                Setting::new("default", "as its README: QueueConfig::new(10), pool 10")
                    .drain_at_most(300)
                    .one_process(),
                Setting::new(BEST, "5000 workers, fetch cooldown 1 ms, pool 10")
                    .no_enqueue()
                    .no_latency(),
                Setting::new(QUICK, "100 workers, fetch cooldown 1 ms, pool 10").only_latency(),
            ],
        }
    }

    async fn migrate(url: &str) -> Result<(), Error> {
        PostgresMigrator::new(pool(url, 1).await?)
            .migrate_up()
            .await?;
        Ok(())
    }

    async fn worker(url: &str, setting: &str) -> Result<Work, Error> {
        let mut workers = Workers::new();
        workers.add_fn(noop)?;
        let client = Client::builder(pool(url, 10).await?).workers(workers);
        let cooldown = Duration::from_millis(1);
        let client = match setting {
            BEST => client
                .fetch_cooldown(cooldown)
                .queue("default", QueueConfig::new(5_000)),
            QUICK => client
                .fetch_cooldown(cooldown)
                .queue("default", QueueConfig::new(100)),
            _ => client.queue("default", QueueConfig::new(10)),
        };
        let client = client.build()?;
        Ok(Box::pin(async move { Ok(client.start()?.wait().await?) }))
    }

    async fn producer(url: &str, setting: &str) -> Result<Self, Error> {
        let client = Client::builder(pool(url, 1).await?);
        // A client announces at most one insert in its own cooldown.
        let client = match setting {
            QUICK => client.fetch_cooldown(Duration::from_millis(1)),
            _ => client,
        };
        Ok(Self(client.build()?))
    }

    async fn one(&mut self, payload: Payload) -> Result<(), Error> {
        self.0.insert(Noop { payload }).await?;
        Ok(())
    }

    async fn many(&mut self, payloads: Vec<Payload>) -> Result<(), Error> {
        let jobs = payloads.into_iter().map(|payload| Noop { payload });
        self.0.insert_many(jobs).await?;
        Ok(())
    }
}

async fn pool(url: &str, connections: u32) -> Result<PgPool, Error> {
    let options = PgPoolOptions::new().max_connections(connections);
    Ok(options.connect(url).await?)
}

fn main() -> ExitCode {
    leg::run::<River>()
}
