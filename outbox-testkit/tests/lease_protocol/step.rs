//! What may happen next, in words.

use std::fmt;

/// What leads from one world to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    TimePasses,
    StandbyFallsBehind,
    FailsOver,
    FindsEndedLease,
    FreesWhatItFound,
    LateClaimArrives,
    Claims(usize),
    ClaimsAndHearsNothing(usize),
    SendsLateClaim(usize),
    AsksAgain(usize),
    Buries(usize),
    Renews(usize),
    Crashes(usize),
    Retries(usize),
    RetriesAndHearsNothing(usize),
    Releases(usize),
    Works(usize),
    Completes(usize),
    CompletesAndHearsNothing(usize),
    LosesItsTransaction(usize),
    Repeats(usize),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (run, what) = match *self {
            Self::TimePasses => return f.write_str("time passes"),
            Self::StandbyFallsBehind => return f.write_str("the standby falls behind"),
            Self::FailsOver => return f.write_str("the storage fails over"),
            Self::FindsEndedLease => return f.write_str("a rescuer finds an ended lease"),
            Self::FreesWhatItFound => return f.write_str("the rescuer frees the message"),
            Self::LateClaimArrives => return f.write_str("the late claim arrives"),
            Self::Claims(run) => (run, "claims"),
            Self::ClaimsAndHearsNothing(run) => (run, "claims, and the reply is lost"),
            Self::SendsLateClaim(run) => (run, "claims, and the call is late"),
            Self::AsksAgain(run) => (run, "asks for its claim again"),
            Self::Buries(run) => (run, "claims, and the message dies"),
            Self::Renews(run) => (run, "renews"),
            Self::Crashes(run) => (run, "crashes"),
            Self::Retries(run) => (run, "settles to retry"),
            Self::RetriesAndHearsNothing(run) => (run, "settles to retry, and the reply is lost"),
            Self::Releases(run) => (run, "releases"),
            Self::Works(run) => (run, "commits its effect"),
            Self::Completes(run) => (run, "completes"),
            Self::CompletesAndHearsNothing(run) => (run, "completes, and the reply is lost"),
            Self::LosesItsTransaction(run) => (run, "completes, and the transaction is lost"),
            Self::Repeats(run) => (run, "repeats its outcome"),
        };
        write!(f, "run {run} {what}")
    }
}
