//! What only Redis can get wrong: ids beyond the numbers of Lua, a full memory, a server that
//! deletes keys or is a replica, lost connections, and scripts that are gone. What changes the
//! server runs on one of its own. And what the documentation says of the sources.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use futures_util::StreamExt;
use outbox_core::{
    BoxFuture, ClaimRequest, Claimed, Context, Definition, Error, ErrorKind, Handler, MessageId,
    NewMessage, Outcome, QueueLease, Renewal, Requirements, Settlement, Source, Storage, Verdict,
    timeout,
};
use outbox_testkit::conformance::Subject;
use support::server::Server;
use support::{RedisSubject, block_on};

const LEASE_TTL: Duration = Duration::from_secs(60);

fn message() -> NewMessage {
    NewMessage::new("mail", "welcome", *b"x")
}

async fn claim(storage: &dyn Storage, limit: usize) -> Result<Vec<Claimed>, Error> {
    let queues = vec![QueueLease::new("mail", LEASE_TTL)];
    let request = ClaimRequest::new(queues, limit, Source::Pending);
    Ok(storage.claim(&request).await?.messages)
}

fn renewal(held: &Claimed) -> [Renewal; 1] {
    [Renewal::new(held.held(), LEASE_TTL)]
}

/// Runs `test` on a server that ends with it.
fn on_a_server_of_its_own(test: impl AsyncFnOnce(&Server, &RedisSubject)) {
    block_on(async {
        let server = Server::throwaway().unwrap_or_else(|problem| panic!("{problem}"));
        let subject = RedisSubject::on(&server).await;
        test(&server, &subject).await;
    });
}

/// Tells the server something that no storage would.
fn tell(server: &Server, words: &str) {
    let mut words = words.split(' ');
    let mut command = redis::cmd(words.next().expect("there is a first word"));
    let client = redis::Client::open(server.url()).expect("it was used already");
    let mut connection = client.get_connection().expect("the server answers");
    let told: Result<redis::Value, _> = command
        .arg(words.collect::<Vec<_>>())
        .query(&mut connection);
    told.expect("the server does as it is told");
}

#[test]
fn ids_beyond_the_numbers_of_lua_are_exact_and_in_order() {
    block_on(async {
        let subject = RedisSubject::new().await;
        let last = i64::MAX - 4;
        let _: () = subject.script("redis.call('set', p .. 'last_id', ARGV[1])", last);
        let storage = subject.storage();
        let written = storage.enqueue(vec![message(), message(), message()]).await;
        let expected = [1, 2, 3].map(|n| Some(MessageId(last + n)));
        assert_eq!(written.expect("there are ids left"), expected);
        let held = claim(&*storage, 10).await.expect("the server answers");
        let ids: Vec<_> = held.iter().map(|claimed| Some(claimed.id)).collect();
        assert_eq!(ids, expected);
        let done = Settlement::new(held[1].held(), Verdict::Done);
        let settled = storage.settle(&[done]).await.expect("the server answers");
        assert_eq!(settled.written, [held[1].id]);
        assert!(subject.state(held[1].id).await.is_none());
        assert!(subject.state(held[2].id).await.is_some());
    });
}

#[test]
fn a_full_memory_refuses_new_messages_whole_and_lets_the_others_be_worked_off() {
    on_a_server_of_its_own(async |server, subject| {
        let storage = subject.storage();
        let written = storage.enqueue(vec![message(), message()]).await;
        written.expect("there is room");
        let running = claim(&*storage, 1)
            .await
            .expect("the server answers")
            .remove(0);
        tell(server, "CONFIG SET maxmemory 1");

        let refused = storage.enqueue(vec![message(), message()]).await;
        assert!(refused.expect_err("there is no room").is_transient());
        let claimed = claim(&*storage, 10).await.expect("a lease is no message");
        assert_eq!(claimed.len(), 1, "the refused ones are not there");
        let renewed = storage.renew(&renewal(&running)).await;
        assert_eq!(renewed.expect("it is held").renewed, [running.id]);
        let retry = Verdict::Retry {
            after: Duration::ZERO,
            error: "refused".to_owned(),
        };
        let retry = Settlement::new(running.held(), retry);
        let settled = storage.settle(&[retry]).await;
        assert_eq!(settled.expect("it is held").written, [running.id]);
        tell(server, "CONFIG SET maxmemory 0");
    });
}

#[test]
fn a_server_that_deletes_keys_is_refused_before_the_first_claim() {
    on_a_server_of_its_own(async |server, subject| {
        for (policy, refused) in [
            ("noeviction", None),
            ("volatile-lru", None),
            ("allkeys-lru", Some(ErrorKind::InvalidConfig)),
            ("allkeys-random", Some(ErrorKind::InvalidConfig)),
        ] {
            tell(server, &format!("CONFIG SET maxmemory-policy {policy}"));
            let checked = subject.storage().check().await;
            let kind = checked.err().map(|error| error.kind());
            assert_eq!(kind, refused, "{policy}");
        }
    });
}

#[test]
fn a_replica_is_a_transient_error() {
    on_a_server_of_its_own(async |server, subject| {
        // Of a primary that is not there.
        tell(server, "REPLICAOF 127.0.0.1 1");
        let storage = subject.storage();
        let error = storage.enqueue(vec![message()]).await;
        assert!(error.expect_err("it is read-only").is_transient());
        let error = claim(&*storage, 1).await.expect_err("it is read-only");
        assert!(error.is_transient(), "{error:?}");
        tell(server, "REPLICAOF NO ONE");
        assert!(claim(&*storage, 1).await.is_ok_and(|none| none.is_empty()));
    });
}

/// Repeats a call until the server answers it, as a worker does.
async fn repeated<T>(mut call: impl AsyncFnMut() -> Result<T, Error>) -> (T, usize) {
    for failures in 0..3 {
        match call().await {
            Ok(answer) => return (answer, failures),
            Err(error) => assert!(error.is_transient(), "{error:?}"),
        }
    }
    panic!("no other connection was opened");
}

#[test]
fn a_lost_connection_is_a_transient_error_and_a_later_call_has_another() {
    on_a_server_of_its_own(async |server, subject| {
        let storage = subject.redis();
        storage.enqueue(vec![message()]).await.expect("it answers");
        let held = claim(&*storage, 1).await.expect("it answers").remove(0);
        storage.renew(&renewal(&held)).await.expect("it answers");
        tell(server, "CLIENT KILL TYPE normal SKIPME yes");

        // Each has a connection of its own to lose, and to open again. A call that is made in the
        // very moment in which the client sees the end is not answered at all, and the client learns
        // nothing from it: the call after it finds the connection closed.
        let (renewed, failures) = repeated(async || storage.renew(&renewal(&held)).await).await;
        assert_eq!(renewed.renewed, [held.id]);
        assert!(failures > 0, "it was killed");
        let (claimed, failures) = repeated(async || claim(&*storage, 1).await).await;
        assert!(claimed.is_empty(), "it is held");
        assert!(failures > 0, "it was killed");
    });
}

#[test]
fn a_script_that_the_server_forgot_is_sent_again() {
    on_a_server_of_its_own(async |server, subject| {
        let storage = subject.storage();
        storage.enqueue(vec![message()]).await.expect("it answers");
        tell(server, "SCRIPT FLUSH");
        let written = storage.enqueue(vec![message()]).await;
        assert_eq!(written.expect("it answers"), [Some(MessageId(2))]);
    });
}

#[test]
fn a_listener_that_was_cut_off_listens_again_and_gives_a_hint() {
    on_a_server_of_its_own(async |server, subject| {
        let runtime = subject.runtime();
        let queues = vec![Arc::from("mail")];
        let mut hints = subject.storage().wake_ups(queues, subject.runtime());
        let mut hint = async || timeout(&*runtime, LEASE_TTL, hints.next()).await;
        assert_eq!(hint().await, Some(Some(())), "it listens");
        tell(server, "CLIENT KILL TYPE pubsub");
        assert_eq!(hint().await, Some(Some(())), "it listens again");
    });
}

/// Takes longer than its lease.
struct Slow;

impl Handler for Slow {
    fn definition() -> Definition {
        Definition::new("slow", "mail")
            .kinds(vec!["welcome".into()])
            .lease_ttl(Duration::from_secs(2))
    }
    fn requires(_: &mut Requirements) {}
    fn call(context: Context) -> BoxFuture<'static, Outcome> {
        Box::pin(async move {
            context.runtime().sleep(Duration::from_secs(3)).await;
            Outcome::Done
        })
    }
}

/// The heartbeat of the first worker takes the connection of the renewals with it when it ends.
#[test]
fn workers_one_after_the_other_keep_their_leases() {
    block_on(async {
        let subject = RedisSubject::new().await;
        let storage = subject.redis();
        for _ in 0..2 {
            let written = storage.enqueue(vec![message()]).await;
            written.expect("the server answers");
            let worker = outbox_tokio::shared_worker(Arc::clone(&storage) as Arc<dyn Storage>);
            let report = worker.register::<Slow>().run_until_idle(Duration::ZERO);
            let report = report.await.expect("it is configured");
            assert_eq!((report.done, report.lease_lost, report.claimed), (1, 0, 1));
        }
    });
}

/// A file of this package, or of the repository.
fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn scripts() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let files = fs::read_dir(folder).expect("the scripts are there");
    let text = |file: io::Result<fs::DirEntry>| fs::read_to_string(file?.path());
    let texts: io::Result<Vec<_>> = files.map(text).collect();
    texts.expect("the scripts can be read")
}

#[test]
fn the_storage_is_as_short_as_its_page_says() {
    let is_code = |line: &&str| {
        let line = line.trim_start();
        !line.is_empty() && !line.starts_with("//") && !line.starts_with("--")
    };
    let code = |text: &String| text.lines().filter(is_code).count();
    let rust = code(&read("src/lib.rs"));
    let lua: usize = scripts().iter().map(code).sum();
    assert!(rust + lua < 400, "{rust} lines of Rust and {lua} of Lua");
    let said = format!("{rust} lines of Rust and {lua} of Lua");
    let page = read("../../docs/custom-storage.md");
    assert!(page.contains(&said), "docs/custom-storage.md: {said}");
}

#[test]
fn what_the_page_shows_of_the_scripts_is_in_them() {
    let page = read("../../docs/custom-storage.md");
    let shown: Vec<_> = page.split("```lua\n").skip(1).collect();
    assert!(shown.len() > 1, "nothing is shown");
    for shown in shown {
        let (shown, _) = shown.split_once("```").expect("the block ends");
        let known = scripts().iter().any(|script| script.contains(shown));
        assert!(known, "no script says so:\n{shown}");
    }
}
