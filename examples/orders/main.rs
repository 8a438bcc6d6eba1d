//! Ten thousand orders from a CSV file, each shipped once: `cargo run --example orders`, with
//! nothing to set up.
//!
//! 1. `place` writes the orders and their messages, a hundred of each in one transaction. Every
//!    tenth transaction breaks before its commit and is placed again.
//! 2. A worker runs `ship` for every message. Some attempts fail and are retried, some orders can
//!    never be shipped and become dead letters.
//! 3. `reconcile` compares the tables, and fails if one order or one cent is lost or counted twice.
#![allow(clippy::print_stdout, reason = "an example shows what it did")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Debug;
use std::time::Duration;

use outbox::postgres::{DeadLetterQuery, Enqueued};
use outbox::prelude::*;
use outbox_testkit::postgres::Server;
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, PgPool, PgTransaction, QueryBuilder};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/orders/orders.csv");

const RETRY: RetryPolicy =
    RetryPolicy::exponential(Duration::from_millis(50), Duration::from_secs(1));

const TABLES: &str = "
    create table product (sku text primary key, shipped bigint not null default 0);
    insert into product select 'SKU-' || to_char(n, 'FM0000') from generate_series(1, 200) n;

    create table placed_order (
        id bigint primary key,
        placed_on text not null,
        customer text not null,
        sku text not null,
        quantity integer not null,
        unit_price_cents bigint not null,
        cents bigint generated always as (quantity * unit_price_cents) stored
    );
    create table shipment (
        order_id bigint primary key references placed_order,
        quantity integer not null,
        cents bigint not null
    );";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // The server of DATABASE_URL, or a throwaway one; a new database in either case.
    let database = Server::start()?.database().await?;
    let pool = database.pool(10).await?;
    sqlx::raw_sql(TABLES).execute(&pool).await?;
    let storage = PgStorage::connect(&database.url()).await?;
    storage.migrate().await?;

    let orders: Vec<Order> = csv::Reader::from_path(FILE)?
        .deserialize()
        .collect::<Result<_, _>>()?;
    place_all(&pool, &orders).await?;

    let report = outbox::tokio::worker(storage.clone())
        .data(pool.clone())
        .register::<ship>()
        .run_until_idle(Duration::from_secs(2))
        .await?;
    println!(
        "handled   {:>6} runs: {} done, {} failed and ran again, {} gave up\n",
        report.started, report.done, report.retried, report.dead
    );

    reconcile(&pool, &storage, &orders).await
}

/// A line of the file.
#[derive(Deserialize)]
struct Order {
    id: i64,
    placed_on: String,
    customer: String,
    sku: String,
    quantity: i32,
    unit_price_cents: i64,
}

/// What others learn of an order: that it was placed. The key makes it findable, and keeps at most
/// one live message for an order.
#[derive(Serialize, Deserialize, Message)]
#[message(kind = "order.placed", queue = "orders", key = self.order_id)]
struct OrderPlaced {
    order_id: i64,
}

async fn place_all(pool: &PgPool, orders: &[Order]) -> Result<(), Box<dyn Error>> {
    let outbox = PgOutbox::new();
    let mut broken = 0;
    for (number, batch) in orders.chunks(100).enumerate() {
        if number % 10 == 0 {
            // Takes the orders and the messages with it. If a message were left, placing the
            // orders again would find its key taken.
            place(pool, &outbox, batch).await?.rollback().await?;
            broken += batch.len();
        }
        place(pool, &outbox, batch).await?.commit().await?;
    }
    println!("placed    {:>6} orders, with a message each", orders.len());
    println!("broken    {broken:>6} orders were rolled back, and placed again");
    Ok(())
}

/// Writes orders and their messages in one transaction, which the caller ends.
async fn place(
    pool: &PgPool,
    outbox: &PgOutbox,
    orders: &[Order],
) -> Result<PgTransaction<'static>, Box<dyn Error>> {
    let mut tx = pool.begin().await?;
    QueryBuilder::new(
        "insert into placed_order (id, placed_on, customer, sku, quantity, unit_price_cents) ",
    )
    .push_values(orders, |mut row, order| {
        row.push_bind(order.id)
            .push_bind(&order.placed_on)
            .push_bind(&order.customer)
            .push_bind(&order.sku)
            .push_bind(order.quantity)
            .push_bind(order.unit_price_cents);
    })
    .build()
    .execute(&mut *tx)
    .await?;
    let messages = orders
        .iter()
        .map(|order| OrderPlaced { order_id: order.id });
    let enqueued = outbox.enqueue_many(&mut tx, messages).await?;
    if enqueued.contains(&Enqueued::Duplicate) {
        return Err("a message outlived the rollback of its order".into());
    }
    Ok(tx)
}

/// Ships one order. An error with `?` is retried; `or_dead` says that no retry can help.
#[subscriber(queue = "orders", max_attempts = 4, retry = RETRY)]
async fn ship(
    OrderPlaced { order_id }: OrderPlaced,
    attempt: Attempt,
    Data(pool): Data<PgPool>,
) -> outbox::Result {
    let (sku, quantity, cents): (Option<String>, i32, i64) = sqlx::query_as(
        "select product.sku, quantity, cents
         from placed_order left join product using (sku) where id = $1",
    )
    .bind(order_id)
    .fetch_one(&*pool)
    .await?;
    let sku = sku.ok_or("this sku is not in the catalogue").or_dead()?;
    if quantity < 1 {
        return Err(Failure::dead("there is nothing to ship"));
    }
    book_carrier(order_id, attempt)?;

    // The message runs again if this process ends after the commit and before the settle. Then the
    // shipment is there already, and nothing else may change.
    let mut tx = pool.begin().await?;
    let shipment = sqlx::query("insert into shipment values ($1, $2, $3) on conflict do nothing")
        .bind(order_id)
        .bind(quantity)
        .bind(cents)
        .execute(&mut *tx)
        .await?;
    if shipment.rows_affected() == 1 {
        sqlx::query("update product set shipped = shipped + $2 where sku = $1")
            .bind(sku)
            .bind(quantity)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;

    if order_id % 97 == 0 && attempt.number == 1 {
        return Err(Failure::retry("failed with the shipment already committed"));
    }
    Ok(())
}

/// A carrier of the usual kind: mostly there, sometimes busy, closed to a few for good.
fn book_carrier(order_id: i64, attempt: Attempt) -> outbox::Result {
    if order_id % 8 == 3 && attempt.number == 1 {
        return Err(Failure::retry("the carrier is busy"));
    }
    if order_id % 500 == 250 {
        return Err(Failure::retry("the carrier does not answer"));
    }
    Ok(())
}

/// Compares what was placed with what became of it, in orders and in cents.
async fn reconcile(
    pool: &PgPool,
    storage: &PgStorage,
    orders: &[Order],
) -> Result<(), Box<dyn Error>> {
    let total = async |what: &str, of: &str| -> Result<(i64, i64), sqlx::Error> {
        let sql = format!("select count(*), coalesce(sum(cents), 0)::bigint from {of}");
        let total: (i64, i64) = sqlx::query_as(AssertSqlSafe(sql)).fetch_one(pool).await?;
        let (orders, units, cents) = (total.0, total.1 / 100, total.1 % 100);
        println!("{what:<46}{orders:>7}{units:>13}.{cents:02}");
        Ok(total)
    };
    println!("{:<46}{:>7}{:>16}", "", "orders", "money");
    let placed = total("placed", "placed_order").await?;
    let shipped = total("  shipped", "shipment").await?;
    let dead = "outbox.dead_letter left join placed_order on key = placed_order.id::text";
    let dead = total("  dead letters", dead).await?;
    let left = "outbox.message left join placed_order on key = placed_order.id::text";
    let left = total("  messages left", left).await?;
    let twice = "shipment join outbox.dead_letter on key = order_id::text";
    let twice = total("  shipped, and a dead letter too", twice).await?;

    let mut reasons = BTreeMap::<_, usize>::new();
    let query = DeadLetterQuery::all().limit(1_000);
    for letter in storage.dead_letters(&query).await? {
        let reason = (letter.reason, letter.last_error.unwrap_or_default());
        *reasons.entry(reason).or_default() += 1;
    }
    println!("\nwhy there are dead letters");
    for ((reason, error), count) in reasons {
        println!("{:<46}{count:>7}", format!("  {reason}: {error}"));
    }

    let cents = |order: &Order| i64::from(order.quantity) * order.unit_price_cents;
    let in_file = (i64::try_from(orders.len())?, orders.iter().map(cents).sum());
    check("placed orders, and the file", placed, in_file)?;
    let ended = (shipped.0 + dead.0, shipped.1 + dead.1);
    check("shipments with dead letters, and orders", ended, placed)?;
    check("messages left, and none", left, (0, 0))?;
    check("shipped and given up, and none", twice, (0, 0))?;
    let units = "select (select sum(quantity) from shipment), sum(shipped)::bigint from product";
    let (shipped, counted): (i64, i64) = sqlx::query_as(units).fetch_one(pool).await?;
    check("units of shipments, and of products", shipped, counted)?;
    println!("\nreconciled: every order and every cent is in one place");
    Ok(())
}

fn check<T: PartialEq + Debug>(what: &str, one: T, other: T) -> Result<(), String> {
    if one == other {
        return Ok(());
    }
    Err(format!("these differ: {what}: {one:?} and {other:?}"))
}
