//! What `#[job]` and `#[subscriber]` share: the struct of the function's name and its
//! `impl Handler`.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Expr, Ident};

use crate::args::Args;
use crate::function::{Function, Parameters};
use crate::problems::Problems;
use crate::values::duration_tokens;

/// Settings of a handler, as opposed to those of its messages.
#[derive(Default)]
pub(crate) struct Settings(TokenStream);

impl Settings {
    /// Reads `lease_ttl`, `timeout` and `retry`.
    pub(crate) fn parse(args: &mut Args, problems: &mut Problems) -> Self {
        let mut settings = Self::default();
        if let Some(lease_ttl) = args.lease_ttl(problems).map(duration_tokens) {
            settings.add(quote!(.lease_ttl(#lease_ttl)));
        }
        if let Some(timeout) = args.timeout(problems).map(duration_tokens) {
            settings.add(quote!(.timeout(#timeout)));
        }
        if let Some(retry) = args.expression("retry") {
            settings.retry(&retry);
        }
        settings
    }

    /// Sets the attempts, whatever the message says.
    pub(crate) fn max_attempts(&mut self, max_attempts: u16) {
        self.add(quote!(.max_attempts(#max_attempts)));
    }

    fn retry(&mut self, retry: &Expr) {
        self.add(quote!(.retry(#retry)));
    }

    fn add(&mut self, call: TokenStream) {
        self.0.extend(call);
    }
}

/// What is generated for one function.
pub(crate) struct Handler<'a> {
    pub(crate) function: &'a Function,
    /// The `__private` module.
    pub(crate) private: &'a TokenStream,
    /// The documentation of the struct.
    pub(crate) doc: String,
    /// An expression for the queue.
    pub(crate) queue: TokenStream,
    /// An expression for the kinds.
    pub(crate) kinds: TokenStream,
    pub(crate) settings: Settings,
}

impl Handler<'_> {
    /// The struct and its `impl Handler`.
    pub(crate) fn expand(&self) -> TokenStream {
        let Function {
            shared, vis, name, ..
        } = self.function;
        let Self { private, doc, .. } = self;
        let methods = match &self.function.handler {
            Some(parameters) => self.methods(parameters),
            None => self.silent_methods(),
        };
        quote! {
            #(#shared)*
            #[doc = #doc]
            #[allow(non_camel_case_types, unreachable_pub, missing_debug_implementations, missing_copy_implementations)]
            #vis struct #name {}

            #(#shared)*
            #[automatically_derived]
            #[allow(deprecated, clippy::all, clippy::pedantic, clippy::nursery)]
            impl #private::Handler for #name {
                #methods
            }
        }
    }

    fn methods(&self, parameters: &Parameters) -> TokenStream {
        let Self {
            function,
            private,
            queue,
            kinds,
            settings: Settings(settings),
            ..
        } = self;
        let name = &function.name;
        let text = name.unraw().to_string();
        let requires = requires(parameters, private);
        let call = call(name, parameters, private);
        quote! {
            fn definition() -> #private::Definition {
                #private::Definition::new(#text, #queue)
                    .kinds(#kinds)
                    #settings
                    .location(::core::concat!(::core::file!(), ":", ::core::line!()))
            }

            #requires

            #call
        }
    }

    /// Methods for a function that cannot be a handler: its own errors are enough, and those of
    /// every place that registers it would hide them.
    fn silent_methods(&self) -> TokenStream {
        let private = self.private;
        quote! {
            fn definition() -> #private::Definition {
                ::core::unreachable!()
            }

            fn requires(_: &mut #private::Requirements) {}

            fn call(_: #private::Context) -> #private::BoxFuture<'static, #private::Outcome> {
                ::core::unreachable!()
            }
        }
    }
}

fn requires(parameters: &Parameters, private: &TokenStream) -> TokenStream {
    // Locals get the macro's own hygiene: a user's function may be named like one of them.
    let requirements = Ident::new("requirements", Span::mixed_site());
    if parameters.extractors.is_empty() {
        return quote!(fn requires(_: &mut #private::Requirements) {});
    }
    let statements = parameters.extractors.iter().map(|extractor| {
        let cfgs = &extractor.cfgs;
        let ty = &extractor.ty;
        quote!(#(#cfgs)* <#ty as #private::FromContext>::requires(#requirements);)
    });
    quote! {
        fn requires(#requirements: &mut #private::Requirements) {
            #(#statements)*
        }
    }
}

fn call(name: &Ident, parameters: &Parameters, private: &TokenStream) -> TokenStream {
    let context = Ident::new("context", Span::mixed_site());
    let value = Ident::new("value", Span::mixed_site());
    let failure = Ident::new("failure", Span::mixed_site());
    let take = |made: TokenStream| {
        quote! {
            match #made {
                ::core::result::Result::Ok(#value) => #value,
                ::core::result::Result::Err(#failure) => {
                    return #private::IntoOutcome::into_outcome(#failure);
                }
            }
        }
    };

    let payload = Ident::new("payload", Span::mixed_site());
    let payload_ty = &parameters.payload;
    let decode = take(quote_spanned!(payload_ty.span()=> #context.decode::<#payload_ty>()));
    let mut statements = quote!(let #payload: #payload_ty = #decode;);
    let mut arguments = quote!(#payload);
    for (index, extractor) in parameters.extractors.iter().enumerate() {
        let argument = format_ident!("extracted_{}", index + 1, span = Span::mixed_site());
        let cfgs = &extractor.cfgs;
        let ty = &extractor.ty;
        let made = take(quote!(<#ty as #private::FromContext>::from_context(&#context)));
        statements.extend(quote!(#(#cfgs)* let #argument = #made;));
        arguments.extend(quote!(, #(#cfgs)* #argument));
    }

    let into_outcome = match &parameters.output {
        Some(output) => quote!(<#output as #private::IntoOutcome>::into_outcome),
        None => quote!(#private::IntoOutcome::into_outcome),
    };
    // At the function's name, so that a future that is not `Send` is reported there.
    let body = quote_spanned! {name.span()=>
        ::std::boxed::Box::pin(async move {
            #statements
            #into_outcome(#name(#arguments).await)
        })
    };
    quote! {
        fn call(#context: #private::Context) -> #private::BoxFuture<'static, #private::Outcome> {
            #body
        }
    }
}
