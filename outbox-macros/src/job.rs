//! `#[job]`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::ext::IdentExt;
use syn::{LitStr, Type};

use crate::args::{Args, Grammar};
use crate::function::Function;
use crate::handler::{Handler, Settings};
use crate::problems::Problems;

const GRAMMAR: Grammar = Grammar {
    attribute: "#[job]",
    keys: &[
        "kind",
        "queue",
        "max_attempts",
        "timeout",
        "timeout_seconds",
        "lease_ttl",
        "lease_ttl_seconds",
        "retry",
        "aliases",
        "priority",
        "crate",
    ],
    elsewhere: &[
        (
            "group",
            "call `.group(..)` on the draft that `job(..)` returns",
        ),
        ("key", "call `.key(..)` on the draft that `job(..)` returns"),
        ("tag", "call `.tag(..)` on the draft that `job(..)` returns"),
    ],
};

pub(crate) fn expand(args: TokenStream, item: TokenStream) -> TokenStream {
    let mut problems = Problems::default();
    let mut args = Args::parse(args, &GRAMMAR, &mut problems);
    let function = Function::parse(item.clone(), GRAMMAR.attribute, &mut problems);
    let job = Job::parse(&mut args, function.as_ref(), &mut problems);
    let settings = Settings::parse(&mut args, &mut problems);
    let generated = function.map(|function| job.expand(&function, settings));
    let errors = problems.into_tokens();
    quote! {
        #item
        #generated
        #errors
    }
}

/// The settings of the messages of a job.
struct Job {
    private: TokenStream,
    kind: String,
    aliases: Vec<LitStr>,
    queue: String,
    max_attempts: Option<u16>,
    priority: Option<i16>,
}

impl Job {
    fn parse(args: &mut Args, function: Option<&Function>, problems: &mut Problems) -> Self {
        let kind = match args.name("kind", problems) {
            Some(kind) => kind.value(),
            None => function.map_or_else(String::new, |function| function.name.unraw().to_string()),
        };
        Self {
            private: args.private(problems),
            aliases: args.aliases(&kind, problems),
            kind,
            queue: args
                .name("queue", problems)
                .map_or_else(|| "default".to_owned(), |queue| queue.value()),
            max_attempts: args.max_attempts(problems),
            priority: args.priority(problems),
        }
    }

    fn expand(&self, function: &Function, settings: Settings) -> TokenStream {
        let name = function.name.unraw();
        let aliases = &self.aliases;
        let handler = Handler {
            function,
            private: &self.private,
            doc: format!(
                "The job [`{name}`](fn@{name}) as a type: drafts its messages, and registers it \
                 with a worker."
            ),
            queue: quote!(Self::QUEUE),
            kinds: quote! {
                ::std::vec![
                    ::std::borrow::Cow::Borrowed(Self::KIND),
                    #(::std::borrow::Cow::Borrowed(#aliases),)*
                ]
            },
            settings,
        }
        .expand();
        let items = self.items(function);
        quote!(#handler #items)
    }

    fn items(&self, function: &Function) -> TokenStream {
        let Function {
            shared, vis, name, ..
        } = function;
        let Self {
            private,
            kind,
            queue,
            ..
        } = self;
        let max_attempts = match self.max_attempts {
            Some(max_attempts) => quote!(#max_attempts),
            None => quote!(#private::DEFAULT_MAX_ATTEMPTS),
        };
        let draft = match &function.handler {
            Some(parameters) => self.draft(vis, &parameters.payload),
            None => quote! {
                #vis fn job<T>(_: T) -> #private::Draft {
                    ::core::unreachable!()
                }
            },
        };
        quote! {
            #(#shared)*
            #[allow(dead_code, deprecated, unreachable_pub, private_interfaces, clippy::all, clippy::pedantic, clippy::nursery)]
            impl #name {
                /// The stored name of its messages.
                #vis const KIND: &'static str = #kind;
                /// The queue its messages go to, and from which a worker takes them.
                #vis const QUEUE: &'static str = #queue;
                /// How often a message may run.
                #vis const MAX_ATTEMPTS: u16 = #max_attempts;

                /// Drafts a message that runs the function with this payload.
                #draft
            }
        }
    }

    fn draft(&self, vis: &syn::Visibility, payload: &Type) -> TokenStream {
        let private = &self.private;
        let priority = self.priority.map(|priority| quote!(.priority(#priority)));
        quote! {
            #vis fn job(payload: #payload) -> #private::Draft {
                #private::Draft::json::<#payload>(Self::QUEUE, Self::KIND, &payload)
                    .max_attempts(Self::MAX_ATTEMPTS)
                    #priority
            }
        }
    }
}
