//! `#[subscriber]`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::LitStr;
use syn::ext::IdentExt;

use crate::args::{Args, Grammar};
use crate::function::Function;
use crate::handler::{Handler, Settings};
use crate::problems::Problems;

const GRAMMAR: Grammar = Grammar {
    attribute: "#[subscriber]",
    keys: &[
        "queue",
        "lease_ttl",
        "lease_ttl_seconds",
        "timeout",
        "timeout_seconds",
        "max_attempts",
        "retry",
        "crate",
    ],
    elsewhere: &[
        ("kind", "the payload's `#[message(kind = \"..\")]` says it"),
        (
            "aliases",
            "the payload's `#[message(aliases(\"..\"))]` says them",
        ),
        ("group", "the payload's `#[message(group = ..)]` says it"),
        ("key", "the payload's `#[message(key = ..)]` says it"),
        (
            "priority",
            "the producer sets it on the draft, with `.priority(..)`",
        ),
    ],
};

pub(crate) fn expand(args: TokenStream, item: TokenStream) -> TokenStream {
    let mut problems = Problems::default();
    let mut args = Args::parse(args, &GRAMMAR, &mut problems);
    let function = Function::parse(item.clone(), GRAMMAR.attribute, &mut problems);
    let private = args.private(&mut problems);
    let queue = args.name("queue", &mut problems);
    let mut settings = Settings::parse(&mut args, &mut problems);
    if let Some(max_attempts) = args.max_attempts(&mut problems) {
        settings.max_attempts(max_attempts);
    }
    let generated =
        function.map(|function| generate(&function, &private, queue.as_ref(), settings));
    let errors = problems.into_tokens();
    quote! {
        #item
        #generated
        #errors
    }
}

fn generate(
    function: &Function,
    private: &TokenStream,
    queue: Option<&LitStr>,
    settings: Settings,
) -> TokenStream {
    let name = function.name.unraw();
    let payload = function.handler.as_ref().map(|handler| &handler.payload);
    let message = quote!(<#payload as #private::Message>);
    Handler {
        function,
        private,
        doc: format!("The subscriber [`{name}`](fn@{name}) as a type: registers it with a worker."),
        queue: match queue {
            Some(queue) => quote!(#queue),
            None => quote!(#message::QUEUE),
        },
        kinds: quote! {
            ::core::iter::once(&#message::KIND)
                .chain(#message::aliases())
                .map(|&kind| ::std::borrow::Cow::Borrowed(kind))
                .collect()
        },
        settings,
    }
    .expand()
}
