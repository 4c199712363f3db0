//! Reads selected fields of a JSON object, and ignores the others.

use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer as _, Error, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::Deserializer;
use serde_json::value::RawValue;

/// Reads the fields `names` of the JSON object in `text`. `null` counts as missing. Of a repeated
/// field, the last value counts. No value is built, so that memory does not depend on the input.
///
/// # Errors
///
/// Returns an error if `text` is not one JSON object.
pub(super) fn read_fields<'a, const N: usize>(
    text: &'a [u8],
    names: [&str; N],
) -> Result<[Option<&'a RawValue>; N], serde_json::Error> {
    let mut deserializer = Deserializer::from_slice(text);
    let fields = deserializer.deserialize_map(Fields(names))?;
    deserializer.end()?;
    Ok(fields)
}

/// Reads the entries of the JSON list in `value`.
///
/// # Errors
///
/// Returns an error if `value` is not a list, or has more than `max_entries` entries.
pub(super) fn read_list(
    value: &RawValue,
    max_entries: usize,
) -> Result<Vec<&RawValue>, serde_json::Error> {
    Deserializer::from_str(value.get()).deserialize_seq(Entries { max_entries })
}

/// Returns the string in `value`, or `None` if it is missing, of another type, or not valid Unicode.
pub(super) fn as_string(value: Option<&RawValue>) -> Option<String> {
    serde_json::from_str(value?.get()).ok()
}

struct Entries {
    max_entries: usize,
}

impl<'de> Visitor<'de> for Entries {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = list.next_element()? {
            if entries.len() == self.max_entries {
                return Err(A::Error::custom("too many entries"));
            }
            entries.push(entry);
        }
        Ok(entries)
    }
}

struct Fields<'n, const N: usize>([&'n str; N]);

impl<'de, const N: usize> Visitor<'de> for Fields<'_, N> {
    type Value = [Option<&'de RawValue>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = [None; N];
        while let Some(index) = map.next_key_seed(FieldIndex(&self.0))? {
            match index.and_then(|index| values.get_mut(index)) {
                Some(value) => {
                    let raw: &RawValue = map.next_value()?;
                    *value = (raw.get() != "null").then_some(raw);
                }
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(values)
    }
}

/// Reads a field's name as its index in the list. Names are read as bytes, because lone surrogate
/// escapes are errors in a string.
struct FieldIndex<'n>(&'n [&'n str]);

impl<'de> DeserializeSeed<'de> for FieldIndex<'_> {
    type Value = Option<usize>;

    fn deserialize<D: serde::Deserializer<'de>>(self, name: D) -> Result<Self::Value, D::Error> {
        name.deserialize_bytes(self)
    }
}

impl Visitor<'_> for FieldIndex<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_bytes<E: Error>(self, name: &[u8]) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|field| field.as_bytes() == name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<[Option<String>; 2]> {
        let fields = read_fields(text.as_bytes(), ["a", "b"]).ok()?;
        Some(fields.map(|field| field.map(|raw| raw.get().to_owned())))
    }

    #[test]
    fn reads_the_fields_and_skips_the_others() {
        let text = r#" {"x": [{"a": 1}], "\u0061": {"c": [1]}, "\ud800": "\ud800", "b": "x"} "#;
        let expected = [Some(r#"{"c": [1]}"#.to_owned()), Some(r#""x""#.to_owned())];
        assert_eq!(read(text), Some(expected));
    }

    #[test]
    fn null_counts_as_missing_and_the_last_value_counts() {
        assert_eq!(read(r#"{"a": null}"#), Some([None, None]));
        assert_eq!(
            read(r#"{"a": 1, "a": 2}"#),
            Some([Some("2".to_owned()), None])
        );
        assert_eq!(read(r#"{"a": 1, "a": null}"#), Some([None, None]));
    }

    #[test]
    fn reads_lists_up_to_their_maximum() {
        let length = |text: &str| {
            let value: &RawValue = serde_json::from_str(text).ok()?;
            read_list(value, 2).ok().map(|entries| entries.len())
        };
        assert_eq!(length("[]"), Some(0));
        assert_eq!(length("[1, {}]"), Some(2));
        assert_eq!(length("[1, 2, 3]"), None);
        assert_eq!(length("{}"), None);
    }

    #[test]
    fn reads_strings_and_nothing_else() {
        for (text, expected) in [
            (r#""a\n""#, Some("a\n")),
            ("1", None),
            (r#"["a"]"#, None),
            (r#""\ud800""#, None),
        ] {
            let value: &RawValue = serde_json::from_str(text).expect("valid JSON");
            assert_eq!(as_string(Some(value)).as_deref(), expected, "{text}");
        }
        assert_eq!(as_string(None), None);
    }

    #[test]
    fn refuses_what_is_not_one_object() {
        for text in [
            "",
            "[]",
            "null",
            "\"a\"",
            r#"{"a": 1"#,
            r#"{"a": 1} x"#,
            r#"{"x": tru}"#,
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
