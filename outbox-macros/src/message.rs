//! `#[derive(Message)]`.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Attribute, Data, DeriveInput, Expr, LitStr, Meta, Type};

use crate::args::{Args, Grammar};
use crate::problems::Problems;

const GRAMMAR: Grammar = Grammar {
    attribute: "#[message]",
    keys: &[
        "kind",
        "queue",
        "group",
        "key",
        "max_attempts",
        "aliases",
        "crate",
    ],
    elsewhere: &[
        ("lease_ttl", HANDLER),
        ("lease_ttl_seconds", HANDLER),
        ("timeout", HANDLER),
        ("timeout_seconds", HANDLER),
        ("retry", HANDLER),
        (
            "priority",
            "the producer sets it on the draft, with `.priority(..)`",
        ),
        ("tag", "the producer sets it on the draft, with `.tag(..)`"),
    ],
};

const HANDLER: &str = "it belongs to who handles the message, in `#[subscriber(..)]`";

pub(crate) fn expand(item: TokenStream) -> TokenStream {
    let input: DeriveInput = match syn::parse2(item) {
        Ok(input) => input,
        Err(error) => return error.to_compile_error(),
    };
    let mut problems = Problems::default();
    let args = arguments(&input, &mut problems);
    let message = Message::parse(args, &input, &mut problems);
    check_members(&input.data, &mut problems);
    let generated = check_shape(&input, &mut problems).then(|| message.expand(&input));
    let errors = problems.into_tokens();
    quote! {
        #generated
        #errors
    }
}

/// The settings of every `#[message(..)]` on the type.
fn arguments(input: &DeriveInput, problems: &mut Problems) -> Args {
    let mut args = Args::default();
    for attribute in input.attrs.iter().filter(|attribute| is_ours(attribute)) {
        match &attribute.meta {
            Meta::List(list) => args.extend(list.tokens.clone(), &GRAMMAR, problems),
            Meta::Path(_) | Meta::NameValue(_) => problems.at(
                attribute,
                "write `#[message(..)]`, with settings such as `queue = \"orders\"`",
            ),
        }
    }
    args
}

/// Whether the type can be a message.
fn check_shape(input: &DeriveInput, problems: &mut Problems) -> bool {
    if !input.generics.params.is_empty() {
        problems.at(
            &input.generics.params,
            "a message cannot be generic: every message of a kind has the same type",
        );
    }
    if let Data::Union(data) = &input.data {
        problems.at(
            data.union_token,
            "a union cannot be a message: nobody knows which of its fields to store",
        );
    }
    input.generics.params.is_empty() && !matches!(input.data, Data::Union(_))
}

/// `#[message(..)]` inside the type, where it means nothing.
fn check_members(data: &Data, problems: &mut Problems) {
    let attributes: Vec<&Attribute> = match data {
        Data::Struct(data) => data.fields.iter().flat_map(|field| &field.attrs).collect(),
        Data::Enum(data) => {
            let members = data.variants.iter().flat_map(|variant| {
                let fields = variant.fields.iter().flat_map(|field| &field.attrs);
                variant.attrs.iter().chain(fields)
            });
            members.collect()
        }
        Data::Union(_) => Vec::new(),
    };
    for attribute in attributes
        .into_iter()
        .filter(|attribute| is_ours(attribute))
    {
        problems.at(
            attribute,
            "`#[message(..)]` goes on the type; it names a field as `key = self.field`",
        );
    }
}

fn is_ours(attribute: &Attribute) -> bool {
    attribute.path().is_ident("message")
}

/// The settings of a message type.
struct Message {
    private: TokenStream,
    kind: String,
    aliases: Vec<LitStr>,
    queue: String,
    max_attempts: Option<u16>,
    group: Option<Expr>,
    key: Option<Expr>,
}

impl Message {
    fn parse(mut args: Args, input: &DeriveInput, problems: &mut Problems) -> Self {
        let kind = args.name("kind", problems).map_or_else(
            || snake_case(&input.ident.unraw().to_string()),
            |kind| kind.value(),
        );
        Self {
            private: args.private(problems),
            aliases: args.aliases(&kind, problems),
            kind,
            queue: args
                .name("queue", problems)
                .map_or_else(|| "default".to_owned(), |queue| queue.value()),
            max_attempts: args.max_attempts(problems),
            group: text_setting(&mut args, "group", &input.data, problems),
            key: text_setting(&mut args, "key", &input.data, problems),
        }
    }

    fn expand(&self, input: &DeriveInput) -> TokenStream {
        let Self {
            private,
            kind,
            aliases,
            queue,
            ..
        } = self;
        let name = &input.ident;
        let max_attempts = self
            .max_attempts
            .map(|max_attempts| quote!(const MAX_ATTEMPTS: u16 = #max_attempts;));
        let aliases = (!aliases.is_empty()).then(|| {
            quote! {
                fn aliases() -> &'static [&'static str] {
                    &[#(#aliases),*]
                }
            }
        });
        let group = self.group.as_ref().map(|group| text_of("group", group));
        let key = self.key.as_ref().map(|key| text_of("key", key));
        quote! {
            #[automatically_derived]
            #[allow(deprecated)]
            impl #private::Message for #name {
                const KIND: &'static str = #kind;
                const QUEUE: &'static str = #queue;
                #max_attempts
                #aliases
                #group
                #key
            }
        }
    }
}

/// The expression of `group` or `key`. One that is plainly an `Option` is refused here: the
/// compiler would only say that it has no `Display`.
fn text_setting(args: &mut Args, key: &str, data: &Data, problems: &mut Problems) -> Option<Expr> {
    let value = args.expression(key)?;
    if is_optional_field(&value, data) {
        problems.at(
            &value,
            format!(
                "this field is an `Option`, and `{key}` is a setting of every message of the type; \
                 leave it out, and call `.{key}(..)` on the draft of a message that has one"
            ),
        );
        return None;
    }
    Some(value)
}

/// Whether `value` is `self.field` and the field's type is written as an `Option`.
fn is_optional_field(value: &Expr, data: &Data) -> bool {
    let (Expr::Field(value), Data::Struct(data)) = (value, data) else {
        return false;
    };
    let of_self = matches!(&*value.base, Expr::Path(base) if base.path.is_ident("self"));
    let mut fields = data.fields.members().zip(&data.fields);
    of_self
        && fields.any(|(member, field)| {
            let Type::Path(of) = &field.ty else {
                return false;
            };
            let last = of.path.segments.last();
            member == value.member && last.is_some_and(|last| last.ident == "Option")
        })
}

/// A method `name` that gives `value` as text.
fn text_of(name: &str, value: &Expr) -> TokenStream {
    let name = format_ident!("{name}");
    // At the value, so that one that cannot be written as text is reported there.
    let text = quote_spanned!(value.span()=> ::std::string::ToString::to_string(&(#value)));
    quote! {
        fn #name(&self) -> ::core::option::Option<::std::string::String> {
            ::core::option::Option::Some(#text)
        }
    }
}

/// `OrderPlaced` becomes `order_placed`, `HTTPRequest` becomes `http_request`.
fn snake_case(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut snake = String::new();
    for (index, letter) in letters.iter().enumerate() {
        let after = index.checked_sub(1).map(|before| letters[before]);
        let starts_word = letter.is_uppercase()
            && after.is_some_and(|after| {
                let next_is_small = letters
                    .get(index + 1)
                    .is_some_and(|next| next.is_lowercase());
                after != '_' && (!after.is_uppercase() || next_is_small)
            });
        if starts_word {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_types_are_snake_case() {
        for (name, kind) in [
            ("OrderPlaced", "order_placed"),
            ("HTTPRequest", "http_request"),
            ("V2Order", "v2_order"),
            ("Order", "order"),
            ("order_placed", "order_placed"),
            ("Order_Placed", "order_placed"),
            ("ParseHTTP", "parse_http"),
            ("Überweisung", "überweisung"),
        ] {
            assert_eq!(snake_case(name), kind);
        }
    }
}
