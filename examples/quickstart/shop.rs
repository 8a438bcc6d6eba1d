//! Each account is written together with two messages, in one transaction; some transactions roll
//! back. A worker then delivers the messages, retries what fails at first, and gives up on what
//! cannot succeed. At the end the tables must agree with each other and with the worker's counts.
#![allow(clippy::print_stdout, reason = "an example shows what it did")]

use std::error::Error;
use std::time::Duration;

use outbox::prelude::*;
use serde::{Deserialize, Serialize};

use super::{BEGIN, DEAD_LETTERS, Database, MESSAGES, Outbox, Pool, Storage};

const ACCOUNTS: i64 = 500;
const RETRY: RetryPolicy =
    RetryPolicy::exponential(Duration::from_millis(50), Duration::from_millis(500));

#[derive(Serialize, Deserialize)]
struct NewUser {
    account: i64,
}

/// A job: a function as a unit of work. To enqueue it is to call it later.
#[job(queue = "mail", max_attempts = 3, retry = RETRY)]
async fn welcome(
    user: NewUser,
    id: MessageId,
    attempt: Attempt,
    Data(pool): Data<Pool>,
) -> outbox::Result {
    match user.account {
        n if n % 50 == 3 => Err(Failure::dead("there is no such mailbox")),
        n if n % 100 == 42 => Err(Failure::retry("the mail server is down, as always")),
        n if n % 7 == 1 && attempt.number == 1 => Err(Failure::retry("the mail server is busy")),
        _ => deliver(&pool, id, attempt).await,
    }
}

/// An event: it says what happened, and knows nothing of those who listen.
#[derive(Serialize, Deserialize, Message)]
#[message(kind = "account.opened", queue = "accounts", key = self.account)]
struct AccountOpened {
    account: i64,
}

/// A subscriber: listens to a queue for one type of event.
#[subscriber(queue = "accounts", retry = RETRY)]
async fn audit(
    event: AccountOpened,
    id: MessageId,
    attempt: Attempt,
    Data(pool): Data<Pool>,
) -> outbox::Result {
    deliver(&pool, id, attempt).await?;
    if event.account % 11 == 5 && attempt.number == 1 {
        return Err(Failure::retry("failed with the work already done"));
    }
    Ok(())
}

/// The work of both. A message can run again after its work was done, so the work is keyed by the
/// message: doing it twice leaves one row.
async fn deliver(pool: &Pool, id: MessageId, attempt: Attempt) -> outbox::Result {
    sqlx::query(
        "insert into delivery (message_id, attempts) values ($1, $2)
         on conflict (message_id) do update set attempts = excluded.attempts",
    )
    .bind(id.0)
    .bind(i32::from(attempt.number))
    .execute(pool)
    .await?;
    Ok(())
}

pub(crate) async fn run(database: Database) -> Result<(), Box<dyn Error>> {
    let pool = database.pool(10).await?;
    let tables = "create table account (id bigint primary key);
        create table delivery (message_id bigint primary key, attempts integer)";
    database.execute(tables).await?;
    let storage = Storage::connect(&database.url()).await?;
    storage.migrate().await?;

    // The producer writes where you write: in your transaction.
    let outbox = Outbox::new();
    let (mut enqueued, mut rolled_back) = (0, 0);
    for account in 1..=ACCOUNTS {
        let mut tx = pool.begin_with(BEGIN).await?;
        sqlx::query("insert into account values ($1)")
            .bind(account)
            .execute(&mut *tx)
            .await?;
        let greeting = welcome::job(NewUser { account });
        outbox.enqueue(&mut tx, greeting).await?;
        outbox.enqueue(&mut tx, AccountOpened { account }).await?;
        enqueued += 2;
        if account % 10 == 0 {
            tx.rollback().await?;
            rolled_back += 2;
        } else {
            tx.commit().await?;
        }
    }
    let rows = async |of: &str| database.count(&format!("select count(*) from {of}")).await;
    let waiting = rows(MESSAGES).await?;

    let report = outbox::tokio::worker(storage)
        .data(pool)
        .register::<welcome>()
        .register::<audit>()
        .run_until_idle(Duration::from_secs(1))
        .await?;

    // What the tables say, which is what counts.
    let accounts = rows("account").await?;
    let delivered = rows("delivery").await?;
    let dead = rows(DEAD_LETTERS).await?;
    let left = rows(MESSAGES).await?;
    let retried = format!(
        "select sum(attempts - 1) from
         (select attempts from delivery union all select attempts from {DEAD_LETTERS}) run"
    );
    let retried = database.count(&retried).await?;

    println!("enqueued    {enqueued:>5}  a job and an event with each of {ACCOUNTS} accounts");
    println!("rolled back {rolled_back:>5}  with their accounts: {accounts} accounts remain");
    println!("delivered   {delivered:>5}");
    println!("retried     {retried:>5}  attempts that failed and ran again");
    println!("dead        {dead:>5}  given up, kept in {DEAD_LETTERS}");
    check("rolled back + waiting", rolled_back + waiting, enqueued)?;
    check("two for each account", accounts * 2, waiting)?;
    check("delivered + dead + left", delivered + dead + left, waiting)?;
    check("left", left, 0)?;
    check("done, by the worker", report.done, delivered)?;
    check("dead, by the worker", report.dead, dead)?;
    check("retried, by the worker", report.retried, retried)?;
    println!("it adds up: {rolled_back} + {delivered} + {dead} = {enqueued}, nothing is left");
    Ok(())
}

fn check(what: &str, found: impl Into<i128>, expected: impl Into<i128>) -> Result<(), String> {
    match (found.into(), expected.into()) {
        (found, expected) if found == expected => Ok(()),
        (found, expected) => Err(format!("{what} is {found}, not {expected}")),
    }
}
