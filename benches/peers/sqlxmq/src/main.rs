//! The leg of sqlxmq.

use std::error::Error as StdError;
use std::path::Path;
use std::process::ExitCode;

use leg::{Description, Error, Payload, Peer, Setting, Work};
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use sqlx::postgres::PgPoolOptions;
use sqlxmq::{CurrentJob, JobRegistry, job};

const BEST: &str = "best";

struct Sqlxmq(PgPool);

#[job(channel_name = "bench")]
async fn noop(mut job: CurrentJob) -> Result<(), Box<dyn StdError + Send + Sync + 'static>> {
    let _: Option<Payload> = job.json()?;
    leg::handled();
    job.complete().await?;
    Ok(())
}

impl Peer for Sqlxmq {
    fn description() -> Description {
        Description {
            package: Some("sqlxmq".to_owned()),
            version: None,
            fenced: "no: a job is completed by its id".to_owned(),
            // It keeps a row of its own.
            left: "select count(*) from mq_msgs where id <> uuid_nil()".to_owned(),
            settings: vec![
                Setting::new("default", "set_concurrency(10, 20), pool 10")
                    .drain_at_most(15_000)
                    .one_process(),
                Setting::new(BEST, "set_concurrency(50, 100), pool 24")
                    .drain_at_most(15_000)
                    .no_enqueue(),
            ],
        }
    }

    async fn migrate(url: &str) -> Result<(), Error> {
        let pool = pool(url, 1).await?;
        // Its users copy these files.
        let migrations = Migrator::new(Path::new(env!("SQLXMQ_MIGRATIONS"))).await?;
        Ok(migrations.run(&pool).await?)
    }

    async fn worker(url: &str, setting: &str) -> Result<Work, Error> {
        let (least, most, connections) = match setting {
            BEST => (50, 100, 24),
            _ => (10, 20, 10),
        };
        let pool = pool(url, connections).await?;
        Ok(Box::pin(async move {
            let mut runner = JobRegistry::new(&[noop]).runner(&pool);
            let _running = runner.set_concurrency(least, most).run().await?;
            std::future::pending().await
        }))
    }

    async fn producer(url: &str, _: &str) -> Result<Self, Error> {
        Ok(Self(pool(url, 1).await?))
    }

    async fn one(&mut self, payload: Payload) -> Result<(), Error> {
        noop.builder().set_json(&payload)?.spawn(&self.0).await?;
        Ok(())
    }

    async fn many(&mut self, payloads: Vec<Payload>) -> Result<(), Error> {
        let mut transaction = self.0.begin().await?;
        for payload in payloads {
            let mut job = noop.builder();
            job.set_json(&payload)?.spawn(&mut *transaction).await?;
        }
        Ok(transaction.commit().await?)
    }
}

async fn pool(url: &str, connections: u32) -> Result<PgPool, Error> {
    let options = PgPoolOptions::new().max_connections(connections);
    Ok(options.connect(url).await?)
}

fn main() -> ExitCode {
    leg::run::<Sqlxmq>()
}
