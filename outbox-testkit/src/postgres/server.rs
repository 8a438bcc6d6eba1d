//! The server that the tests of a process share: where it comes from and what it can do.

use std::collections::HashMap;
use std::env;
use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use async_lock::OnceCell;

use super::admin::{Admin, Request};
use super::cluster::Cluster;
use super::database::TestDatabase;
use super::entropy::random_bits;
use super::error::{FixtureError, FixtureErrorKind};
use super::options::{ServerOptions, Shutdown};
use super::url::ServerUrl;

/// A Postgres server for tests.
///
/// A handle: clones share the server. A throwaway server ends when the last handle and the last
/// [`TestDatabase`] are dropped, and in any case with the process.
///
/// Starting and stopping block the calling thread; everything else is async, on any runtime that
/// sqlx is built with.
#[derive(Clone)]
pub struct Server {
    pub(super) inner: Arc<Inner>,
}

/// What the handles share. Fields are dropped in this order: first the connection, then the
/// cluster it goes to.
pub(super) struct Inner {
    pub(super) admin: Admin,
    pub(super) url: ServerUrl,
    pub(super) cluster: Option<Cluster>,
    run: u64,
    counter: AtomicU64,
    /// Guards the list of templates, not the making of one: that is the cell's.
    templates: Mutex<HashMap<String, Arc<OnceCell<String>>>>,
}

impl Server {
    /// Uses the server of `DATABASE_URL` if that is set and not empty, and starts a throwaway
    /// cluster otherwise. Takes 0.5 to 2 s for the latter.
    ///
    /// # Errors
    /// The server of `DATABASE_URL` cannot be used: there is no falling back then. Or there are
    /// no Postgres binaries, or they cannot be run.
    pub fn start() -> Result<Self, FixtureError> {
        match env::var("DATABASE_URL") {
            Ok(url) if !url.is_empty() => Self::connect(&url),
            Ok(_) | Err(env::VarError::NotPresent) => {
                Self::start_throwaway(&ServerOptions::default())
            }
            Err(error @ env::VarError::NotUnicode(_)) => Err(FixtureError::new(
                FixtureErrorKind::BadAddress,
                "DATABASE_URL is not Unicode",
                "percent-encode what is not ASCII",
            )
            .with_source(error)),
        }
    }

    /// Starts a throwaway cluster, whatever `DATABASE_URL` says: for tests that stop and start
    /// the server and for benchmarks.
    ///
    /// # Errors
    /// There are no Postgres binaries, or they cannot be run.
    pub fn start_throwaway(options: &ServerOptions) -> Result<Self, FixtureError> {
        let cluster = Cluster::create(options)?;
        Self::new(ServerUrl::parse(&cluster.url())?, Some(cluster))
    }

    /// Uses the server at `url`, with a role that may create databases. Drops the databases and
    /// roles that killed test runs left there, known by their names and by the absence of their run.
    ///
    /// # Errors
    /// The URL is not one of Postgres, the server does not answer within 10 s, or it is older
    /// than version 13.
    pub fn connect(url: &str) -> Result<Self, FixtureError> {
        Self::new(ServerUrl::parse(url)?, None)
    }

    /// The server of this process, started by the first call as [`start`](Self::start) does.
    ///
    /// # Panics
    /// It cannot be started; the panic's message is the line that says why.
    #[must_use]
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(|| Self::start().unwrap_or_else(|error| panic!("{error:?}")))
    }

    fn new(url: ServerUrl, cluster: Option<Cluster>) -> Result<Self, FixtureError> {
        let run = random_bits().map_err(|error| {
            FixtureError::new(
                FixtureErrorKind::Cluster,
                "/dev/urandom cannot be read",
                "read the source error",
            )
            .with_source(error)
        })?;
        let inner = Inner {
            admin: Admin::start(&url, run)?,
            url,
            cluster,
            run,
            counter: AtomicU64::new(0),
            templates: Mutex::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Creates an empty database, dropped with the value.
    ///
    /// # Errors
    /// The role may not create databases, or the server is gone.
    pub async fn database(&self) -> Result<TestDatabase, FixtureError> {
        self.create(None).await
    }

    /// Creates a database as a copy of the template `name`. The first call with that name makes
    /// the template: an empty database that `prepare` fills through its URL. Calls at the same
    /// time wait for it. A failed `prepare` is tried again by the next call.
    ///
    /// `prepare` may leave connections open; they are ended.
    ///
    /// # Errors
    /// `prepare` failed (its error is the source), the role may not create databases, or the
    /// server is gone.
    ///
    /// # Cancellation
    /// A dropped call leaves no database behind. If it was making the template, the next call
    /// starts again.
    pub async fn database_from<F, R, E>(
        &self,
        name: &str,
        prepare: F,
    ) -> Result<TestDatabase, FixtureError>
    where
        F: FnOnce(String) -> R,
        R: Future<Output = Result<(), E>>,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let cell = Arc::clone(self.inner.templates().entry(name.to_owned()).or_default());
        let make = async || {
            let template = self.create(None).await?;
            prepare(template.url()).await.map_err(|error| {
                FixtureError::new(
                    FixtureErrorKind::Template,
                    format!("filling the template {name:?} failed"),
                    "read the source error, which is of the closure that fills it",
                )
                .with_source(error)
            })?;
            let name = template.name().to_owned();
            let seal = Request::Seal { name: name.clone() };
            self.inner.admin.ask(seal).await?;
            template.keep();
            Ok(name)
        };
        let template = cell.get_or_try_init(make).await?;
        self.create(Some(template.clone())).await
    }

    async fn create(&self, template: Option<String>) -> Result<TestDatabase, FixtureError> {
        let Inner { run, counter, .. } = &*self.inner;
        let number = counter.fetch_add(1, Ordering::Relaxed);
        let name = format!("outbox_test_{run:016x}_{}_{number}", std::process::id());
        // Before the request, so that a dropped future drops what the request will create.
        let database = TestDatabase::new(self.clone(), name.clone());
        let request = Request::Create { name, template };
        self.inner.admin.ask(request).await?;
        Ok(database)
    }

    /// Whether it is a throwaway cluster, which can be stopped and started.
    #[must_use]
    pub fn is_throwaway(&self) -> bool {
        self.inner.cluster.is_some()
    }

    /// Stops a throwaway server and waits for its end; nothing happens if it is stopped. Its
    /// databases and its address stay. Every test that shares the server feels it: use one of
    /// [`start_throwaway`](Self::start_throwaway).
    ///
    /// # Errors
    /// `Unsupported` for the server of `DATABASE_URL`.
    pub fn stop(&self, how: Shutdown) -> Result<(), FixtureError> {
        self.throwaway()?.stop(how)
    }

    /// Starts a stopped throwaway server at its former address and waits until it accepts
    /// connections, at most 60 s; nothing happens if it runs.
    ///
    /// # Errors
    /// `Unsupported` for the server of `DATABASE_URL`; `Cluster` if it does not start.
    pub fn start_again(&self) -> Result<(), FixtureError> {
        self.throwaway()?.start()
    }

    /// [`stop`](Self::stop), then [`start_again`](Self::start_again).
    ///
    /// # Errors
    /// As those.
    pub fn restart(&self, how: Shutdown) -> Result<(), FixtureError> {
        self.stop(how)?;
        self.start_again()
    }

    fn throwaway(&self) -> Result<&Cluster, FixtureError> {
        self.inner.cluster.as_ref().ok_or_else(|| {
            FixtureError::new(
                FixtureErrorKind::Unsupported,
                "the server of DATABASE_URL is not ours to stop or start",
                "use Server::start_throwaway",
            )
        })
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("place", &self.inner.url.place())
            .field("throwaway", &self.is_throwaway())
            .finish()
    }
}

impl Inner {
    fn templates(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<OnceCell<String>>>> {
        self.templates
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.cluster.is_some() {
            return;
        }
        let templates: Vec<_> = self.templates().drain().collect();
        for (_, cell) in templates {
            if let Some(name) = cell.get() {
                let request = Request::Drop {
                    name: name.clone(),
                    roles: Vec::new(),
                };
                // What stays is swept by the next run.
                let _ = self.admin.ask_blocking(request);
            }
        }
    }
}
