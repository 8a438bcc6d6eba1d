//! The list of a user's mistakes: collected while an expansion goes on, reported all at once.

use std::fmt::Display;

use proc_macro2::TokenStream;
use quote::ToTokens;

/// Everything that is wrong with one use of a macro.
#[derive(Default)]
pub(crate) struct Problems(Option<syn::Error>);

impl Problems {
    /// Adds a problem at `tokens`.
    pub(crate) fn at(&mut self, tokens: impl ToTokens, message: impl Display) {
        self.push(syn::Error::new_spanned(tokens, message));
    }

    /// Adds a problem that already knows its place.
    pub(crate) fn push(&mut self, error: syn::Error) {
        match &mut self.0 {
            Some(errors) => errors.combine(error),
            None => self.0 = Some(error),
        }
    }

    /// One `compile_error!` for each problem; nothing if there is none.
    pub(crate) fn into_tokens(self) -> TokenStream {
        self.0
            .map(|errors| errors.to_compile_error())
            .unwrap_or_default()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0
            .as_ref()
            .map_or(0, |errors| errors.clone().into_iter().count())
    }
}
