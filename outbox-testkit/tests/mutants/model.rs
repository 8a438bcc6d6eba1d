//! Random steps against the reference model find what is wrong with a storage's answers as well,
//! and show it in few steps.

use std::panic::{AssertUnwindSafe, catch_unwind};

use outbox_testkit::{SimRuntime, model};

use crate::subject::MutantSubject;
use crate::table::Defect;

/// The panic that names the steps, if the model finds the defect.
fn found(defect: Defect) -> Option<String> {
    let check = || {
        model::check(200, |steps| {
            SimRuntime::new(1).block_on(async {
                model::replay(&MutantSubject::new(Some(defect)), steps).await;
            });
        });
    };
    let panic = catch_unwind(AssertUnwindSafe(check)).err()?;
    panic.downcast().ok().map(|text| *text)
}

#[test]
fn random_steps_find_mutants_and_show_them_in_few_steps() {
    for defect in [
        Defect::HeldKeysAreFree,
        Defect::TheLimitIsPerQueue,
        Defect::TakesOverFromAllQueues,
        Defect::ResumingKeepsTheRest,
        Defect::SuspectsComeTogether,
        Defect::LossesCountAsAttempts,
        Defect::RetriesKeepLosses,
        Defect::FormerHoldersSettle,
        Defect::FormerHoldersRenew,
        Defect::FirstDeliveriesAreNotFenced,
        Defect::EarlierDeliveriesSettle,
        Defect::RenewalsUndoASnooze,
        Defect::OneDelayForAll,
        Defect::ExpiredLeasesProtect,
        Defect::TokensAreReused,
        Defect::AttemptsAreCountedAtSettle,
        Defect::ExchangesAreNotFenced,
        Defect::ExchangesTakeNothingOver,
        Defect::SettlesPairAnyToken,
    ] {
        let Some(text) = found(defect) else {
            panic!("{defect:?} is not found");
        };
        let (_, steps) = text
            .split_once("after these steps:\n")
            .expect("they are named");
        assert!(steps.lines().count() < 20, "{defect:?}:\n{text}");
    }
}
