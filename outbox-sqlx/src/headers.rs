//! Headers as the JSON text that both databases keep.

use std::collections::BTreeMap;

use outbox_core::Headers;

/// Headers as JSON, `None` where there are none.
pub(crate) fn headers_json(headers: &Headers) -> Option<String> {
    if headers.is_empty() {
        return None;
    }
    let object = headers
        .0
        .iter()
        .map(|(name, value)| (name.clone(), serde_json::Value::from(value.as_str())))
        .collect::<serde_json::Map<_, _>>();
    Some(serde_json::Value::Object(object).to_string())
}

/// Headers from JSON. Other programs may write messages: a value that is no text is given as its
/// JSON, and what is no object as no headers, because one such message must not fail a claim.
pub(crate) fn headers_from(json: Option<&str>) -> Headers {
    let Some(json) = json else {
        return Headers::default();
    };
    let Ok(serde_json::Value::Object(object)) = serde_json::from_str(json) else {
        return Headers::default();
    };
    Headers(
        object
            .into_iter()
            .map(|(name, value)| match value {
                serde_json::Value::String(text) => (name, text),
                other => (name, other.to_string()),
            })
            .collect::<BTreeMap<_, _>>(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_other_programs_do_not_fail() {
        let headers = headers_from(Some(r#"{"a":"x","b":1,"c":null}"#));
        assert_eq!(headers.get("a"), Some("x"));
        assert_eq!(headers.get("b"), Some("1"));
        assert_eq!(headers.get("c"), Some("null"));
        assert!(headers_from(Some("[1]")).is_empty());
        assert!(headers_from(None).is_empty());
    }

    #[test]
    fn headers_are_written_as_a_json_object() {
        let mut headers = Headers::default();
        assert_eq!(headers_json(&headers), None);
        headers.0.insert("a\"b".to_owned(), "c\nd".to_owned());
        assert_eq!(
            headers_json(&headers).as_deref(),
            Some(r#"{"a\"b":"c\nd"}"#)
        );
    }
}
