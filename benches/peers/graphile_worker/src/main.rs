//! The leg of graphile_worker.

use std::process::ExitCode;
use std::time::Duration;

use graphile_worker::{
    IntoTaskHandlerResult, JobSpec, LocalQueueConfig, RawJobSpec, TaskHandler, WorkerContext,
    WorkerOptions, WorkerUtils,
};
use leg::{Description, Error, Payload, Peer, Setting, Work};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

const SCHEMA: &str = "graphile_worker";
const OWN: &str = "own bench";
const BEST: &str = "best";

struct GraphileWorker(WorkerUtils);

#[derive(Serialize, Deserialize)]
struct Noop(Payload);

impl TaskHandler for Noop {
    const IDENTIFIER: &'static str = "noop";

    async fn run(self, _: WorkerContext) -> impl IntoTaskHandlerResult {
        leg::handled();
        Ok::<(), String>(())
    }
}

impl Peer for GraphileWorker {
    fn description() -> Description {
        Description {
            package: Some("graphile_worker".to_owned()),
            version: None,
            fenced: "no: a job is completed by its id".to_owned(),
            left: "select count(*) from graphile_worker._private_jobs".to_owned(),
            settings: vec![
                Setting::new("default", "concurrency 24, pool 25, no local queue")
                    .drain_at_most(200)
                    .one_process()
                    .no_latency(),
                Setting::new(
                    BEST,
                    "concurrency 24, pool 25, local queue 500, complete batch delay 1 ms",
                ),
                Setting::new(
                    OWN,
                    "as its benches/perf_test.rs: concurrency 500, pool 100, poll 5 ms, local queue 5000, \
                     complete batch delay 5 ms",
                )
                .one_process()
                .no_enqueue()
                .no_latency(),
            ],
        }
    }

    async fn migrate(url: &str) -> Result<(), Error> {
        Ok(utils(&pool(url, 1).await?).migrate().await?)
    }

    async fn worker(url: &str, setting: &str) -> Result<Work, Error> {
        let connections = if setting == OWN { 100 } else { 25 };
        let options = WorkerOptions::default()
            .pg_pool(pool(url, connections).await?)
            .schema(SCHEMA)
            .listen_os_shutdown_signals(false)
            .define_job::<Noop>();
        let options = match setting {
            OWN => options
                .concurrency(500)
                .poll_interval(Duration::from_millis(5))
                .complete_job_batch_delay(Duration::from_millis(5))
                .local_queue(LocalQueueConfig::default().with_size(5_000)),
            BEST => options
                .concurrency(24)
                .complete_job_batch_delay(Duration::from_millis(1))
                .local_queue(LocalQueueConfig::default().with_size(500)),
            _ => options.concurrency(24),
        };
        let worker = options.init().await?;
        Ok(Box::pin(async move { Ok(worker.run().await?) }))
    }

    async fn producer(url: &str, _: &str) -> Result<Self, Error> {
        Ok(Self(utils(&pool(url, 1).await?)))
    }

    async fn one(&mut self, payload: Payload) -> Result<(), Error> {
        self.0.add_job(Noop(payload), JobSpec::default()).await?;
        Ok(())
    }

    async fn many(&mut self, payloads: Vec<Payload>) -> Result<(), Error> {
        let jobs = payloads
            .into_iter()
            .map(|payload| {
                Ok(RawJobSpec {
                    identifier: Noop::IDENTIFIER.to_owned(),
                    payload: serde_json::to_value(payload)?,
                    spec: JobSpec::default(),
                })
            })
            .collect::<Result<Vec<_>, Error>>()?;
        self.0.add_raw_jobs(&jobs).await?;
        Ok(())
    }
}

async fn pool(url: &str, connections: u32) -> Result<PgPool, Error> {
    let options = PgPoolOptions::new().max_connections(connections);
    Ok(options.connect(url).await?)
}

fn utils(pool: &PgPool) -> WorkerUtils {
    WorkerUtils::new(pool.clone(), SCHEMA)
}

fn main() -> ExitCode {
    leg::run::<GraphileWorker>()
}
