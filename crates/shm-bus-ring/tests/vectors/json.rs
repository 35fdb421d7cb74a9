//! As much of JSON as the test vectors use: no fractions, no escapes in strings.

use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Json {
    Null,
    Bool(bool),
    Number(i64),
    Text(String),
    List(Vec<Json>),
    Object(BTreeMap<String, Json>),
}

impl Json {
    pub fn parse(text: &str) -> Json {
        let mut rest = text;
        let value = value(&mut rest);
        assert!(rest.trim_start().is_empty(), "text behind the value: {rest:.40}");
        value
    }

    /// A member of an object, if it has it.
    pub fn find(&self, name: &str) -> Option<&Json> {
        match self {
            Json::Object(members) => members.get(name),
            other => panic!("no object: {other:?}"),
        }
    }

    pub fn get(&self, name: &str) -> &Json {
        self.find(name).unwrap_or_else(|| panic!("no {name:?} in {self:?}"))
    }

    pub fn members(&self) -> &BTreeMap<String, Json> {
        match self {
            Json::Object(members) => members,
            other => panic!("no object: {other:?}"),
        }
    }

    pub fn list(&self) -> &[Json] {
        match self {
            Json::List(items) => items,
            other => panic!("no list: {other:?}"),
        }
    }

    pub fn text(&self) -> &str {
        match self {
            Json::Text(text) => text,
            other => panic!("no text: {other:?}"),
        }
    }

    /// A number, or a word in hexadecimal text.
    pub fn number(&self) -> u64 {
        match self {
            Json::Number(number) => u64::try_from(*number).expect("a number that is not negative"),
            Json::Text(text) => u64::from_str_radix(text.strip_prefix("0x").expect(text), 16).expect(text),
            other => panic!("no number: {other:?}"),
        }
    }
}

impl From<u64> for Json {
    fn from(number: u64) -> Json {
        Json::Number(i64::try_from(number).expect("a small number"))
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Json {
        Json::Text(text.into())
    }
}

/// A word as hexadecimal text.
pub fn hex(word: u64) -> Json {
    Json::Text(format!("{word:#x}"))
}

pub fn object<const N: usize>(members: [(&str, Json); N]) -> Json {
    Json::Object(members.map(|(name, value)| (name.to_string(), value)).into())
}

/// Takes `token` if it comes next.
fn take(rest: &mut &str, token: &str) -> bool {
    *rest = rest.trim_start();
    let taken = rest.strip_prefix(token);
    *rest = taken.unwrap_or(rest);
    taken.is_some()
}

fn value(rest: &mut &str) -> Json {
    if take(rest, "{") {
        let mut members = BTreeMap::new();
        while !take(rest, "}") {
            assert!(take(rest, "\""), "a name expected at {rest:.40}");
            let name = string(rest);
            assert!(take(rest, ":"), "a colon expected at {rest:.40}");
            members.insert(name, value(rest));
            take(rest, ",");
        }
        Json::Object(members)
    } else if take(rest, "[") {
        let mut items = Vec::new();
        while !take(rest, "]") {
            items.push(value(rest));
            take(rest, ",");
        }
        Json::List(items)
    } else if take(rest, "\"") {
        Json::Text(string(rest))
    } else if take(rest, "null") {
        Json::Null
    } else if take(rest, "true") {
        Json::Bool(true)
    } else if take(rest, "false") {
        Json::Bool(false)
    } else {
        let end = rest.find([',', ']', '}', '\n']).unwrap_or(rest.len());
        let (number, behind) = rest.split_at(end);
        *rest = behind;
        Json::Number(number.trim().parse().unwrap_or_else(|e| panic!("{number:?}: {e}")))
    }
}

/// The text up to the closing quotation mark.
fn string(rest: &mut &str) -> String {
    let (text, behind) = rest.split_once('"').expect("a closing quotation mark");
    assert!(!text.contains('\\'), "escapes are not supported: {text}");
    *rest = behind;
    text.into()
}
