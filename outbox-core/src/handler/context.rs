//! What one run is given: the message, its lease, and the worker's shared data.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::extract::Lease;
use super::failure::Failure;
use crate::runtime::Runtime;
use crate::storage::Claimed;

/// The values handlers ask for as `Data<T>`: one for each type.
#[derive(Clone, Default)]
pub struct DataMap(HashMap<TypeId, Arc<dyn Any + Send + Sync>>);

impl DataMap {
    /// Adds a value; a later one of the same type replaces it.
    pub fn insert<T: Send + Sync + 'static>(&mut self, value: Arc<T>) {
        self.0.insert(TypeId::of::<T>(), value);
    }

    /// The value of type `T`.
    #[must_use]
    pub fn find<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        Arc::clone(self.0.get(&TypeId::of::<T>())?).downcast().ok()
    }

    /// Whether there is a value of this type.
    #[must_use]
    pub fn contains(&self, of: TypeId) -> bool {
        self.0.contains_key(&of)
    }
}

impl fmt::Debug for DataMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataMap({} types)", self.0.len())
    }
}

/// Everything a run may ask for. Extractors read it; see [`FromContext`](super::FromContext).
#[derive(Clone)]
pub struct Context {
    message: Arc<Claimed>,
    lease: Lease,
    data: Arc<DataMap>,
    runtime: Arc<dyn Runtime>,
}

impl Context {
    /// Puts together what a run is given. The worker does this; so may a test of a handler.
    #[must_use]
    pub fn new(
        message: Claimed,
        lease: Lease,
        data: Arc<DataMap>,
        runtime: Arc<dyn Runtime>,
    ) -> Self {
        Self {
            message: Arc::new(message),
            lease,
            data,
            runtime,
        }
    }

    /// The message.
    #[must_use]
    pub fn message(&self) -> &Claimed {
        &self.message
    }

    pub(crate) const fn shared_message(&self) -> &Arc<Claimed> {
        &self.message
    }

    /// The lease under which it runs.
    #[must_use]
    pub const fn lease(&self) -> &Lease {
        &self.lease
    }

    /// The worker's shared data.
    #[must_use]
    pub fn data(&self) -> &DataMap {
        &self.data
    }

    /// The runtime the worker runs on.
    #[must_use]
    pub fn runtime(&self) -> &Arc<dyn Runtime> {
        &self.runtime
    }

    /// Reads the payload as JSON.
    ///
    /// # Errors
    /// A failure that makes the message a dead letter at once, with its bytes kept: a payload
    /// that cannot be read now cannot be read at the next attempt either.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.message.payload).map_err(|source| {
            Failure::undecodable(DecodeError {
                expected: std::any::type_name::<T>(),
                source,
            })
        })
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("message", &self.message)
            .finish_non_exhaustive()
    }
}

/// A payload that is not what the handler expects. serde's own messages can quote the payload,
/// so only the place and the class of the problem are shown.
#[derive(Debug)]
struct DecodeError {
    expected: &'static str,
    source: serde_json::Error,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problem = match self.source.classify() {
            serde_json::error::Category::Io => "an I/O problem",
            serde_json::error::Category::Syntax => "not JSON",
            serde_json::error::Category::Data => "JSON of another shape",
            serde_json::error::Category::Eof => "cut off",
        };
        write!(
            f,
            "the payload cannot be read as {}: {problem} at line {} column {}",
            self.expected,
            self.source.line(),
            self.source.column()
        )
    }
}

impl std::error::Error for DecodeError {}
