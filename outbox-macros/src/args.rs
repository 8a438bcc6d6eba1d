//! The grammar of attributes: `key = value` and `aliases("..")`, separated by commas. What the
//! values mean is in `values.rs`.

use proc_macro2::{TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::{Expr, Ident, Token, token};

use crate::problems::Problems;

/// Every key of every macro, with an example for messages.
const EXAMPLES: &[(&str, &str)] = &[
    ("aliases", r#"aliases("old.name")"#),
    ("crate", "crate = my_crate::outbox"),
    ("group", "group = self.customer"),
    ("key", "key = self.id"),
    ("kind", r#"kind = "order.placed""#),
    ("lease_ttl", r#"lease_ttl = "30s""#),
    ("lease_ttl_seconds", "lease_ttl_seconds = 30"),
    ("max_attempts", "max_attempts = 8"),
    ("priority", "priority = -1"),
    ("queue", r#"queue = "mail""#),
    ("retry", "retry = RetryPolicy::Never"),
    ("timeout", r#"timeout = "5s""#),
    ("timeout_seconds", "timeout_seconds = 5"),
];

/// What one macro accepts.
pub(crate) struct Grammar {
    /// How the user writes the attribute.
    pub(crate) attribute: &'static str,
    /// The keys it knows, in the order in which messages list them.
    pub(crate) keys: &'static [&'static str],
    /// Keys a user may expect here, and where they belong instead.
    pub(crate) elsewhere: &'static [(&'static str, &'static str)],
}

/// The settings of one attribute, each read by taking it out.
#[derive(Default)]
pub(crate) struct Args(Vec<Entry>);

/// One setting.
pub(crate) struct Entry {
    pub(crate) key: Ident,
    pub(crate) value: Value,
}

/// What was written after a key.
pub(crate) enum Value {
    /// `key = value`.
    One(Expr),
    /// `key(value, ..)`.
    List(Vec<Expr>),
}

impl Args {
    /// Reads the settings in `tokens`. A setting that cannot be read is reported and left out.
    pub(crate) fn parse(tokens: TokenStream, grammar: &Grammar, problems: &mut Problems) -> Self {
        let mut args = Self::default();
        args.extend(tokens, grammar, problems);
        args
    }

    /// Reads more settings, from a second attribute of the same name.
    pub(crate) fn extend(
        &mut self,
        tokens: TokenStream,
        grammar: &Grammar,
        problems: &mut Problems,
    ) {
        let read = |input: ParseStream<'_>| {
            while !input.is_empty() {
                match entry(input, grammar) {
                    Ok(entry) => self.add(entry, problems),
                    Err(error) => {
                        problems.push(error);
                        skip_to_comma(input);
                    }
                }
                if !input.is_empty() && !input.peek(Token![,]) {
                    problems.push(input.error("expected `,` between two settings"));
                    skip_to_comma(input);
                }
                input.parse::<Option<Token![,]>>()?;
            }
            Ok(())
        };
        if let Err(error) = read.parse2(tokens) {
            problems.push(error);
        }
    }

    fn add(&mut self, entry: Entry, problems: &mut Problems) {
        if self.0.iter().any(|known| known.key == entry.key) {
            let message = format!("`{}` is set twice", entry.key);
            problems.at(entry.key, message);
        } else {
            self.0.push(entry);
        }
    }

    /// Takes the setting of `key` out, if it was given.
    pub(crate) fn take(&mut self, key: &str) -> Option<Entry> {
        let place = self.0.iter().position(|entry| entry.key == key)?;
        Some(self.0.swap_remove(place))
    }

    /// Puts back what was taken out.
    pub(crate) fn put_back(&mut self, entry: Entry) {
        self.0.push(entry);
    }
}

/// An example of how to write `key`.
pub(crate) fn example(key: &str) -> &'static str {
    EXAMPLES
        .iter()
        .find(|(name, _)| *name == key)
        .map_or(r#"queue = "mail""#, |(_, example)| example)
}

fn entry(input: ParseStream<'_>, grammar: &Grammar) -> syn::Result<Entry> {
    let Ok(key) = input.call(Ident::parse_any) else {
        return Err(input.error(format!(
            "expected `key = value`, such as `{}`",
            example("queue")
        )));
    };
    let name = key.to_string();
    if !grammar.keys.contains(&name.as_str()) {
        return Err(syn::Error::new(key.span(), unknown(&name, grammar)));
    }
    let takes_list = name == "aliases";
    if takes_list && input.peek(token::Paren) {
        let content;
        syn::parenthesized!(content in input);
        let list = Punctuated::<Expr, Token![,]>::parse_terminated(&content)?;
        let value = Value::List(list.into_iter().collect());
        return Ok(Entry { key, value });
    }
    if !takes_list && input.peek(Token![=]) {
        input.parse::<Token![=]>()?;
        if !input.is_empty() && !input.peek(Token![,]) {
            let value = Value::One(input.parse()?);
            return Ok(Entry { key, value });
        }
    }
    let message = if takes_list {
        format!("`{name}` takes a list: `{}`", example(&name))
    } else {
        format!("`{name}` needs `=` and a value: `{}`", example(&name))
    };
    Err(syn::Error::new(key.span(), message))
}

fn unknown(name: &str, grammar: &Grammar) -> String {
    let attribute = grammar.attribute;
    if let Some((_, advice)) = grammar.elsewhere.iter().find(|(key, _)| *key == name) {
        return format!("`{name}` is not a setting of `{attribute}`: {advice}");
    }
    let known: Vec<_> = grammar.keys.iter().map(|key| format!("`{key}`")).collect();
    let guess = match nearest(name, grammar.keys) {
        Some(key) => format!("did you mean `{key}`? "),
        None => String::new(),
    };
    format!(
        "unknown key `{name}`; {guess}the keys of `{attribute}` are {}",
        known.join(", ")
    )
}

/// The key a user probably meant: a word often used for it, or one at most a third of whose
/// letters differ.
fn nearest<'a>(name: &str, keys: &[&'a str]) -> Option<&'a str> {
    let usual = match name {
        "name" | "type" => "kind",
        "topic" | "channel" => "queue",
        "attempts" | "retries" | "max_retries" => "max_attempts",
        "backoff" | "retry_policy" => "retry",
        "ttl" | "lease" => "lease_ttl",
        "path" => "crate",
        _ => name,
    };
    keys.iter()
        .map(|key| (distance(usual, key), *key))
        .filter(|(distance, key)| distance * 3 <= key.len())
        .min()
        .map(|(_, key)| key)
}

/// Levenshtein's distance, over bytes: keys are ASCII.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, b) in right.bytes().enumerate() {
            let replace = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

fn skip_to_comma(input: ParseStream<'_>) {
    while !input.is_empty() && !input.peek(Token![,]) {
        if input.parse::<TokenTree>().is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("queue", "queue"), 0);
        assert_eq!(distance("qeue", "queue"), 1);
        assert_eq!(distance("lease_ttl_secs", "lease_ttl_seconds"), 3);
        assert_eq!(distance("", "key"), 3);
    }

    #[test]
    fn near_misses_and_usual_words_are_recognised() {
        let keys = ["kind", "queue", "lease_ttl", "lease_ttl_seconds", "aliases"];
        for (written, meant) in [
            ("lease_ttl_secs", Some("lease_ttl_seconds")),
            ("lease_tll", Some("lease_ttl")),
            ("Queue", Some("queue")),
            ("alias", Some("aliases")),
            ("topic", Some("queue")),
            ("colour", None),
            ("backoff", None),
        ] {
            assert_eq!(nearest(written, &keys), meant, "{written}");
        }
    }

    #[test]
    fn every_example_is_a_setting_that_parses() {
        for (key, example) in EXAMPLES {
            let grammar = Grammar {
                attribute: "#[test]",
                keys: std::slice::from_ref(key),
                elsewhere: &[],
            };
            let mut problems = Problems::default();
            let tokens = example.parse().expect("examples are Rust tokens");
            let mut args = Args::parse(tokens, &grammar, &mut problems);
            assert_eq!(problems.count(), 0, "{example}");
            assert!(args.take(key).is_some(), "{example}");
        }
    }
}
