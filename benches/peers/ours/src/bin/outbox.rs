//! The leg of outbox: its public interface as a user's program has it.

use std::process::ExitCode;

use leg::{Description, Error, Payload, Peer, Setting, Work};
use outbox::postgres::{PgOutbox, PgStorage, WakeUps};
use sqlx::{Connection as _, PgConnection};

const TUNED: &str = "tuned";
const QUIET: &str = "no wake-ups";

struct Outbox {
    connection: PgConnection,
    producer: PgOutbox,
}

#[outbox::job(queue = "bench")]
async fn noop(_: Payload) -> outbox::Result {
    leg::handled();
    Ok(())
}

impl Peer for Outbox {
    fn description() -> Description {
        Description {
            package: None,
            version: Some("this checkout".to_owned()),
            fenced: "yes: a random token for each claim".to_owned(),
            left: "select count(*) from outbox.message".to_owned(),
            settings: vec![
                Setting::new("default", "nothing is set"),
                Setting::new(TUNED, "concurrency 500, prefetch 4000")
                    .no_enqueue()
                    .no_latency(),
                Setting::new(QUIET, "WakeUps::Off").only_enqueue(),
            ],
        }
    }

    async fn migrate(url: &str) -> Result<(), Error> {
        Ok(PgStorage::connect(url).await?.migrate().await?)
    }

    async fn worker(url: &str, setting: &str) -> Result<Work, Error> {
        let worker = outbox::tokio::worker(PgStorage::connect(url).await?).register::<noop>();
        let worker = match setting {
            TUNED => worker.concurrency(500).prefetch(4_000),
            _ => worker,
        };
        let worker = worker.prepare()?;
        Ok(Box::pin(async move {
            worker.run_until(std::future::pending()).await?;
            Ok(())
        }))
    }

    async fn producer(url: &str, setting: &str) -> Result<Self, Error> {
        let wake_ups = match setting {
            QUIET => WakeUps::Off,
            _ => WakeUps::default(),
        };
        Ok(Self {
            connection: PgConnection::connect(url).await?,
            producer: PgOutbox::new().wake_ups(wake_ups),
        })
    }

    async fn one(&mut self, payload: Payload) -> Result<(), Error> {
        let job = noop::job(payload);
        self.producer.enqueue(&mut self.connection, job).await?;
        Ok(())
    }

    async fn many(&mut self, payloads: Vec<Payload>) -> Result<(), Error> {
        let jobs = payloads.into_iter().map(noop::job);
        let mut transaction = self.connection.begin().await?;
        self.producer.enqueue_many(&mut transaction, jobs).await?;
        transaction.commit().await?;
        Ok(())
    }
}

fn main() -> ExitCode {
    leg::run::<Outbox>()
}
