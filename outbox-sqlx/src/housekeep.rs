//! The vacuum of a worker: autovacuum looks once a minute, in which a busy worker leaves millions of
//! dead rows. When it is worth it is decided in `house.rs`, without asking the database.

use std::time::{Duration, Instant};

use outbox_core::{Error, Housekeeping};
use sqlx::{PgConnection, Row};

use crate::codec::interval;
use crate::error::storage_error;
use crate::house::are_many;
use crate::storage::Inner;

/// A table that somebody vacuumed so short a time ago is left alone: less than the five seconds after
/// which the next call comes.
const RECENTLY: Duration = Duration::from_secs(4);
/// The same where many rows died since.
const JUST_NOW: Duration = Duration::from_millis(500);

/// Vacuums the messages if that is worth it, on a connection of its own: opened for it and closed
/// after it, so that a worker which never needs it has none.
pub(crate) async fn housekeep(inner: &Inner) -> Result<Housekeeping, Error> {
    let Some(dead) = inner.house.worth(Instant::now()) else {
        return Ok(Housekeeping::NotNeeded);
    };
    let mut connection = inner.vacuum.connect("housekeep").await?;
    let within = if are_many(dead) { JUST_NOW } else { RECENTLY };
    let found = look(inner, &mut connection, within).await?;
    inner.house.looked(found.live);
    if !found.permitted {
        return Ok(Housekeeping::NotPermitted {
            advice: advice(inner),
        });
    }
    if !found.free {
        inner.house.tidied(dead);
        return Ok(Housekeeping::Elsewhere);
    }
    if found.recent {
        inner.house.tidied(dead);
        return Ok(Housekeeping::NotNeeded);
    }
    // Now that it is known how many messages there are.
    if inner.house.worth(Instant::now()).is_none() {
        return Ok(Housekeeping::NotNeeded);
    }
    let begun = Instant::now();
    vacuum(inner, &mut connection).await?;
    let took = begun.elapsed();
    let left = look(inner, &mut connection, within).await?;
    inner.house.tidied(dead);
    if !left.recent {
        // Somebody else has the table locked, as autovacuum does: then it was skipped.
        return Ok(Housekeeping::Elsewhere);
    }
    inner.house.vacuumed(dead, left.dead, took, Instant::now());
    Ok(Housekeeping::Done {
        took,
        left: left.dead,
    })
}

struct Found {
    permitted: bool,
    free: bool,
    /// Vacuumed within the time that was asked for.
    recent: bool,
    live: u64,
    dead: u64,
}

async fn look(
    inner: &Inner,
    connection: &mut PgConnection,
    within: Duration,
) -> Result<Found, Error> {
    let right = format!("outbox housekeeping {}", inner.schema.as_str());
    let row = sqlx::query(inner.statements.housekeeping.clone())
        .bind(right)
        .bind(interval(within))
        .fetch_one(connection)
        .await;
    let found = row.and_then(|row| {
        let number = |column| {
            let number: i64 = row.try_get(column)?;
            Ok::<_, sqlx::Error>(u64::try_from(number).unwrap_or(0))
        };
        Ok(Found {
            permitted: row.try_get("permitted")?,
            free: row.try_get("free")?,
            recent: row.try_get("recent")?,
            live: number("live")?,
            dead: number("dead")?,
        })
    });
    found.map_err(|error| storage_error("housekeep", error))
}

async fn vacuum(inner: &Inner, connection: &mut PgConnection) -> Result<(), Error> {
    // Where the server refuses, a vacuum whose caller is gone goes on to its end, and does no harm.
    let noticed = sqlx::raw_sql(inner.statements.notice_disconnects.clone());
    if let Err(error) = noticed.execute(&mut *connection).await {
        tracing::debug!(%error, "the server does not notice disconnects");
    }
    sqlx::raw_sql(inner.statements.vacuum.clone())
        .execute(connection)
        .await
        .map_err(|error| storage_error("housekeep", error))?;
    Ok(())
}

fn advice(inner: &Inner) -> String {
    let schema = inner.schema.as_str();
    format!(
        "let workers log in as a role that owns {schema}.message, or from Postgres 17 on grant maintain \
         on it to theirs; otherwise set autovacuum_naptime = 5s, or busy queues get slower"
    )
}
