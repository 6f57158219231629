//! Answers as rows.

use std::collections::BTreeMap;

use bytes::{BufMut, BytesMut};
use serde::Serialize;

/// The types of columns, by their object ids.
const INT8: u32 = 20;
const TEXT: u32 = 25;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// Text.
    Text(String),
    /// A number.
    Number(i64),
    /// Nothing.
    Null,
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Number(i64::from(value))
    }
}

macro_rules! numbers {
    ($($kind:ty),*) => {$(
        impl From<$kind> for Value {
            fn from(number: $kind) -> Self {
                Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
            }
        }
    )*};
}
numbers!(u16, u32, i32, i64, u64, usize, u128);

/// A result: names of columns, and rows of as many values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    names: &'static [&'static str],
    rows: Vec<Vec<Value>>,
}

impl Rows {
    /// No rows yet.
    #[must_use]
    pub const fn new(names: &'static [&'static str]) -> Self {
        Self { names, rows: Vec::new() }
    }

    /// Adds a row; values without a column are left out.
    pub fn push(&mut self, mut row: Vec<Value>) {
        row.resize(self.names.len(), Value::Null);
        self.rows.push(row);
    }

    /// The rows.
    #[must_use]
    pub fn rows(&self) -> &[Vec<Value>] {
        &self.rows
    }

    /// Each row as what its columns' names lead to.
    pub fn into_records(self) -> impl Iterator<Item = BTreeMap<&'static str, Value>> {
        let names = self.names;
        self.rows.into_iter().map(|row| names.iter().copied().zip(row).collect())
    }

    /// Appends RowDescription and a DataRow for each row.
    pub fn encode(&self, out: &mut BytesMut) {
        message(out, b'T', |out| {
            put_count(out, self.names.len());
            for (at, name) in self.names.iter().enumerate() {
                let column = self.rows.iter().map(|row| &row[at]);
                let is_number = !self.rows.is_empty()
                    && column.clone().all(|value| !matches!(value, Value::Text(_)))
                    && column.clone().any(|value| matches!(value, Value::Number(_)));
                out.put_slice(name.as_bytes());
                out.put_u8(0);
                // No table, no column of one.
                out.put_u32(0);
                out.put_u16(0);
                let (oid, size) = if is_number { (INT8, 8) } else { (TEXT, -1) };
                out.put_u32(oid);
                out.put_i16(size);
                out.put_i32(-1);
                out.put_u16(0);
            }
        });
        for row in &self.rows {
            message(out, b'D', |out| {
                put_count(out, row.len());
                for value in row {
                    match value {
                        Value::Null => out.put_i32(-1),
                        Value::Text(text) => put_text(out, text),
                        Value::Number(number) => put_text(out, &number.to_string()),
                    }
                }
            });
        }
    }
}

/// Appends CommandComplete.
pub(super) fn command_complete(out: &mut BytesMut, tag: &str) {
    message(out, b'C', |out| {
        out.put_slice(tag.as_bytes());
        out.put_u8(0);
    });
}

/// Appends a message around a body.
pub(super) fn message(out: &mut BytesMut, kind: u8, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(kind);
    let at = out.len();
    out.put_u32(0);
    body(out);
    let length = u32::try_from(out.len() - at).unwrap_or(u32::MAX);
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

fn put_count(out: &mut BytesMut, count: usize) {
    out.put_u16(u16::try_from(count).unwrap_or(u16::MAX));
}

fn put_text(out: &mut BytesMut, text: &str) {
    out.put_i32(i32::try_from(text.len()).unwrap_or(i32::MAX));
    out.put_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_the_messages_of_the_protocol_chapter() {
        let mut rows = Rows::new(&["a", "b"]);
        rows.push(vec!["x".into(), 7u32.into()]);
        rows.push(vec![Value::Null]);
        let mut out = BytesMut::new();
        rows.encode(&mut out);
        assert!(
            out.starts_with(b"T\0\0\0\x2e\0\x02a\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0b\0"),
            "{out:?}"
        );
        assert!(
            out.ends_with(b"D\0\0\0\x10\0\x02\0\0\0\x01x\0\0\0\x017D\0\0\0\x0e\0\x02\xff\xff\xff\xff\xff\xff\xff\xff")
        );
    }
}
