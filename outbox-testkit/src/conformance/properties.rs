//! The list of all properties: the one place where an id and a function meet.

use super::Property;

/// Every property of the suite, in the order of the list.
pub const PROPERTIES: &[Property] = &crate::__each_property! { __conformance_list };

/// Calls another macro of this crate with its arguments and the list.
#[doc(hidden)]
#[macro_export]
macro_rules! __each_property {
    ($macro:ident $($arguments:tt)*) => {
        $crate::$macro! {
            $($arguments)*
            "INSERT-01" insert::ids_grow_in_the_order_of_enqueue;
            "INSERT-02" insert::payloads_come_back_byte_for_byte;
            "INSERT-03" insert::every_field_comes_back;
            "INSERT-04" insert::a_fresh_message_has_no_past;
            "INSERT-05" insert::a_key_is_unique_while_its_message_waits;
            "INSERT-06" insert::a_key_is_free_when_its_message_has_ended;
            "INSERT-07" insert::a_key_belongs_to_its_queue;
            "INSERT-08" insert::the_first_of_a_key_wins_within_a_call;
            "INSERT-09" insert::an_empty_enqueue_is_nothing;
            "INSERT-10" insert::due_times_are_kept;
            "INSERT-11" insert::queue_names_are_compared_exactly;
            "INSERT-12" insert::a_message_exists_only_if_its_transaction_commits needs Transactions;
            "INSERT-13" insert::keys_are_compared_exactly;
            "LEASE-01" claim::a_claim_leases_and_charges_an_attempt;
            "LEASE-02" claim::concurrent_claimers_never_share_a_message;
            "LEASE-03" claim::the_limit_counts_over_all_queues;
            "LEASE-04" claim::a_message_is_not_claimed_before_it_is_due;
            "LEASE-05" claim::priority_then_due_time_then_id needs Priorities;
            "LEASE-06" claim::ties_are_claimed_in_id_order;
            "LEASE-07" claim::other_queues_are_left_alone;
            "LEASE-08" claim::a_held_message_is_not_claimed_again;
            "LEASE-09" claim::an_empty_answer_says_when_to_come_back;
            "LEASE-10" claim::each_queue_has_its_own_lease;
            "LEASE-11" claim::a_resumed_claim_returns_the_same_messages;
            "LEASE-12" claim::a_resumed_claim_that_leased_nothing_claims_anew;
            "LEASE-13" claim::a_claim_of_expired_leases_can_be_resumed;
            "LEASE-14" claim::an_exchange_settles_and_claims;
            "LEASE-15" claim::a_resumed_claim_gives_back_what_is_beyond_its_limit;
            "LEASE-16" claim::the_claim_of_an_exchange_is_a_claim;
            "EXPIRE-01" expiry::an_expired_lease_is_taken_over;
            "EXPIRE-02" expiry::a_claim_of_pending_messages_takes_no_expired_lease;
            "EXPIRE-03" expiry::a_claim_of_expired_leases_takes_nothing_else;
            "EXPIRE-04" expiry::the_lease_that_ended_first_is_taken_over_first;
            "EXPIRE-05" expiry::a_suspect_is_claimed_alone;
            "EXPIRE-06" expiry::the_third_loss_in_a_row_is_a_crash;
            "EXPIRE-07" expiry::a_loss_on_the_last_attempt_is_a_dead_letter;
            "EXPIRE-08" expiry::losses_count_only_in_a_row;
            "EXPIRE-09" expiry::concurrent_takeovers_never_share_a_message;
            "EXPIRE-10" expiry::messages_that_die_do_not_hold_up_the_others;
            "EXPIRE-11" expiry::a_queue_may_allow_more_attempts_than_the_message;
            "EXPIRE-12" expiry::each_queue_takes_over_for_its_own_time;
            "EXPIRE-13" expiry::the_limit_of_a_takeover_counts_over_all_queues;
            "FENCE-01" fence::a_stale_settle_changes_nothing;
            "FENCE-02" fence::a_stale_renew_changes_nothing;
            "FENCE-03" fence::a_late_settle_is_accepted_until_the_takeover;
            "FENCE-04" fence::a_second_settle_is_reported;
            "FENCE-05" fence::a_settle_answers_exactly_the_survivors;
            "FENCE-06" fence::a_foreign_token_writes_nothing;
            "FENCE-07" fence::an_unknown_id_is_reported;
            "FENCE-08" fence::empty_calls_change_nothing;
            "FENCE-09" fence::a_late_settle_and_a_takeover_exclude_each_other;
            "FENCE-10" fence::a_token_of_an_earlier_delivery_writes_nothing;
            "FENCE-11" fence::an_exchange_is_fenced_as_a_settle_is;
            "RENEW-01" renew::a_renew_prolongs_the_lease;
            "RENEW-02" renew::a_renew_never_shortens_the_lease;
            "RENEW-03" renew::a_renew_never_brings_a_message_back;
            "RENEW-04" renew::a_renew_tells_survivors_from_losses;
            "RENEW-05" renew::a_late_renew_is_accepted_until_the_takeover;
            "RENEW-06" renew::each_renewal_has_its_own_ttl;
            "RENEW-07" renew::a_renew_waits_for_no_other_call;
            "RETRY-01" settle::a_retry_waits_and_keeps_the_attempt;
            "RETRY-02" settle::a_retry_without_delay_is_available_at_once;
            "RETRY-03" settle::a_snooze_waits_and_refunds_the_attempt;
            "RETRY-04" settle::a_release_gives_the_message_back_in_its_place;
            "RETRY-05" settle::a_release_after_a_takeover_keeps_the_loss;
            "RETRY-06" settle::done_and_discard_delete_the_message;
            "RETRY-07" settle::one_call_writes_different_outcomes;
            "RETRY-08" settle::error_texts_are_kept;
            "RETRY-09" settle::an_error_stays_until_the_next_one;
            "RETRY-10" settle::an_exchange_writes_every_outcome;
            "DEAD-01" dead::a_dead_letter_keeps_payload_reason_and_error;
            "DEAD-02" dead::every_reason_is_kept;
            "DEAD-03" dead::a_dead_letter_is_not_claimed;
            "DEAD-04" dead::dead_letters_do_not_disturb_their_neighbours;
            "DEAD-05" dead::a_dead_letter_says_what_it_was;
            "WAKE-01" wake::an_enqueue_is_followed_by_a_hint needs WakeUps;
            "WAKE-02" wake::every_stream_gets_its_own_hints needs WakeUps;
            "WAKE-03" wake::a_dropped_stream_leaves_nothing_behind;
            "WAKE-04" wake::a_stream_is_silent_while_nothing_happens;
            "CANCEL-01" cancel::a_waiting_message_is_cancelled needs Cancel;
            "CANCEL-02" cancel::a_held_message_is_not_cancelled needs Cancel;
            "CANCEL-03" cancel::an_expired_lease_does_not_protect needs Cancel;
            "CANCEL-04" cancel::what_is_gone_is_not_found needs Cancel;
            "CANCEL-05" cancel::cancelling_frees_the_key needs Cancel;
            "DROP-01" dropped::a_dropped_enqueue_writes_all_or_nothing;
            "DROP-02" dropped::a_dropped_claim_loses_nothing;
            "DROP-03" dropped::a_dropped_takeover_loses_nothing;
            "DROP-04" dropped::a_dropped_settle_writes_all_or_nothing;
            "DROP-05" dropped::a_dropped_renew_leaves_the_lease;
            "DROP-06" dropped::a_dropped_exchange_loses_nothing;
            "CALL-01" call::a_storage_that_works_passes_its_check;
            "CALL-02" call::a_call_speaks_of_a_thousand_messages;
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_list {
    ($($id:literal $group:ident :: $name:ident $(needs $capability:ident)?;)*) => {
        [$(
            $crate::conformance::Property {
                id: $id,
                name: stringify!($name),
                needs: $crate::__conformance_need!($($capability)?),
                check: |subject| Box::pin($crate::conformance::$group::$name(subject)),
            },
        )*]
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_need {
    () => {
        None
    };
    ($capability:ident) => {
        Some($crate::conformance::Capability::$capability)
    };
}
