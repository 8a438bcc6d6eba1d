//! Throwaway clusters from start to end, and what happens to servers and databases when the
//! process that made them is killed. Some tests run themselves again as a child process, told
//! so by `OUTBOX_FIXTURE_CHILD`.

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use outbox_testkit::postgres::{FixtureErrorKind, Server, ServerOptions, Shutdown, TestDatabase};
use sqlx::Connection;

const CHILD: &str = "OUTBOX_FIXTURE_CHILD";

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}

/// This test binary again, running only `test`.
fn child_of(test: &str) -> Command {
    let mut command = Command::new(env::current_exe().expect("this program"));
    command
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    command
}

fn is_child() -> bool {
    env::var_os(CHILD).is_some()
}

/// Tells the parent something.
fn tell(text: &str) {
    // The leading line break separates it from what the test harness has written.
    writeln!(std::io::stdout().lock(), "\ntold: {text}").expect("the parent reads");
}

/// Waits for what the child tells.
fn told(child: &mut Child) -> String {
    let output = child.stdout.as_mut().expect("it is piped");
    BufReader::new(output)
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("told: ").map(str::to_owned))
        .expect("the child tells something")
}

/// Stays until the parent closes the pipe or kills us.
fn stay() {
    let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
}

fn directory(database: &TestDatabase) -> PathBuf {
    let url = database.socket_url().expect("a throwaway server");
    let (_, directory) = url.rsplit_once("host=").expect("the socket's folder");
    directory.into()
}

fn port(url: &str) -> u16 {
    let (_, rest) = url.split_once("127.0.0.1:").expect("over TCP");
    let (port, _) = rest.split_once('/').expect("a database");
    port.parse().expect("a port")
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn refuses(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_err()
}

#[test]
fn a_throwaway_server_ends_with_its_last_handle() {
    let server = Server::start_throwaway(&ServerOptions::new()).expect("a server");
    assert!(server.is_throwaway());
    let database = block_on(server.database()).expect("a database");
    let (directory, port) = (directory(&database), port(&database.url()));
    drop(server);
    let over_socket = database.socket_url().expect("a throwaway server");
    block_on(async {
        sqlx::PgConnection::connect(&over_socket)
            .await
            .expect("the database keeps the server");
    });
    drop(database);
    assert!(!directory.exists());
    assert!(refuses(port));
}

#[test]
fn a_killed_process_leaves_neither_server_nor_directory() {
    if is_child() {
        let server = Server::start_throwaway(&ServerOptions::new()).expect("a server");
        let database = block_on(server.database()).expect("a database");
        let directory = directory(&database);
        tell(&format!(
            "{} {}",
            port(&database.url()),
            directory.display()
        ));
        return stay();
    }
    let mut child = child_of("a_killed_process_leaves_neither_server_nor_directory")
        .spawn()
        .expect("a child");
    let told = told(&mut child);
    let (port, directory) = told.split_once(' ').expect("both");
    let port = port.parse().expect("a port");
    assert!(Path::new(directory).exists());
    assert!(!refuses(port));

    child.kill().expect("SIGKILL");
    child.wait().expect("its end");
    wait_until("the directory is gone", || !Path::new(directory).exists());
    assert!(refuses(port));
}

#[test]
fn a_shared_server_ends_with_the_process_although_statics_are_never_dropped() {
    if is_child() {
        let database = block_on(Server::shared().database()).expect("a database");
        return tell(&directory(&database).display().to_string());
    }
    let mut child =
        child_of("a_shared_server_ends_with_the_process_although_statics_are_never_dropped")
            .env_remove("DATABASE_URL")
            .spawn()
            .expect("a child");
    let directory = PathBuf::from(told(&mut child));
    assert!(child.wait().expect("its end").success());
    wait_until("the directory is gone", || !directory.exists());
}

#[test]
fn variables_of_the_postgres_client_do_not_lead_to_another_server() {
    if is_child() {
        let server = Server::start().expect("a server");
        assert!(server.is_throwaway());
        let database = block_on(server.database()).expect("a database");
        let sql = "select count(*) from pg_stat_activity where application_name = 'outbox-testkit'";
        assert_eq!(block_on(database.count(sql)).expect("a count"), 1);
        return tell("connected");
    }
    let mut child = child_of("variables_of_the_postgres_client_do_not_lead_to_another_server")
        .env_remove("DATABASE_URL")
        .env("PGHOST", "127.0.0.1")
        .env("PGHOSTADDR", "127.0.0.1")
        .env("PGPORT", "1")
        .env("PGUSER", "nobody")
        .env("PGPASSWORD", "wrong")
        .env("PGDATABASE", "nothing")
        .env("PGSSLMODE", "require")
        .env("PGDATA", "/nonexistent")
        .spawn()
        .expect("a child");
    assert_eq!(told(&mut child), "connected");
    assert!(child.wait().expect("its end").success());
}

#[test]
fn an_unreachable_database_url_is_an_error_and_not_a_throwaway_server() {
    if is_child() {
        let error = Server::start().expect_err("nobody listens on port 1");
        assert_eq!(error.kind(), FixtureErrorKind::BadAddress);
        return tell(&error.to_string());
    }
    let mut child = child_of("an_unreachable_database_url_is_an_error_and_not_a_throwaway_server")
        .env("DATABASE_URL", "postgres://me:secret@127.0.0.1:1/mine")
        .spawn()
        .expect("a child");
    assert_eq!(
        told(&mut child),
        "cannot connect to Postgres at 127.0.0.1:1: start that server, or unset DATABASE_URL to \
         use a throwaway one"
    );
    assert!(child.wait().expect("its end").success());
}

#[test]
fn a_restart_keeps_the_address_and_what_was_committed() {
    let server = Server::start_throwaway(&ServerOptions::new()).expect("a server");
    block_on(async {
        let database = server.database().await.expect("a database");
        database
            .execute("create table orders (id int)")
            .await
            .expect("a table");
        for (how, id) in [(Shutdown::Immediate, 1), (Shutdown::Fast, 2)] {
            let mut open = database.connect().await.expect("a connection");
            let insert = format!("insert into orders values ({id})");
            database.execute(&insert).await.expect("an insert");
            server.restart(how).expect("a restart");
            assert!(open.ping().await.is_err());
            let count = database.count("select count(*) from orders").await;
            assert_eq!(count.expect("the same address"), id);
        }
        server.stop(Shutdown::Immediate).expect("a stop");
        server.stop(Shutdown::Fast).expect("nothing to stop");
        let gone = database.connect().await.expect_err("it is stopped");
        assert_eq!(gone.kind(), FixtureErrorKind::Database);
        server.start_again().expect("a start");
        server.start_again().expect("nothing to start");
        // The connection that creates databases comes back as well.
        server.database().await.expect("a database");
    });
}

#[test]
fn settings_reach_the_server_and_a_wrong_one_is_named() {
    let options = ServerOptions::new().durable().set("max_connections", "17");
    let server = Server::start_throwaway(&options).expect("a server");
    let sql = "select count(*) from pg_settings
               where (name, setting) in (('max_connections', '17'), ('fsync', 'on'))";
    let count = block_on(async {
        let database = server.database().await.expect("a database");
        database.count(sql).await.expect("a count")
    });
    assert_eq!(count, 2);

    let options = ServerOptions::new().set("no_such_setting", "1");
    let error = Server::start_throwaway(&options).expect_err("a wrong setting");
    assert_eq!(error.kind(), FixtureErrorKind::Cluster);
    let shown = format!("{error:?}");
    assert!(shown.contains("no_such_setting"), "{shown}");
    assert!(!shown.contains('\n'), "{shown}");
}

#[test]
fn a_given_server_is_neither_stopped_nor_cleared_of_what_is_in_use() {
    let host = Server::start_throwaway(&ServerOptions::new()).expect("a server");
    block_on(async {
        let home = host.database().await.expect("a database");
        let first = Server::connect(&home.url()).expect("a given server");
        let in_use = first.database().await.expect("a database");
        for name in [
            "outbox_test_00000000000000ff_1_0",
            "outbox_test_mine",
            "mine",
        ] {
            let sql = format!("create database {name}");
            home.execute(&sql).await.expect("a database");
        }

        let second = Server::connect(&home.url()).expect("a given server");
        let databases = format!(
            "select count(*) from pg_database where datname in
             ('{}', '{}', 'outbox_test_mine', 'mine')",
            in_use.name(),
            home.name()
        );
        assert_eq!(home.count(&databases).await.expect("a count"), 4);
        let left = "select count(*) from pg_database where datname like '%00ff%'";
        assert_eq!(home.count(left).await.expect("a count"), 0);

        let refused = second.restart(Shutdown::Fast).expect_err("not ours");
        assert_eq!(refused.kind(), FixtureErrorKind::Unsupported);
        assert!(!second.is_throwaway());
        assert_eq!(in_use.socket_url(), None);
    });
}

#[test]
fn databases_and_roles_of_a_killed_run_are_dropped_by_the_next() {
    if is_child() {
        let url = env::var("OUTBOX_FIXTURE_URL").expect("the parent sets it");
        let server = Server::connect(&url).expect("the parent's server");
        let database = block_on(server.database()).expect("a database");
        let role = block_on(database.role("login")).expect("a role");
        let owns = format!("create schema s authorization {role}");
        block_on(database.execute(&owns)).expect("it owns a schema");
        tell(database.name());
        return stay();
    }
    let host = Server::start_throwaway(&ServerOptions::new()).expect("a server");
    block_on(async {
        let home = host.database().await.expect("a database");
        let mut child = child_of("databases_and_roles_of_a_killed_run_are_dropped_by_the_next")
            .env("OUTBOX_FIXTURE_URL", home.url())
            .spawn()
            .expect("a child");
        let name = told(&mut child);
        let present = format!(
            "select (select count(*) from pg_database where datname = '{name}')
                 + (select count(*) from pg_roles where rolname like '{name}%')"
        );
        drop(Server::connect(&home.url()).expect("a given server"));
        assert_eq!(home.count(&present).await.expect("a count"), 2);

        child.kill().expect("SIGKILL");
        child.wait().expect("its end");
        let no_locks = "not exists (select from pg_stat_activity where application_name =
                        'outbox-testkit admin' and datname = current_database())";
        home.wait_until(no_locks).await.expect("its session ends");
        drop(Server::connect(&home.url()).expect("a given server"));
        assert_eq!(home.count(&present).await.expect("a count"), 0);
    });
}

#[test]
fn a_role_that_may_not_create_databases_is_told_what_to_grant() {
    let host = Server::start_throwaway(&ServerOptions::new()).expect("a server");
    block_on(async {
        let home = host.database().await.expect("a database");
        home.execute("create role guest login password 'guest'")
            .await
            .expect("a role");
        let place = format!("127.0.0.1:{}", port(&home.url()));
        let url = format!("postgres://guest:guest@{place}/{}", home.name());
        let guest = Server::connect(&url).expect("it may connect");
        let refused = guest.database().await.expect_err("it may not create");
        assert_eq!(
            refused.to_string(),
            "the role may not create databases: grant CREATEDB to the role of DATABASE_URL, or \
             unset it"
        );
    });
}
