//! The defects, one to a mutant, each with the properties that catch it: all of them and no other.

/// Names the defects and makes the table of them.
macro_rules! defects {
    ($($(#[doc = $what:literal])+ $name:ident => [$($id:literal),+];)+) => {
        /// What is wrong with a storage.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Defect {
            $($(#[doc = $what])+ $name,)+
        }

        /// Every defect, with the ids of the properties that catch it.
        pub(crate) const DEFECTS: &[(Defect, &[&str])] = &[
            $((Defect::$name, &[$($id),+]),)+
        ];
    };
}

defects! {
    // Enqueue.
    /// The first id is zero.
    IdsStartAtZero => ["INSERT-01"];
    /// What looks like JSON is parsed and written anew.
    JsonIsRewritten => ["INSERT-02"];
    /// There is no place for the content type.
    ContentTypesAreForgotten => ["INSERT-03"];
    /// Names are cut after 191 bytes.
    NamesAreShort => ["INSERT-03"];
    /// A missing tag comes back as an empty one.
    MissingTagsAreEmpty => ["INSERT-04"];
    /// A duplicate ends the batch: what follows is not written.
    ADuplicateEndsItsBatch => ["INSERT-05"];
    /// A key is free as soon as its message is claimed.
    HeldKeysAreFree => ["INSERT-06"];
    /// What is discarded keeps its key.
    DiscardsKeepTheirKeys => ["INSERT-06"];
    /// What dies of a lost lease keeps its key.
    TheLostKeepTheirKeys => ["INSERT-06"];
    /// Keys are compared without case.
    KeysIgnoreCase => ["INSERT-13"];
    /// A key is taken in all queues.
    KeysAreOfAllQueues => ["INSERT-07"];
    /// Keys are compared with what is stored and not within a call.
    KeysOfACallAreNotCompared => ["INSERT-08"];
    /// An empty batch is a syntax error.
    AnEmptyEnqueueFails => ["INSERT-09"];
    /// An instant in the future counts as now.
    InstantsAreIgnored => ["INSERT-10"];
    /// Queue names are compared without case.
    QueuesIgnoreCase => ["INSERT-11"];
    /// No delay of a new message is longer than fifty days.
    NewDelaysHaveALimit => ["INSERT-10"];
    /// A producer writes on a connection of its own, outside the caller's transaction.
    EnqueuesOutsideTheTransaction => ["INSERT-12"];
    /// Messages of a batch are written one by one.
    EnqueuesInSteps => ["DROP-01"];

    // Claim.
    /// No lease is longer than twelve hours.
    LeasesHaveALimit => ["LEASE-01"];
    /// Two claims may pick the same messages before either leases them.
    ClaimsRace => ["LEASE-02"];
    /// Each queue gives as many messages as the limit allows in all.
    TheLimitIsPerQueue => ["LEASE-03"];
    /// Urgent messages are claimed before they are due.
    UrgentMessagesDoNotWait => ["LEASE-04"];
    /// There are three levels of priority.
    PrioritiesAreFew => ["LEASE-05"];
    /// Among many messages, those that are due at the same time come in another order.
    ManyTiesAreUnordered => ["LEASE-06"];
    /// A claim of expired leases takes them from every queue.
    TakesOverFromAllQueues => ["LEASE-07"];
    /// A claim counts a delivery of every message it looks at.
    LookingCountsADelivery => ["LEASE-08"];
    /// The next due time is told of all queues.
    NextDueIsOfAllQueues => ["LEASE-09"];
    /// The next times are told of the first queue.
    NextTimesAreOfTheFirstQueue => ["LEASE-09", "EXPIRE-10"];
    /// The next due time is told of messages of one priority.
    NextDueIsOfOnePriority => ["LEASE-09"];
    /// The next end of a lease is told of all queues.
    NextExpiryIsOfAllQueues => ["LEASE-09"];
    /// All queues get the lease of the first.
    OneLeaseForAllQueues => ["LEASE-10"];
    /// A resumed claim leaves the end of its leases as it was.
    ResumingDoesNotRenew => ["LEASE-11"];
    /// A resumed claim that finds nothing of its own charges no attempt for what it claims.
    ResumingAnewIsFree => ["LEASE-12"];
    /// A resumed claim of expired leases counts another loss.
    ResumingCountsALoss => ["LEASE-13"];
    /// A resumed claim of expired leases keeps what it does not return.
    ResumedTakeoversKeepTheRest => ["LEASE-13"];
    /// A resumed claim of pending messages keeps what it does not return.
    ResumingKeepsTheRest => ["LEASE-15"];
    /// An exchange settles and does not claim.
    ExchangesDoNotClaim => ["LEASE-14", "LEASE-16", "RETRY-10"];
    /// An exchange without outcomes is a syntax error.
    AnEmptyExchangeFails => ["LEASE-14"];
    /// The claim of an exchange is always for pending messages.
    ExchangesTakeNothingOver => ["LEASE-16"];
    /// The claim of an exchange cannot be resumed.
    ExchangesCannotBeResumed => ["LEASE-16"];
    /// A claim takes messages out and puts them back leased.
    ClaimsTakeOutFirst => ["DROP-02"];
    /// An exchange writes outcomes one by one.
    ExchangesInSteps => ["DROP-06"];

    // Takeover.
    /// What is taken over comes without its headers.
    TakeoversForgetHeaders => ["EXPIRE-01"];
    /// A claim of pending messages takes expired leases as well.
    PendingIncludesExpired => ["EXPIRE-02"];
    /// A claim of expired leases takes messages that never ran as well.
    ExpiredIncludesFresh => ["EXPIRE-03"];
    /// Expired leases are taken over in the order of ids.
    TakeoversInIdOrder => ["EXPIRE-04"];
    /// Messages that were lost before come together with others.
    SuspectsComeTogether => ["EXPIRE-05"];
    /// A message may be lost for ever.
    LossesHaveNoLimit => ["EXPIRE-06"];
    /// Losses and not attempts are compared with the most attempts.
    LossesCountAsAttempts => ["EXPIRE-07"];
    /// A retry does not forget earlier losses.
    RetriesKeepLosses => ["EXPIRE-08"];
    /// Two claims may pick the same expired leases before either takes them over.
    TakeoversRace => ["EXPIRE-09"];
    /// A claim fails when more messages die than it may return.
    TheDeadOverflowTheLimit => ["EXPIRE-10"];
    /// An answer of dead letters alone says nothing about the leases that are left.
    DeathsHideTheNextTimes => ["EXPIRE-10"];
    /// What dies of a lost lease forgets why its last attempt failed.
    TheLostForgetTheirError => ["EXPIRE-07"];
    /// What a queue allows is not asked when a lease is lost.
    QueuesAllowNoMore => ["EXPIRE-11"];
    /// What is taken over gets the lease of the first queue.
    OneLeaseForAllTakeovers => ["EXPIRE-12"];
    /// From each queue as many are taken over as the limit allows in all.
    TheLimitOfTakeoversIsPerQueue => ["EXPIRE-13"];
    /// A claim takes expired messages out and puts them back leased.
    TakeoversTakeOutFirst => ["DROP-03"];

    // Fence.
    /// The holder before a takeover may still settle.
    FormerHoldersSettle => ["FENCE-01"];
    /// The holder before a takeover may still renew.
    FormerHoldersRenew => ["FENCE-02"];
    /// Work that is done late is refused, although nobody took the message over.
    LateWorkIsRefused => ["FENCE-03"];
    /// After a release the same token may settle once more.
    ReleasesCanBeSettledAgain => ["FENCE-04"];
    /// A settle that refuses one outcome answers that it wrote none.
    OneRefusalHidesTheRest => ["FENCE-05"];
    /// The token is compared from the second delivery on.
    FirstDeliveriesAreNotFenced => ["FENCE-06"];
    /// A settle is refused by what none of its tokens holds: which of them is not looked at.
    SettlesPairAnyToken => ["FENCE-06"];
    /// The same of a renew.
    RenewalsPairAnyToken => ["FENCE-06"];
    /// An exchange compares no token.
    ExchangesAreNotFenced => ["FENCE-11"];
    /// An id that was never given is an error.
    UnknownIdsFail => ["FENCE-07"];
    /// An empty renew is a syntax error.
    AnEmptyRenewFails => ["FENCE-08"];
    /// Between the comparison of a settle and its write a takeover may come.
    SettlesRaceWithTakeovers => ["FENCE-09"];
    /// The token of an earlier delivery may settle while another holds the message.
    EarlierDeliveriesSettle => ["FENCE-10"];

    // Renew.
    /// A renew counts as a delivery.
    RenewalsCountADelivery => ["RENEW-01"];
    /// A renew sets the end of a lease even if that is earlier.
    RenewalsShorten => ["RENEW-02"];
    /// A renew brings a snoozed message back to its former holder.
    RenewalsUndoASnooze => ["RENEW-03"];
    /// If one lease is lost, a renew tells that all are.
    OneLossHidesTheRest => ["RENEW-04"];
    /// A late renew is refused, although nobody took the message over.
    LateRenewalsAreRefused => ["RENEW-05"];
    /// All leases are renewed for the time of the first.
    OneTtlForAllRenewals => ["RENEW-06"];
    /// A renew waits for the claim or settle that is under way.
    RenewalsWaitForCalls => ["RENEW-07"];
    /// A renew takes leases off and puts them back.
    RenewalsTakeTheLeaseOff => ["DROP-05"];

    // Settle.
    /// A retried message loses its headers.
    RetriesForgetHeaders => ["RETRY-01"];
    /// The storage lets every retry but the first wait.
    RetriesBackOff => ["RETRY-02"];
    /// A snooze takes the delivery back.
    SnoozesRefundDeliveries => ["RETRY-03"];
    /// A released message goes to the end of its queue.
    ReleasesGoToTheEnd => ["RETRY-04"];
    /// A release refunds nothing when the lease was taken over.
    TakeoversAreNotRefunded => ["RETRY-05"];
    /// No retry waits longer than fifty days.
    RetriesHaveALimit => ["RETRY-01"];
    /// No snooze waits longer than fifty days.
    SnoozesHaveALimit => ["RETRY-03"];
    /// An exchange takes every outcome for a success.
    ExchangesWriteOneOutcome => ["RETRY-10"];
    /// What is discarded is a dead letter.
    DiscardsAreDeadLetters => ["RETRY-06"];
    /// All messages of a settle wait as long as the first that waits.
    OneDelayForAll => ["RETRY-07"];
    /// Errors of failed attempts end at their first line.
    ErrorsAreOneLine => ["RETRY-08"];
    /// Errors of failed attempts are cut after a thousand bytes.
    ErrorsAreShort => ["RETRY-08"];
    /// A snooze forgets why the last attempt failed.
    SnoozesForgetTheError => ["RETRY-09"];
    /// Outcomes are written one by one.
    SettlesInSteps => ["DROP-04"];

    // Dead letters.
    /// The payload of a dead letter is text.
    DeadPayloadsAreText => ["DEAD-01"];
    /// A crash that a worker reports is kept as another reason.
    CrashesAreKeptAsExhausted => ["DEAD-02"];
    /// A claim with nothing to do takes the last dead letter.
    IdleClaimsReviveTheDead => ["DEAD-03"];
    /// All dead letters of a settle get the error of the first.
    OneErrorForAllTheDead => ["DEAD-04"];
    /// A settle that makes a dead letter forgets its headers.
    TheDeadLoseTheirHeaders => ["DEAD-05"];

    // Wake-ups.
    /// A message that comes alone gives no hint.
    LoneMessagesGiveNoHint => ["WAKE-01"];
    /// Only the stream that was opened first gets hints.
    OneStreamIsHinted => ["WAKE-02"];
    /// A stream that is dropped keeps its connection.
    StreamsKeepConnections => ["WAKE-03"];

    /// A stream hints as fast as it is asked.
    HintsHaveNoEnd => ["WAKE-04"];

    // Cancel.
    /// What failed once cannot be cancelled.
    RetriesAreNotCancelled => ["CANCEL-01"];
    /// A held message is cancelled.
    HeldMessagesAreCancelled => ["CANCEL-02"];
    /// An expired lease protects its message.
    ExpiredLeasesProtect => ["CANCEL-03"];
    /// What is gone is reported as cancelled.
    TheGoneAreCancelled => ["CANCEL-04"];
    /// The key of a cancelled message stays taken.
    CancelledKeysStayTaken => ["CANCEL-05"];

    // Every call.
    /// A storage that works is found unusable.
    ChecksFail => ["CALL-01"];
    /// A call may speak of 999 messages, as a statement with that many parameters does.
    CallsHaveALimit => ["CALL-02"];

    // Those that many catch.
    /// A settle compares no token.
    SettlesAreNotFenced => ["FENCE-01", "FENCE-05", "FENCE-06", "FENCE-10", "FENCE-11"];
    /// A takeover leaves the token as it was.
    TokensAreReused => ["LEASE-13", "EXPIRE-05", "EXPIRE-08", "EXPIRE-10", "FENCE-01", "FENCE-02", "RETRY-05", "RETRY-09", "DROP-03"];
    /// A claim takes what others hold.
    LeasesAreNotExclusive => ["INSERT-10", "LEASE-01", "LEASE-02", "LEASE-05", "LEASE-06", "LEASE-08", "LEASE-09", "LEASE-11", "LEASE-14", "LEASE-15", "EXPIRE-05", "FENCE-05", "FENCE-06", "RENEW-07"];
    /// A claim returns one message more than it may.
    TheLimitIsExceeded => ["LEASE-01", "LEASE-02", "LEASE-03", "LEASE-05", "LEASE-06", "LEASE-11", "LEASE-14", "FENCE-06", "RENEW-07", "RETRY-04", "DROP-02", "DROP-06"];
    /// Attempts are counted when they have failed, and not when they begin.
    AttemptsAreCountedAtSettle => ["INSERT-06", "LEASE-01", "LEASE-11", "LEASE-12", "LEASE-13", "LEASE-15", "EXPIRE-01", "EXPIRE-02", "EXPIRE-07", "EXPIRE-10", "EXPIRE-11", "RETRY-01", "RETRY-02", "RETRY-03", "RETRY-04", "RETRY-05"];
    /// A takeover counts an attempt.
    TakeoversChargeAnAttempt => ["LEASE-13", "EXPIRE-01", "RETRY-05"];
    /// An expired lease is never taken over.
    LeasesNeverEnd => ["INSERT-06", "LEASE-13", "LEASE-16", "EXPIRE-01", "EXPIRE-04", "EXPIRE-05", "EXPIRE-06", "EXPIRE-07", "EXPIRE-08", "EXPIRE-09", "EXPIRE-10", "EXPIRE-11", "EXPIRE-12", "EXPIRE-13", "FENCE-01", "FENCE-02", "RETRY-05", "RETRY-09", "DROP-03"];
    /// A renew leases a message that nobody holds.
    RenewalsResurrect => ["RENEW-03", "RENEW-04"];
    /// Keys are stored and not compared.
    KeysAreIgnored => ["INSERT-05", "INSERT-06", "INSERT-08", "CANCEL-05"];
    /// Due times are stored and not compared.
    DueTimesAreIgnored => ["INSERT-10", "LEASE-04", "LEASE-09", "RETRY-01", "RETRY-03", "RETRY-08"];
    /// A claim forgets why the last attempt failed.
    ClaimsForgetTheError => ["EXPIRE-07", "RETRY-09"];
    /// Priority is not looked at.
    PrioritiesAreIgnored => ["LEASE-05", "LEASE-15"];
    /// A resumed claim charges another attempt.
    ResumingChargesAgain => ["LEASE-11", "LEASE-13", "LEASE-15"];
    /// A resumed claim is a claim like others.
    ResumingClaimsAnew => ["LEASE-11", "LEASE-13", "LEASE-15", "LEASE-16"];
    /// Dead letters are deleted.
    TheDeadAreDeleted => ["EXPIRE-06", "EXPIRE-07", "EXPIRE-10", "RETRY-10", "DEAD-01", "DEAD-02", "DEAD-03", "DEAD-04", "DEAD-05"];
    /// Nothing gives a hint.
    NothingGivesAHint => ["WAKE-01", "WAKE-02"];
}
