//! Connecting where that cannot work: which error it is, what it advises, and what it keeps to
//! itself.
#![allow(clippy::unwrap_used)]

mod support;

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use outbox_core::{Error, ErrorKind, Storage};
use outbox_sqlx::PgStorage;
use support::{database, number};

/// Every text of an error, its causes included.
fn whole(error: &Error) -> String {
    format!("{error} {error:?}")
}

#[tokio::test]
async fn an_unreachable_server_is_transient() {
    // A port is closed once its listener is dropped.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let url = format!("postgres://nobody@127.0.0.1:{port}/nothing");
    let error = PgStorage::connect(&url).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    let prepared = PgStorage::options().prepare(url.parse().unwrap()).unwrap();
    assert!(prepared.check().await.unwrap_err().is_transient());
}

#[tokio::test]
async fn a_url_that_cannot_be_read_is_answered_with_one_that_can() {
    for url in [
        "not a url",
        "secret",
        "",
        "user:secret@host/shop",
        "postgres://user:secret@host:port/shop",
        "postgres://user:se#cret@host/shop",
        "postgres://host/shop?password=secret&sslmode=perhaps",
        "postgres://host/shop?password=secret&port=many",
    ] {
        let error = PgStorage::connect(url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{url}");
        assert_eq!(error.message(), "the URL of the database cannot be read");
        let example = "postgres://user:password@host/database";
        assert!(error.advice().contains(example), "{error}");
        let whole = whole(&error);
        assert!(
            !whole.contains("secret") && !whole.contains("cret@"),
            "{whole}"
        );
    }
}

#[tokio::test]
async fn a_url_of_another_database_system_is_refused() {
    for url in [
        "mysql://root:secret@host/shop",
        "http://host",
        "sqlite://shop.db",
    ] {
        let error = PgStorage::connect(url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{url}");
        assert!(error.advice().contains("postgres://"), "{error}");
        assert!(!whole(&error).contains("secret"), "{error}");
    }
    // Refused later, since nobody listens there: the scheme is one of ours.
    for scheme in ["postgres", "postgresql", "Postgres"] {
        let url = format!("{scheme}:///shop?host=/nowhere");
        let error = PgStorage::connect(&url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{scheme}: {error:?}");
    }
}

#[tokio::test]
async fn a_wrong_user_password_or_database_is_no_outage() {
    let database = database().await;
    let role = database.role("").await;
    let options = || database.options_of(&role);
    let mut wrong = vec![
        options().database("outbox_test_nowhere"),
        options().username("outbox_test_nobody"),
    ];
    let mut ours = database.connect().await;
    let checked = "select count(*) from pg_stat_activity where pid = pg_backend_pid()
        and exists (select from pg_hba_file_rules where auth_method = 'scram-sha-256')";
    if number(&mut ours, checked).await == 1 {
        wrong.push(options().password("secret"));
    }
    for options in wrong {
        let error = PgStorage::connect_with(options.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error:?}");
        let advice = "check the user, the password and the database of the connection settings";
        assert_eq!(error.advice(), advice);
        assert!(!whole(&error).contains("secret"), "{error:?}");
        let prepared = PgStorage::options().prepare(options).unwrap();
        let error = prepared.check().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error:?}");
    }
}

#[tokio::test]
#[cfg(not(any(
    feature = "tls-native-tls",
    feature = "tls-rustls",
    feature = "tls-rustls-aws-lc-rs",
    feature = "tls-rustls-ring-native-roots"
)))]
async fn tls_that_is_not_compiled_in_names_the_features_that_do_it() {
    let database = database().await;
    let options = database
        .options()
        .ssl_mode(sqlx::postgres::PgSslMode::Require);
    let error = PgStorage::connect_with(options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.message().contains("not compiled in"), "{error}");
    for feature in ["tls-rustls", "tls-rustls-aws-lc-rs", "tls-native-tls"] {
        assert!(error.advice().contains(feature), "{error}");
    }
}

/// Runs a future outside of every runtime.
fn outside<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        std::thread::yield_now();
    }
}

#[test]
fn connecting_outside_of_the_runtime_is_an_error_and_no_panic() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = runtime.block_on(database());
    let storage = PgStorage::options().prepare(database.options()).unwrap();
    // It works where another package of this build gave sqlx a runtime that needs no context.
    if let Err(error) = outside(storage.migrate()) {
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        for feature in ["tokio, smol and async-std", "runtime-tokio"] {
            assert!(error.advice().contains(feature), "{error}");
        }
    }
    // And the storage is as good as new.
    runtime.block_on(storage.migrate()).unwrap();
    runtime.block_on(storage.check()).unwrap();
}
