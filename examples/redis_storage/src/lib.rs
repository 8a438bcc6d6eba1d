#![doc = include_str!("../README.md")]

use std::future::ready;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use futures_util::stream::{self, StreamExt};
use outbox_core::{
    BoxStream, Cancel, Claim, ClaimRequest, Claimed, DeadLettered, DeadReason, Due, Error,
    ErrorKind, Headers, Held, MAX_LEASE_LOSSES, MessageId, NewMessage, Renewal, Renewed, Runtime,
    Settled, Settlement, Source, Storage, Verdict, timeout,
};
use redis::aio::{ConnectionManager, ConnectionManagerConfig, PubSubStream};
use redis::{Client, FromRedisValue, IntoConnectionInfo, RedisError, Script, ScriptInvocation};
use serde_json::json;

/// How long an answer may take. The client's own half a second is over while a server is busy.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a silent listener is trusted, and how long it waits before it connects once more.
const TRUST: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(1);

static CANCEL: LazyLock<Script> = LazyLock::new(|| script(include_str!("../scripts/cancel.lua")));
static CHECK: LazyLock<Script> = LazyLock::new(|| script(include_str!("../scripts/check.lua")));
static CLAIM: LazyLock<Script> = LazyLock::new(|| script(include_str!("../scripts/claim.lua")));
static ENQUEUE: LazyLock<Script> = LazyLock::new(|| script(include_str!("../scripts/enqueue.lua")));
static RENEW: LazyLock<Script> = LazyLock::new(|| script(include_str!("../scripts/renew.lua")));
static SETTLE: LazyLock<Script> = LazyLock::new(|| script(include_str!("../scripts/settle.lua")));

fn script(own: &str) -> Script {
    let (flags, body) = own.split_once('\n').expect("a script has lines");
    Script::new(&[flags, "\n", include_str!("../scripts/common.lua"), body].concat())
}

/// Messages in a Redis, for workers on tokio.
pub struct RedisStorage {
    prefix: String,
    client: Client,
    control: ConnectionManager,
    /// Connects on the thread of the first renewal: what holds up the others does not hold up this.
    renewal: ConnectionManager,
}

impl RedisStorage {
    /// Connects to `redis://host:port`. All its keys begin with `prefix`, with which no prefix of
    /// another storage may begin.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] for the URL, and those of the server and of the way to it.
    pub async fn connect(url: &str, prefix: &str) -> Result<Self, Error> {
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE))
            .set_number_of_retries(0);
        let connected: Result<_, RedisError> = async {
            let info = url.into_connection_info()?;
            // Or the kernel would wait for a server that vanished, for many minutes.
            #[cfg(target_os = "linux")]
            let info = info.set_tcp_settings(limited());
            let client = Client::open(info)?;
            Ok(Self {
                prefix: prefix.to_owned(),
                control: client
                    .get_connection_manager_with_config(config.clone())
                    .await?,
                renewal: client.get_connection_manager_lazy(config)?,
                client,
            })
        }
        .await;
        connected.map_err(|error| storage_error("connect", error))
    }

    /// Deletes a message that nobody holds. An expired lease does not protect it.
    ///
    /// # Errors
    /// Those of the server and of the way to it.
    pub async fn cancel(&self, id: MessageId) -> Result<Cancel, Error> {
        let mut call = CANCEL.key(&self.prefix);
        let answer: String = run(&self.control, "cancel", call.arg(text(id))).await?;
        Ok(match &*answer {
            "cancelled" => Cancel::Cancelled,
            "leased" => Cancel::Leased,
            _ => Cancel::NotFound,
        })
    }
}

#[async_trait]
impl Storage for RedisStorage {
    async fn check(&self) -> Result<(), Error> {
        let policy: String = run(&self.control, "check", &CHECK.key(&self.prefix)).await?;
        if !policy.starts_with("allkeys") {
            return Ok(());
        }
        let problem = format!("with the policy {policy}, a Redis that is full deletes messages");
        let error = Error::new(ErrorKind::InvalidConfig, "check", problem);
        Err(error.with_advice("set maxmemory-policy to noeviction"))
    }

    async fn enqueue(&self, messages: Vec<NewMessage>) -> Result<Vec<Option<MessageId>>, Error> {
        let mut call = ENQUEUE.key(&self.prefix);
        for new in &messages {
            let (from_now, due) = match new.due {
                Due::Now => (1, Duration::ZERO),
                Due::After(delay) => (1, delay),
                Due::At(instant) => (0, instant.duration_since(UNIX_EPOCH).unwrap_or_default()),
            };
            let about = json!([new.content_type, new.headers.0, new.group, new.tag]).to_string();
            // No key is an empty one.
            let key = new.key.as_deref().unwrap_or("");
            call.arg((&*new.queue, new.priority, key, &*new.kind, about));
            call.arg((&new.payload, new.max_attempts, from_now, micros(due)));
        }
        let ids: Vec<Option<i64>> = run(&self.control, "enqueue", &call).await?;
        Ok(ids.into_iter().map(|id| id.map(MessageId)).collect())
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claim, Error> {
        let source = match request.source {
            Source::Pending => "pending",
            Source::Expired => "expired",
        };
        let mut call = CLAIM.key(&self.prefix);
        call.arg((request.token.to_string(), request.limit, source));
        call.arg((u8::from(request.resume), MAX_LEASE_LOSSES));
        for served in &request.queues {
            let most = served.max_attempts.unwrap_or(0);
            call.arg((&*served.queue, micros(served.lease_ttl), most));
        }
        let (now, leased, dead, due, expiry): Answer<_> =
            run(&self.control, "claim", &call).await?;
        let mut claim = Claim::default();
        for (id, queue, kind, about, key, payload, counts, created) in leased {
            let (attempt, max_attempts, losses, deliveries) = counts;
            let (about, id, token): (String, _, _) = (about, MessageId(id), request.token);
            let (content_type, headers, group, tag) =
                serde_json::from_str(&about).map_err(foreign)?;
            let mut one = Claimed::new(Held { id, token }, shared(queue), shared(kind), payload);
            (one.content_type, one.headers) = (shared(content_type), Headers(headers));
            (one.key, one.group, one.tag) = (key, group, tag);
            (one.attempt, one.max_attempts) = (attempt, max_attempts);
            (one.lease_losses, one.deliveries) = (losses, deliveries);
            one.created_at = UNIX_EPOCH + Duration::from_micros(created);
            one.age = Duration::from_micros(now.saturating_sub(created));
            claim.messages.push(one);
        }
        for (id, queue, kind, reason) in dead {
            let reason = DeadReason::from_name(&reason).unwrap_or(DeadReason::Crashed);
            let (id, queue, kind) = (MessageId(id), shared(queue), shared(kind));
            claim.dead.push(DeadLettered::new(id, queue, kind, reason));
        }
        claim.next_due = due.map(Duration::from_micros);
        claim.next_expiry = expiry.map(Duration::from_micros);
        Ok(claim)
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Settled, Error> {
        let mut call = SETTLE.key(&self.prefix);
        for one in settlements {
            let (verdict, after, reason, error) = match &one.verdict {
                Verdict::Done | Verdict::Discard => ("delete", Duration::ZERO, "", ""),
                Verdict::Retry { after, error } => ("retry", *after, "", &**error),
                Verdict::Snooze { after } => ("snooze", *after, "", ""),
                Verdict::Release => ("release", Duration::ZERO, "", ""),
                Verdict::Dead { reason, error } => {
                    ("dead", Duration::ZERO, reason.as_str(), &**error)
                }
            };
            call.arg((text(one.id), one.token.to_string()));
            call.arg((verdict, micros(after), reason, error));
        }
        let written = run(&self.control, "settle", &call).await?;
        Ok(Settled::new(ids(written)))
    }

    async fn renew(&self, renewals: &[Renewal]) -> Result<Renewed, Error> {
        let mut call = RENEW.key(&self.prefix);
        for one in renewals {
            let Held { id, token } = one.held;
            call.arg((text(id), token.to_string(), micros(one.lease_ttl)));
        }
        let (renewed, lost) = run(&self.renewal, "renew", &call).await?;
        Ok(Renewed::new(ids(renewed), ids(lost)))
    }

    fn wake_ups(&self, queues: Vec<Arc<str>>, runtime: Arc<dyn Runtime>) -> BoxStream<'static, ()> {
        let channel = |queue| format!("{}wake:{queue}", self.prefix);
        let channels: Vec<String> = queues.into_iter().map(channel).collect();
        let context = Arc::new((self.client.clone(), channels, runtime));
        let listeners = stream::repeat(context).then(|context| async move {
            let (client, channels, runtime) = &*context;
            match timeout(&**runtime, PATIENCE, listen(client, channels)).await {
                Some(Ok(listener)) => {
                    // One hint for what was enqueued while nobody listened.
                    let hints = stream::once(ready(())).chain(listener.map(drop));
                    hints.take_until(runtime.sleep(TRUST)).boxed()
                }
                Some(Err(_)) | None => {
                    runtime.sleep(PAUSE).await;
                    stream::empty().boxed()
                }
            }
        });
        listeners.flatten().boxed()
    }
}

/// What `claim.lua` returns.
type Answer<Leased> = (u64, Vec<Leased>, Vec<Dead>, Option<u64>, Option<u64>);
type Dead = (i64, String, String, String);

fn foreign(error: serde_json::Error) -> Error {
    let message = "a message in Redis was not written by this storage";
    Error::new(ErrorKind::Storage, "claim", message).with_source(error)
}

#[cfg(target_os = "linux")]
fn limited() -> redis::io::tcp::TcpSettings {
    redis::io::tcp::TcpSettings::default().set_user_timeout(PATIENCE)
}

async fn run<T: FromRedisValue>(
    connection: &ConnectionManager,
    operation: &'static str,
    call: &ScriptInvocation<'_>,
) -> Result<T, Error> {
    let answer = call.invoke_async(&mut connection.clone()).await;
    answer.map_err(|error| storage_error(operation, error))
}

async fn listen(client: &Client, channels: &[String]) -> Result<PubSubStream, RedisError> {
    let mut listener = client.get_async_pubsub().await?;
    listener.subscribe(channels).await?;
    Ok(listener.into_on_message())
}

fn storage_error(operation: &'static str, error: RedisError) -> Error {
    // States of the server that pass: the same call may succeed later.
    const PASSING: &str =
        "BUSY CLUSTERDOWN LOADING MASTERDOWN MISCONF NOREPLICAS OOM READONLY TRYAGAIN";
    let is_passing = |code| PASSING.split(' ').any(|passing| passing == code);
    let passes = error.is_io_error() || error.code().is_some_and(is_passing);
    let (kind, message) = match error.kind() {
        _ if passes => (ErrorKind::Unavailable, "Redis cannot do this now"),
        redis::ErrorKind::InvalidClientConfig => {
            (ErrorKind::InvalidConfig, "this is no URL of a Redis")
        }
        _ => (ErrorKind::Storage, "Redis refused the call"),
    };
    Error::new(kind, operation, message).with_source(error)
}

fn shared(text: String) -> Arc<str> {
    text.into()
}

/// The form in which the scripts keep ids: all of one length.
fn text(id: MessageId) -> String {
    format!("{:019}", id.0)
}

fn ids(ids: Vec<i64>) -> Vec<MessageId> {
    ids.into_iter().map(MessageId).collect()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Checks the code of the page that was written from this storage.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/custom-storage.md")]
struct CustomStorage;
