//! A Redis under test: a prefix of its own, hooks that move its time by editing scores, and removal
//! of what was written.
#![allow(dead_code, reason = "each program uses a part of it")]

#[path = "../../src/server.rs"]
pub(crate) mod server;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use outbox_core::{Cancel, Headers, LeaseToken, MessageId, Runtime, Storage};
use outbox_example_redis::RedisStorage;
use outbox_testkit::conformance::{Capability, DeadLetterState, MessageState, Report, Subject};
use outbox_tokio::TokioRuntime;
use redis::{Client, Connection, FromRedisValue, RedisResult, Script};

use server::Server;

/// Runs a test on tokio.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be started")
        .block_on(future)
}

/// Some keys of a Redis, which end with it.
pub(crate) struct RedisSubject {
    pub(crate) prefix: String,
    /// Several, so that calls at the same time come over several connections.
    storages: Vec<Arc<RedisStorage>>,
    next: AtomicUsize,
    client: Client,
    /// For the hooks. Guards a connection that is used by one of them at a time.
    connection: Mutex<Connection>,
}

impl RedisSubject {
    /// Keys on the Redis that all tests of this process share.
    pub(crate) async fn new() -> Self {
        static SHARED: OnceLock<Server> = OnceLock::new();
        let find = || Server::find().unwrap_or_else(|problem| panic!("{problem}"));
        Self::on(SHARED.get_or_init(find)).await
    }

    /// Keys on this one.
    pub(crate) async fn on(server: &Server) -> Self {
        // A token is as good a random name as any.
        let prefix = format!("outbox_test:{}:", LeaseToken::random());
        let mut storages = Vec::new();
        for _ in 0..4 {
            let storage = RedisStorage::connect(server.url(), &prefix).await;
            storages.push(Arc::new(storage.expect("the server answers")));
        }
        let client = Client::open(server.url()).expect("it was used already");
        let connection = client.get_connection().expect("the server answers");
        Self {
            prefix,
            storages,
            next: AtomicUsize::new(0),
            client,
            connection: Mutex::new(connection),
        }
    }

    /// A storage with a connection that the last call did not return.
    pub(crate) fn redis(&self) -> Arc<RedisStorage> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        Arc::clone(&self.storages[next % self.storages.len()])
    }

    /// Runs a script in which `p` is the prefix, `now` the time, and `keys` lists what begins so.
    pub(crate) fn script<T: FromRedisValue>(&self, script: &str, argument: impl ToString) -> T {
        let mut connection = self.connection.lock().expect("no hook panics");
        let answer = self.run(&mut connection, script, argument);
        answer.expect("the server answers")
    }

    fn run<T: FromRedisValue>(
        &self,
        connection: &mut Connection,
        script: &str,
        argument: impl ToString,
    ) -> RedisResult<T> {
        const BEFORE: &str = "local p, time = KEYS[1], redis.call('time')
            local now = time[1] * 1000000 + time[2]
            local function keys(name) return redis.call('keys', p .. name .. '*') end\n";
        let script = Script::new(&[BEFORE, script].concat());
        let mut call = script.key(&self.prefix);
        call.arg(argument.to_string()).invoke(connection)
    }
}

impl Drop for RedisSubject {
    fn drop(&mut self) {
        const REMOVE: &str = "for _, key in ipairs(keys('')) do redis.call('del', key) end";
        // A test may have ended the other connection, and its server with it.
        if let Ok(mut connection) = self.client.get_connection() {
            let _: RedisResult<()> = self.run(&mut connection, REMOVE, "");
        }
    }
}

#[async_trait]
impl Subject for RedisSubject {
    fn storage(&self) -> Arc<dyn Storage> {
        self.redis()
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(TokioRuntime::current())
    }

    async fn expire_leases(&self) {
        const EXPIRE: &str = "local last = now
            for _, key in ipairs(keys('leased:')) do
                local ends = redis.call('zrange', key, -1, -1, 'withscores')[2]
                last = math.max(last, ends)
            end
            for _, key in ipairs(keys('leased:')) do
                for _, id in ipairs(redis.call('zrange', key, 0, -1)) do
                    redis.call('zincrby', key, now - last, id)
                end
            end";
        self.script(EXPIRE, "")
    }

    async fn make_due(&self) {
        const MAKE_DUE: &str = "for _, key in ipairs(keys('waiting:')) do
                local later = redis.call('zrangebyscore', key, string.format('(%.0f', now), '+inf')
                for _, id in ipairs(later) do
                    redis.call('zadd', key, now, id)
                    redis.call('hset', p .. 'message:' .. id, 'due', now)
                end
            end";
        self.script(MAKE_DUE, "")
    }

    async fn state(&self, id: MessageId) -> Option<MessageState> {
        const STATE: &str = "local id = string.rep('0', 19 - #ARGV[1]) .. ARGV[1]
            local message = p .. 'message:' .. id
            if redis.call('exists', message) == 0 then return false end
            local field = function(name) return redis.call('hget', message, name) end
            local ends = redis.call('zscore', p .. 'leased:' .. field('queue'), id)
            assert((field('token') and true) == (ends and true), 'a token, or no lease')
            return { field('attempts'), field('lease_losses'), field('deliveries'),
                ends and math.max(ends - now, 0), math.max(field('due') - now, 0),
                field('last_error') }";
        let found: Option<(u16, u16, u32, Option<u64>, u64, Option<String>)> =
            self.script(STATE, id);
        let (attempts, lease_losses, deliveries, lease_left, due_in, last_error) = found?;
        Some(MessageState {
            attempts,
            lease_losses,
            deliveries,
            lease_left: lease_left.map(Duration::from_micros),
            due_in: Duration::from_micros(due_in),
            last_error,
        })
    }

    async fn dead_letters(&self) -> Vec<DeadLetterState> {
        const DEAD_LETTERS: &str = "local letters = {}
            for i, id in ipairs(redis.call('zrange', p .. 'dead', 0, -1)) do
                local letter = p .. 'dead:' .. id
                local texts = redis.call('hmget', letter, 'queue', 'kind', 'about', 'key', 'attempts',
                    'reason', 'payload', 'last_error')
                letters[i] = { id, texts }
            end
            return letters";
        type Texts = (
            String,
            String,
            String,
            Option<String>,
            u16,
            String,
            Vec<u8>,
            Option<String>,
        );
        let letters: Vec<(i64, Texts)> = self.script(DEAD_LETTERS, "");
        let letter = |(id, texts): (i64, Texts)| {
            let (queue, kind, about, key, attempts, reason, payload, error) = texts;
            let about: (String, _, _, _) = serde_json::from_str(&about).expect("it is ours");
            let (_, headers, group, tag) = about;
            DeadLetterState {
                id: MessageId(id),
                queue,
                kind,
                headers: Headers(headers),
                key,
                group,
                tag,
                attempts,
                reason,
                payload,
                error,
            }
        };
        letters.into_iter().map(letter).collect()
    }

    /// A message is never written together with data of the caller's in another database.
    fn declines(&self) -> &[Capability] {
        &[Capability::Transactions]
    }

    async fn cancel(&self, id: MessageId) -> Cancel {
        self.redis().cancel(id).await.expect("the server answers")
    }
}

/// Writes what the suite finds to the page.
pub(crate) const REPORT: &str = "cargo run -p outbox-example-redis --example redis_report";

/// What the suite finds about this storage.
pub(crate) fn report() -> Report {
    Report::run("redis", "tokio", |property| {
        block_on(async {
            property
                .check_unless_declined(&RedisSubject::new().await)
                .await
        })
    })
    .by(REPORT)
}

/// Where reports are published.
pub(crate) fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}
