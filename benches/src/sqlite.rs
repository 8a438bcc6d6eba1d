//! SQLite: the files of the rounds, and the settings of the connections to them. The limit on them
//! is in `bare`.

pub(crate) mod bare;

use outbox::sqlite::SqliteStorage;
use outbox_testkit::sqlite::TestFile;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, SqliteConnection};

use crate::Error;
use crate::server::{KIND, PAYLOAD_BYTES, QUEUE};

/// A new file with an empty outbox.
pub(crate) async fn file() -> Result<TestFile, Error> {
    let file = TestFile::new()?;
    SqliteStorage::connect(&file.url()).await?.migrate().await?;
    Ok(file)
}

/// A new file with so many due messages, and an empty log.
pub(crate) async fn filled(messages: usize) -> Result<TestFile, Error> {
    let file = file().await?;
    let insert = format!(
        "with recursive series (number) as (
             select 1 union all select number + 1 from series where number < {messages}
         )
         insert into outbox_message (queue, kind, payload, content_type)
         select '{QUEUE}', '{KIND}', cast(printf('%.*c', {PAYLOAD_BYTES}, 'x') as blob),
             'application/octet-stream'
         from series"
    );
    file.execute(&insert).await?;
    file.execute("pragma wal_checkpoint(truncate)").await?;
    Ok(file)
}

pub(crate) async fn left(file: &TestFile) -> Result<usize, Error> {
    let left = file.count("select count(*) from outbox_message").await?;
    Ok(usize::try_from(left)?)
}

/// What a commit survives.
#[derive(Clone, Copy)]
pub(crate) enum Commits {
    /// A loss of power: the commits of a program that enqueues, and SQLite's default.
    Durable,
    /// The end of the process: claims and settles, as the storage makes them.
    Relaxed,
}

impl Commits {
    const fn synchronous(self) -> SqliteSynchronous {
        match self {
            Self::Durable => SqliteSynchronous::Full,
            Self::Relaxed => SqliteSynchronous::Normal,
        }
    }
}

/// Connects as a careful program would.
pub(crate) async fn connect(file: &TestFile, commits: Commits) -> Result<SqliteConnection, Error> {
    let options: SqliteConnectOptions = file.url().parse()?;
    let options = options
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(commits.synchronous())
        // With fewer than a batch has, SQLite's thread waits in its middle for the rows to be read.
        .row_buffer_size(1_024);
    Ok(options.connect().await?)
}

/// What the figures depend on, as the connections themselves say it.
pub(crate) async fn description() -> Result<String, Error> {
    let file = file().await?;
    let mut worker = connect(&file, Commits::Relaxed).await?;
    let mut producer = connect(&file, Commits::Durable).await?;
    let ask = async |connection: &mut SqliteConnection, sql: &'static str| {
        let answer = sqlx::query_scalar(AssertSqlSafe(sql));
        let answer: String = answer.fetch_one(connection).await?;
        Ok::<_, Error>(answer)
    };
    let version = ask(&mut worker, "select sqlite_version()").await?;
    let journal = ask(&mut worker, "select journal_mode from pragma_journal_mode").await?;
    let synchronous = "select case synchronous when 1 then 'normal' when 2 then 'full'
             else 'neither full nor normal' end from pragma_synchronous";
    let relaxed = ask(&mut worker, synchronous).await?;
    let durable = ask(&mut producer, synchronous).await?;
    let cores = std::thread::available_parallelism()?;
    Ok(format!(
        "SQLite {version}, {cores} cores, a file in {}, journal_mode = {journal}, on both sides \
         synchronous = {relaxed} for claims and settles, {durable} for enqueues",
        std::env::temp_dir().display()
    ))
}
