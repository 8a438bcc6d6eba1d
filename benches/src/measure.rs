//! Counters and medians: what a stretch of work cost the server, and how rounds are summed up.

use outbox_testkit::postgres::TestDatabase;
use serde_json::{Value, json};
use sqlx::{PgConnection, Row};
use tokio::sync::Mutex;

use crate::Error;
use crate::server::wait_until_left;

/// Smallest, middle and largest of some rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of at least one value; of none, zeros.
    pub(crate) fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Self {
            min: sorted.first().copied().unwrap_or(0.0),
            median: percentile(&sorted, 50.0),
            max: sorted.last().copied().unwrap_or(0.0),
        }
    }

    /// For people, with so many decimals.
    pub(crate) fn line(self, decimals: usize) -> String {
        let Self { min, median, max } = self;
        format!("{median:.decimals$} (min {min:.decimals$}, max {max:.decimals$})")
    }

    pub(crate) fn json(self) -> Value {
        json!({ "min": self.min, "median": self.median, "max": self.max })
    }
}

/// The `percent`th percentile of sorted values, the nearest rank; zero of none.
pub(crate) fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

/// One kind of statement and how often it ran.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    /// Its first line: for ours, the purpose as its file states it.
    pub(crate) label: String,
    pub(crate) calls: f64,
    /// The server's time in it, in milliseconds.
    pub(crate) milliseconds: f64,
    /// Rows it returned or changed.
    rows: f64,
    /// Found in the server's memory or read into it.
    buffers: f64,
}

/// What a stretch of work cost the server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cost {
    /// Of the database, most calls first. `None` without `pg_stat_statements`.
    pub(crate) statements: Option<Vec<Statement>>,
    /// Of the whole server, commits included.
    wal_bytes: f64,
    /// Row versions that vacuum must remove.
    dead_tuples: f64,
}

impl Cost {
    /// For each of so many messages.
    pub(crate) fn per_message(&self, messages: usize) -> Value {
        let each = |total: f64| total / messages as f64;
        json!({
            "statements": self.calls().map(each),
            "server_microseconds": self.milliseconds().map(|total| each(total * 1_000.0)),
            "rows": self.rows().map(each),
            "buffers": self.buffers().map(each),
            "claim_buffers": self.claim_buffers(),
            "wal_bytes": each(self.wal_bytes),
            "dead_tuples": each(self.dead_tuples),
        })
    }

    pub(crate) const fn wal_bytes(&self) -> f64 {
        self.wal_bytes
    }

    pub(crate) fn calls(&self) -> Option<f64> {
        self.sum(|statement| statement.calls)
    }

    fn rows(&self) -> Option<f64> {
        self.sum(|statement| statement.rows)
    }

    fn milliseconds(&self) -> Option<f64> {
        self.sum(|statement| statement.milliseconds)
    }

    fn buffers(&self) -> Option<f64> {
        self.sum(|statement| statement.buffers)
    }

    /// Buffers of the claims, for each message that was leased; claims that found none included.
    pub(crate) fn claim_buffers(&self) -> Option<f64> {
        let of_claims = |of: fn(&Statement) -> f64| {
            self.sum(|statement| {
                let claims = statement.label.starts_with("Leases ");
                if claims { of(statement) } else { 0.0 }
            })
        };
        let leased = of_claims(|statement| statement.rows)?;
        Some(of_claims(|statement| statement.buffers)? / leased.max(1.0))
    }

    fn sum(&self, of: impl Fn(&Statement) -> f64) -> Option<f64> {
        Some(self.statements.as_ref()?.iter().map(of).sum())
    }

    /// For people.
    pub(crate) fn line(&self, messages: usize) -> String {
        let each = |total: f64| total / messages as f64;
        let known = |value: Option<f64>, decimals: usize| match value {
            Some(value) => format!("{:.decimals$}", each(value)),
            None => "?".to_owned(),
        };
        format!(
            "per message: {} statements, {} us in the server, {} buffers ({} in claims), {:.0} B of WAL, {:.2} dead tuples",
            known(self.calls(), 4),
            known(self.milliseconds().map(|total| total * 1_000.0), 2),
            known(self.buffers(), 1),
            known(self.claim_buffers().map(|each| each * messages as f64), 1),
            each(self.wal_bytes),
            each(self.dead_tuples),
        )
    }

    /// One line for each kind of statement.
    pub(crate) fn statement_lines(&self) -> Vec<String> {
        let all = self.statements.iter().flatten();
        all.map(|statement| {
            format!(
                "{:>7} calls, each {:>7.3} ms, {:>6.0} buffers  {}",
                statement.calls,
                statement.milliseconds / statement.calls.max(1.0),
                statement.buffers / statement.calls.max(1.0),
                statement.label
            )
        })
        .collect()
    }
}

/// Reads the server's counters, from a database of its own so that its questions are not counted.
pub(crate) struct Meter {
    connection: Mutex<PgConnection>,
    statements: bool,
    // Dropped last: dropping it ends the sessions on it.
    _database: TestDatabase,
}

impl Meter {
    pub(crate) async fn new(database: TestDatabase) -> Result<Self, Error> {
        let create = "create extension pg_stat_statements";
        let look = "select count(*) from pg_stat_statements";
        // The extension can be created without being loaded; only a look at it tells.
        let statements =
            database.execute(create).await.is_ok() && database.count(look).await.is_ok();
        Ok(Self {
            connection: Mutex::new(database.connect().await?),
            statements,
            _database: database,
        })
    }

    /// The server's version and the settings that matter most.
    pub(crate) async fn settings(&self) -> Result<String, Error> {
        let sql = "select 'PostgreSQL ' || current_setting('server_version')
             || string_agg(', ' || name || ' = ' || current_setting(name), '' order by name)
             from pg_settings
             where name in ('fsync', 'synchronous_commit', 'shared_buffers', 'autovacuum')";
        let mut connection = self.connection.lock().await;
        Ok(sqlx::query_scalar(sql).fetch_one(&mut *connection).await?)
    }

    /// Starts counting for a database.
    pub(crate) async fn start(&self, database: &TestDatabase) -> Result<Count<'_>, Error> {
        let name = database.name().to_owned();
        let mut connection = self.connection.lock().await;
        if self.statements {
            let reset =
                "select pg_stat_statements_reset(0, oid, 0) from pg_database where datname = $1";
            sqlx::query(reset)
                .bind(&name)
                .execute(&mut *connection)
                .await?;
        }
        let wal = wal_position(&mut connection).await?;
        Ok(Count {
            meter: self,
            name,
            wal,
        })
    }
}

/// A count under way.
pub(crate) struct Count<'m> {
    meter: &'m Meter,
    name: String,
    wal: f64,
}

impl Count<'_> {
    /// Reads the counters. Then waits until everybody has left the database and reads the rest,
    /// so the caller must have closed its connections.
    pub(crate) async fn finish(self, database: &TestDatabase) -> Result<Cost, Error> {
        let mut cost = self.so_far().await?;
        wait_until_left(database).await?;
        let dead =
            "select coalesce(sum(n_tup_upd + n_tup_del), 0)::bigint from pg_stat_user_tables";
        cost.dead_tuples = database.count(dead).await? as f64;
        Ok(cost)
    }

    /// Reads the counters that do not need the database to be left.
    pub(crate) async fn so_far(&self) -> Result<Cost, Error> {
        let mut connection = self.meter.connection.lock().await;
        let wal = wal_position(&mut connection).await?;
        let mut cost = Cost {
            wal_bytes: wal - self.wal,
            ..Cost::default()
        };
        if self.meter.statements {
            let sql = "select s.query, s.calls::float8 as calls, s.total_exec_time,
                 s.rows::float8 as rows,
                 (s.shared_blks_hit + s.shared_blks_read)::float8 as buffers
                 from pg_stat_statements as s join pg_database as d on d.oid = s.dbid
                 where d.datname = $1 order by s.calls desc";
            let rows = sqlx::query(sql)
                .bind(&self.name)
                .fetch_all(&mut *connection)
                .await?;
            let mut statements = Vec::new();
            for row in &rows {
                statements.push(Statement {
                    label: first_line(row.try_get("query")?),
                    calls: row.try_get("calls")?,
                    milliseconds: row.try_get("total_exec_time")?,
                    rows: row.try_get("rows")?,
                    buffers: row.try_get("buffers")?,
                });
            }
            cost.statements = Some(statements);
        }
        Ok(cost)
    }
}

async fn wal_position(connection: &mut PgConnection) -> Result<f64, Error> {
    let sql = "select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::float8";
    Ok(sqlx::query_scalar(sql).fetch_one(connection).await?)
}

fn first_line(query: &str) -> String {
    let line = query.lines().find(|line| !line.trim().is_empty());
    let words = line.unwrap_or_default().trim_start_matches("--");
    words.trim().chars().take(70).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let sorted = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(percentile(&sorted, 50.0), 2.0);
        assert_eq!(percentile(&sorted, 99.0), 4.0);
        assert_eq!(percentile(&sorted, 0.0), 1.0);
        assert_eq!(percentile(&[], 50.0), 0.0);
    }

    #[test]
    fn a_spread_does_not_depend_on_the_order() {
        let spread = Spread::of(&[3.0, 1.0, 2.0]);
        assert_eq!((spread.min, spread.median, spread.max), (1.0, 2.0, 3.0));
    }

    #[test]
    fn a_statement_is_labelled_with_its_purpose() {
        assert_eq!(
            first_line("-- Leases messages.\nupdate x"),
            "Leases messages."
        );
        assert_eq!(first_line("\n  select 1"), "select 1");
    }
}
