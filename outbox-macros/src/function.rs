//! The annotated function: what an expansion needs to know about it, and the rules it must keep.
//! Its body is never read.

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::parse::{Parse, ParseStream};
use syn::{
    Attribute, FnArg, Ident, Item, PatType, ReturnType, Safety, Signature, Type, Visibility, token,
};

use crate::problems::Problems;

/// A free function with a body.
pub(crate) struct Function {
    /// The attributes that the generated items share with it: `#[cfg]` and `#[doc(hidden)]`.
    pub(crate) shared: Vec<Attribute>,
    pub(crate) vis: Visibility,
    pub(crate) name: Ident,
    /// Its parameters, if it can be a handler at all.
    pub(crate) handler: Option<Parameters>,
}

/// What a handler takes and gives.
pub(crate) struct Parameters {
    /// The type of the first parameter.
    pub(crate) payload: Type,
    /// The other parameters.
    pub(crate) extractors: Vec<Extractor>,
    /// The return type, if it can be written down again.
    pub(crate) output: Option<Type>,
}

/// A parameter after the first.
pub(crate) struct Extractor {
    /// Its `#[cfg]` attributes.
    pub(crate) cfgs: Vec<Attribute>,
    pub(crate) ty: Type,
}

impl Function {
    /// Reads the function under `#[attribute]`. `None` means that nothing can be generated beside
    /// it; what is wrong is in `problems`.
    pub(crate) fn parse(
        item: TokenStream,
        attribute: &str,
        problems: &mut Problems,
    ) -> Option<Self> {
        let head: Head = match syn::parse2(item.clone()) {
            Ok(head) => head,
            Err(error) => {
                problems.push(match syn::parse2::<Item>(item) {
                    Ok(other) => not_a_function(&other, attribute),
                    Err(_) => error,
                });
                return None;
            }
        };
        if !head.has_body {
            problems.at(
                &head.sig.ident,
                format!(
                    "`{attribute}` goes on a free function, not on a declaration without a body"
                ),
            );
            return None;
        }
        let sound = check_head(&head.sig, attribute, problems);
        if let Some(receiver) = head.sig.receiver() {
            problems.at(
                receiver,
                format!(
                    "`{attribute}` cannot go on a method: a worker has no `self` to call it on; \
                     make it a free function and take what it needs as `Data<T>`"
                ),
            );
            return None;
        }
        let parameters = parameters(&head.sig, attribute, problems);
        Some(Self {
            shared: head.attrs.into_iter().filter(is_shared).collect(),
            vis: head.vis,
            name: head.sig.ident,
            handler: parameters.filter(|_| sound),
        })
    }
}

/// A function up to its body.
struct Head {
    attrs: Vec<Attribute>,
    vis: Visibility,
    sig: Signature,
    has_body: bool,
}

impl Parse for Head {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let attrs = input.call(Attribute::parse_outer)?;
        let vis = input.parse()?;
        let sig = input.parse()?;
        let has_body = input.peek(token::Brace);
        input.parse::<TokenStream>()?;
        Ok(Self {
            attrs,
            vis,
            sig,
            has_body,
        })
    }
}

fn not_a_function(item: &Item, attribute: &str) -> syn::Error {
    let (what, at) = match item {
        Item::Struct(item) => ("a struct", item.ident.to_token_stream()),
        Item::Enum(item) => ("an enum", item.ident.to_token_stream()),
        Item::Trait(item) => ("a trait", item.ident.to_token_stream()),
        Item::Mod(item) => ("a module", item.ident.to_token_stream()),
        Item::Impl(item) => ("an impl block", item.self_ty.to_token_stream()),
        other => ("this item", other.to_token_stream()),
    };
    syn::Error::new_spanned(
        at,
        format!("`{attribute}` goes on an `async fn`, not on {what}"),
    )
}

/// The rules about everything but the parameters.
fn check_head(sig: &Signature, attribute: &str, problems: &mut Problems) -> bool {
    let before = problems.count();
    if sig.asyncness.is_none() {
        problems.at(
            sig.fn_token,
            "a handler is an `async fn`; run blocking code inside it with the extractor `Blocking`",
        );
    }
    if let Some(constness) = &sig.constness {
        problems.at(constness, "a handler cannot be a `const fn`");
    }
    if let Safety::Unsafe(unsafety) = &sig.safety {
        problems.at(
            unsafety,
            "a handler cannot be an `unsafe fn`: the worker calls it and can promise nothing",
        );
    }
    if let Some(abi) = &sig.abi {
        problems.at(abi, "a handler cannot be an `extern fn`");
    }
    if let Some(variadic) = &sig.variadic {
        problems.at(
            variadic.dots,
            "a handler takes a fixed number of parameters",
        );
    }
    if !sig.generics.params.is_empty() {
        problems.at(
            &sig.generics.params,
            format!(
                "a function with `{attribute}` cannot be generic: it is registered by its name \
                 alone, which leaves nobody to choose the parameters"
            ),
        );
    }
    problems.count() == before
}

fn parameters(sig: &Signature, attribute: &str, problems: &mut Problems) -> Option<Parameters> {
    let before = problems.count();
    let mut typed = sig.inputs.iter().filter_map(|input| match input {
        FnArg::Typed(typed) => Some(typed),
        FnArg::Receiver(_) => None,
    });
    let Some(payload) = typed.next() else {
        problems.push(missing_payload(sig, attribute));
        return None;
    };
    check_payload(payload, problems);
    let extractors = typed
        .map(|parameter| extractor(parameter, problems))
        .collect();
    let output = match &sig.output {
        ReturnType::Default => Some(syn::parse_quote!(())),
        ReturnType::Type(_, ty) => Some((**ty).clone()).filter(can_be_named),
    };
    (problems.count() == before).then(|| Parameters {
        payload: (*payload.ty).clone(),
        extractors,
        output,
    })
}

fn missing_payload(sig: &Signature, attribute: &str) -> syn::Error {
    let advice = if attribute == "#[job]" {
        "; write `_: ()` for a job without one"
    } else {
        ", a type with `#[derive(Message)]`"
    };
    syn::Error::new(
        sig.paren_token.span.join(),
        format!("the payload is missing: it is the first parameter{advice}"),
    )
}

fn check_payload(payload: &PatType, problems: &mut Problems) {
    let ty = &payload.ty;
    if let Some(owned) = owned(ty) {
        problems.at(
            ty,
            format!("the payload is decoded for this call and belongs to it: write `{owned}`"),
        );
    } else if mentions(ty, "&") {
        problems.at(
            ty,
            "the payload is decoded for this call and belongs to it, so it cannot borrow: \
             write `String` for `&str`, `Vec<T>` for `&[T]` and `T` for `&T`",
        );
    }
    if mentions(ty, "impl") {
        problems.at(
            ty,
            "the payload needs a type that can be decoded: name it instead of `impl Trait`",
        );
    }
    if let Some(cfg) = payload.attrs.iter().find(|attr| is_cfg(attr)) {
        problems.at(
            cfg,
            "the payload cannot depend on `#[cfg]`; put it on the function",
        );
    }
}

fn extractor(parameter: &PatType, problems: &mut Problems) -> Extractor {
    let ty = &parameter.ty;
    if let Some(owned) = owned(ty) {
        problems.at(
            ty,
            format!("extractors are made for this call and belong to it: write `{owned}`"),
        );
    } else if mentions(ty, "impl") {
        problems.at(
            ty,
            "an extractor is chosen by its type: name it instead of `impl Trait`",
        );
    }
    let cfgs = parameter.attrs.iter().filter(|attr| is_cfg(attr));
    Extractor {
        cfgs: cfgs.cloned().collect(),
        ty: (**ty).clone(),
    }
}

/// What to write instead of a reference; `None` if `ty` is not one.
fn owned(ty: &Type) -> Option<String> {
    match ty {
        Type::Reference(reference) => Some(match &*reference.elem {
            Type::Slice(slice) => format!("Vec<{}>", text(&slice.elem)),
            other if text(other) == "str" => "String".to_owned(),
            other => text(other),
        }),
        Type::Group(group) => owned(&group.elem),
        Type::Paren(paren) => owned(&paren.elem),
        _ => None,
    }
}

/// A type close to how people write it; `quote` puts a space between any two tokens.
fn text(ty: &Type) -> String {
    let mut text = ty.to_token_stream().to_string();
    for (spaced, tight) in [(" < ", "<"), (" >", ">"), (" :: ", "::"), (" ,", ",")] {
        text = text.replace(spaced, tight);
    }
    text
}

fn can_be_named(ty: &Type) -> bool {
    !matches!(ty, Type::Never(_)) && !mentions(ty, "impl")
}

/// Whether a token of `ty`, at any depth, is `token`.
fn mentions(ty: &Type, token: &str) -> bool {
    fn found(tokens: TokenStream, wanted: &str) -> bool {
        tokens.into_iter().any(|token| match token {
            TokenTree::Ident(ident) => ident == wanted,
            TokenTree::Punct(punct) => wanted.starts_with(punct.as_char()),
            TokenTree::Group(group) => found(group.stream(), wanted),
            TokenTree::Literal(_) => false,
        })
    }
    found(ty.to_token_stream(), token)
}

fn is_cfg(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg")
}

fn is_shared(attribute: &Attribute) -> bool {
    let is_hidden = || {
        attribute
            .parse_args::<Ident>()
            .is_ok_and(|argument| argument == "hidden")
    };
    is_cfg(attribute) || (attribute.path().is_ident("doc") && is_hidden())
}
