//! From the caller's transaction to the handler: smol on every database, with no tokio in the
//! build.

use std::sync::Arc;

use outbox_end_to_end::{Postgres, Sqlite};
use outbox_smol::SmolRuntime;

mod postgres {
    use super::*;

    outbox_end_to_end::suite!(
        Postgres,
        Arc::new(SmolRuntime::global()),
        block_on = smol::block_on
    );
}

mod sqlite {
    use super::*;

    outbox_end_to_end::suite!(
        Sqlite,
        Arc::new(SmolRuntime::global()),
        block_on = smol::block_on
    );
}
