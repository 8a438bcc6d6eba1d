//! What the values of settings mean: names, numbers, durations, paths. Every reader reports what
//! is wrong and then answers as if the setting had not been given.

use std::ops::RangeInclusive;
use std::time::Duration;

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Expr, ExprLit, ExprPath, ExprUnary, Ident, Lit, LitStr, Path, UnOp};

use crate::args::{Args, Entry, Value, example};
use crate::problems::Problems;

/// Longest kind or queue, in bytes.
const MAX_NAME_BYTES: usize = 255;
/// Attempts a message may have.
const ATTEMPTS: RangeInclusive<i128> = 1..=32_767;
/// Priorities a message may have.
const PRIORITIES: RangeInclusive<i128> = -3..=3;
/// How long a lease may be.
const LEASE_TTL: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);

impl Args {
    /// A kind or a queue.
    pub(crate) fn name(&mut self, key: &str, problems: &mut Problems) -> Option<LitStr> {
        let text = self.text(key, problems)?;
        check_name(key, &text, problems).then_some(text)
    }

    /// Names the item had before; none of them twice, and none of them `kind`.
    pub(crate) fn aliases(&mut self, kind: &str, problems: &mut Problems) -> Vec<LitStr> {
        let Some(Entry {
            value: Value::List(list),
            ..
        }) = self.take("aliases")
        else {
            return Vec::new();
        };
        let mut aliases: Vec<LitStr> = Vec::new();
        for alias in list {
            let alias = ungroup(alias);
            let Some(alias) = as_text(&alias) else {
                problems.at(alias, "an alias is a string, such as `\"old.name\"`");
                continue;
            };
            if !check_name("alias", &alias, problems) {
                continue;
            }
            let name = alias.value();
            if name == kind {
                problems.at(alias, format!("the alias {name:?} is the kind itself"));
            } else if aliases.iter().any(|known| known.value() == name) {
                problems.at(alias, format!("the alias {name:?} is given twice"));
            } else {
                aliases.push(alias);
            }
        }
        aliases
    }

    /// How often a message may run.
    pub(crate) fn max_attempts(&mut self, problems: &mut Problems) -> Option<u16> {
        let attempts = self.number("max_attempts", ATTEMPTS, problems)?;
        u16::try_from(attempts).ok()
    }

    /// The priority of a message.
    pub(crate) fn priority(&mut self, problems: &mut Problems) -> Option<i16> {
        let priority = self.number("priority", PRIORITIES, problems)?;
        i16::try_from(priority).ok()
    }

    /// `lease_ttl` or `lease_ttl_seconds`.
    pub(crate) fn lease_ttl(&mut self, problems: &mut Problems) -> Option<Duration> {
        let (at, lease_ttl) = self.duration("lease_ttl", "lease_ttl_seconds", problems)?;
        if LEASE_TTL.contains(&lease_ttl) {
            return Some(lease_ttl);
        }
        let problem = if lease_ttl.is_zero() {
            "zero: every message would be lost at once"
        } else if lease_ttl < *LEASE_TTL.start() {
            "shorter than a second: one slow commit would lose it"
        } else {
            "longer than 24 hours: a crash would go unnoticed, and long work is renewed anyway"
        };
        problems.at(
            at,
            format!("the lease is {problem}; choose 1 second to 24 hours"),
        );
        None
    }

    /// `timeout` or `timeout_seconds`.
    pub(crate) fn timeout(&mut self, problems: &mut Problems) -> Option<Duration> {
        let (at, timeout) = self.duration("timeout", "timeout_seconds", problems)?;
        if timeout.is_zero() {
            problems.at(
                at,
                "the timeout is zero, and no run could finish; leave it out for no limit",
            );
            return None;
        }
        Some(timeout)
    }

    /// Any expression; its type is checked where it is used.
    pub(crate) fn expression(&mut self, key: &str) -> Option<Expr> {
        match self.take(key)?.value {
            Value::One(value) => Some(value),
            Value::List(_) => None,
        }
    }

    /// The module that holds what expansions name: `__private` of the crate the user depends on.
    pub(crate) fn private(&mut self, problems: &mut Problems) -> TokenStream {
        let Some(value) = self.expression("crate").map(ungroup) else {
            return quote!(::outbox::__private);
        };
        let path = match &value {
            Expr::Path(ExprPath {
                qself: None, path, ..
            }) => Ok(path.clone()),
            other => match as_text(other) {
                Some(text) => text.parse_with(Path::parse_mod_style),
                None => Err(syn::Error::new_spanned(
                    other,
                    format!("`crate` takes a path, such as `{}`", example("crate")),
                )),
            },
        };
        match path {
            Ok(path) => quote!(#path::__private),
            Err(error) => {
                problems.push(error);
                quote!(::outbox::__private)
            }
        }
    }

    fn text(&mut self, key: &str, problems: &mut Problems) -> Option<LitStr> {
        let value = ungroup(self.expression(key)?);
        let text = as_text(&value);
        if text.is_none() {
            problems.at(
                value,
                format!("`{key}` takes a string, such as `{}`", example(key)),
            );
        }
        text
    }

    fn number(
        &mut self,
        key: &str,
        range: RangeInclusive<i128>,
        problems: &mut Problems,
    ) -> Option<i128> {
        let value = ungroup(self.expression(key)?);
        let Some(number) = as_number(&value) else {
            problems.at(
                value,
                format!("`{key}` takes a whole number, such as `{}`", example(key)),
            );
            return None;
        };
        if !range.contains(&number) {
            let (first, last) = range.into_inner();
            problems.at(
                value,
                format!("`{key}` is {number}, and must be from {first} to {last}"),
            );
            return None;
        }
        Some(number)
    }

    fn duration(
        &mut self,
        text_key: &str,
        seconds_key: &str,
        problems: &mut Problems,
    ) -> Option<(Expr, Duration)> {
        if let Some(at) = self.both(text_key, seconds_key) {
            problems.at(
                at,
                format!("`{text_key}` and `{seconds_key}` are the same setting; keep one of them"),
            );
            return None;
        }
        if let Some(value) = self.expression(seconds_key) {
            let value = ungroup(value);
            let seconds = as_number(&value).and_then(|seconds| u64::try_from(seconds).ok());
            let Some(seconds) = seconds else {
                problems.at(
                    value,
                    format!(
                        "`{seconds_key}` takes whole seconds, such as `{}`; for other units write `{}`",
                        example(seconds_key),
                        example(text_key)
                    ),
                );
                return None;
            };
            return Some((value, Duration::from_secs(seconds)));
        }
        let value = ungroup(self.expression(text_key)?);
        let Some(text) = as_text(&value) else {
            problems.at(
                value,
                format!(
                    "`{text_key}` takes a string, such as `{}`; for a number write `{}`",
                    example(text_key),
                    example(seconds_key)
                ),
            );
            return None;
        };
        let Some(duration) = parse_duration(&text.value()) else {
            problems.at(
                text,
                "not a duration: write a whole number and a unit, such as \"500ms\", \"30s\", \"5m\" or \"1h\"",
            );
            return None;
        };
        Some((value, duration))
    }

    /// Takes two settings out if both were given, and answers where the second is.
    fn both(&mut self, first: &str, second: &str) -> Option<Ident> {
        let entry = self.take(first)?;
        match self.take(second) {
            Some(second) => Some(second.key),
            None => {
                self.put_back(entry);
                None
            }
        }
    }
}

/// The tokens of a duration.
pub(crate) fn duration_tokens(duration: Duration) -> TokenStream {
    let seconds = duration.as_secs();
    if duration.subsec_nanos() == 0 {
        quote!(::core::time::Duration::from_secs(#seconds))
    } else {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        quote!(::core::time::Duration::from_millis(#millis))
    }
}

/// Checks a kind or queue as the core does when a message is enqueued. `problems` gets at most
/// one entry.
fn check_name(what: &str, text: &LitStr, problems: &mut Problems) -> bool {
    let name = text.value();
    let problem = if name.is_empty() {
        format!("the {what} is empty")
    } else if name.trim().is_empty() {
        format!("the {what} is only whitespace, and needs a character that can be seen")
    } else if name.len() > MAX_NAME_BYTES {
        format!(
            "the {what} has {} bytes, the limit is {MAX_NAME_BYTES}",
            name.len()
        )
    } else if name.contains('\0') {
        format!("the {what} contains a NUL character, which databases refuse")
    } else {
        return true;
    };
    problems.at(text, problem);
    false
}

fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let seconds = match unit {
        "ms" => return Some(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return None,
    };
    number.checked_mul(seconds).map(Duration::from_secs)
}

/// Values that a `macro_rules!` macro passes on are wrapped in invisible groups.
fn ungroup(value: Expr) -> Expr {
    match value {
        Expr::Group(group) => ungroup(*group.expr),
        other => other,
    }
}

fn as_text(value: &Expr) -> Option<LitStr> {
    match value {
        Expr::Lit(ExprLit {
            lit: Lit::Str(text),
            ..
        }) => Some(text.clone()),
        _ => None,
    }
}

fn as_number(value: &Expr) -> Option<i128> {
    match value {
        Expr::Lit(ExprLit {
            lit: Lit::Int(number),
            ..
        }) => number.base10_parse().ok(),
        Expr::Unary(ExprUnary {
            op: UnOp::Neg(_),
            expr,
            ..
        }) => as_number(expr).map(|number| -number),
        Expr::Group(group) => as_number(&group.expr),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_of_the_core() {
        assert_eq!(MAX_NAME_BYTES, outbox_core::MAX_NAME_BYTES);
        assert_eq!(*LEASE_TTL.start(), outbox_core::MIN_LEASE_TTL);
        assert_eq!(*LEASE_TTL.end(), outbox_core::MAX_LEASE_TTL);
        assert_eq!(
            *PRIORITIES.start(),
            i128::from(*outbox_core::PRIORITIES.start())
        );
        assert_eq!(
            *PRIORITIES.end(),
            i128::from(*outbox_core::PRIORITIES.end())
        );
        let draft = |attempts| outbox_core::Draft::json("q", "k", &0).max_attempts(attempts);
        assert!(draft(32_767).check(9).is_ok());
        assert!(draft(32_768).check(9).is_err());
    }

    #[test]
    fn the_names_that_are_accepted_are_those_of_the_core() {
        let longest = "n".repeat(255);
        let too_long = "n".repeat(256);
        for (name, good) in [
            ("", false),
            (" ", false),
            ("\t\n", false),
            ("\u{2003}", false),
            ("a\0b", false),
            (&*too_long, false),
            (" a b ", true),
            (&*longest, true),
        ] {
            let text = LitStr::new(name, proc_macro2::Span::call_site());
            let here = check_name("kind", &text, &mut Problems::default());
            let by_core = outbox_core::check_name("kind", name).is_ok();
            assert_eq!((here, by_core), (good, good), "{name:?}");
        }
    }

    #[test]
    fn durations_are_a_whole_number_and_a_unit() {
        for (text, millis) in [
            ("500ms", Some(500)),
            ("30s", Some(30_000)),
            ("5m", Some(300_000)),
            ("24h", Some(86_400_000)),
            ("0s", Some(0)),
            ("30", None),
            ("s", None),
            ("", None),
            ("1.5s", None),
            ("-1s", None),
            ("30 s", None),
            ("30sec", None),
            ("99999999999999999999s", None),
            ("18446744073709551615h", None),
        ] {
            let expected = millis.map(Duration::from_millis);
            assert_eq!(parse_duration(text), expected, "{text:?}");
        }
    }

    #[test]
    fn durations_are_written_in_the_largest_unit_that_fits() {
        let tokens = duration_tokens(Duration::from_secs(30)).to_string();
        assert!(tokens.contains("from_secs (30u64)"), "{tokens}");
        let tokens = duration_tokens(Duration::from_millis(1_500)).to_string();
        assert!(tokens.contains("from_millis (1500u64)"), "{tokens}");
    }
}
