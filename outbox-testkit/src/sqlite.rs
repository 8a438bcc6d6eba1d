//! A SQLite file for tests and examples: empty, in a folder of its own, and gone with the value.

use std::path::{Path, PathBuf};

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, SqliteConnection};
use tempfile::TempDir;

/// A file of its own. Dropping it deletes the folder, whoever has the file open.
#[derive(Debug)]
pub struct TestFile {
    folder: TempDir,
    path: PathBuf,
}

impl TestFile {
    /// Makes a folder for a file that does not exist yet: the first connection makes it.
    ///
    /// # Errors
    /// The system has no place for temporary files.
    pub fn new() -> std::io::Result<Self> {
        let folder = TempDir::with_prefix("outbox-")?;
        let path = folder.path().join("test.db");
        Ok(Self { folder, path })
    }

    /// The folder, which holds the file and what SQLite keeps beside it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The file as a URL, by which it is made if it is missing.
    #[must_use]
    pub fn url(&self) -> String {
        format!("sqlite://{}?mode=rwc", self.path.display())
    }

    /// The settings of a connection as a caller should have them: they make the file if it is
    /// missing, and give it a write-ahead log. No commit waits for the disk: that is for a loss of
    /// power, which no temporary file outlives, and would make tests depend on the disk.
    #[must_use]
    pub fn options(&self) -> SqliteConnectOptions {
        SqliteConnectOptions::new()
            .filename(&self.path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .disable_statement_logging()
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// An error of SQLite.
    pub async fn connect(&self) -> Result<SqliteConnection, sqlx::Error> {
        SqliteConnection::connect_with(&self.options()).await
    }

    /// Opens a pool.
    ///
    /// # Errors
    /// An error of SQLite.
    pub async fn pool(&self, connections: u32) -> Result<SqlitePool, sqlx::Error> {
        SqlitePoolOptions::new()
            .max_connections(connections)
            .connect_with(self.options())
            .await
    }

    /// Runs statements on a connection of their own.
    ///
    /// # Errors
    /// An error of SQLite.
    pub async fn execute(&self, sql: &str) -> Result<(), sqlx::Error> {
        let mut connection = self.connect().await?;
        let statements = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        statements.execute(&mut connection).await?;
        connection.close().await
    }

    /// Reads one number on a connection of its own.
    ///
    /// # Errors
    /// An error of SQLite.
    pub async fn count(&self, sql: &str) -> Result<i64, sqlx::Error> {
        let mut connection = self.connect().await?;
        let number = sqlx::query_scalar(AssertSqlSafe(sql.to_owned()));
        let number = number.fetch_one(&mut connection).await?;
        connection.close().await?;
        Ok(number)
    }
}
