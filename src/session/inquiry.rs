//! What the server is asked at the end of a transaction: the values of parameters that may have changed, and whether there is
//! anything left of state that a statement may have made. Its answer never reaches the client.

use bytes::{Buf, BytesMut};

use super::context::query;
use crate::protocol::Effects;
use crate::tenant::quote_literal;

/// How each state is looked for. Nothing here depends on the client's `search_path`, and nothing reads a table that grows with the
/// number of tenants.
const STATES: [(Effects, &str); 5] = [
    (Effects::LISTEN, "EXISTS (SELECT FROM pg_catalog.pg_listening_channels())"),
    (
        Effects::ADVISORY_LOCK,
        "EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory' \
         AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid())",
    ),
    (
        Effects::TEMPORARY,
        "EXISTS (SELECT FROM pg_catalog.pg_depend \
         WHERE refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass \
         AND refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema())",
    ),
    (Effects::HOLD_CURSOR, "EXISTS (SELECT FROM pg_catalog.pg_cursors)"),
    (Effects::PREPARE, "EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql)"),
];

/// A question and, later, its answer.
pub(super) struct Inquiry {
    names: Vec<String>,
    asked: Effects,
    answer: Option<Vec<Option<String>>>,
}

impl Inquiry {
    /// Asks for these parameters' values, and whether there is anything of these states.
    pub(super) fn new<'a>(names: impl Iterator<Item = &'a str>, effects: Effects) -> Self {
        Self { names: names.map(str::to_owned).collect(), asked: effects.and(Effects::ASKABLE), answer: None }
    }

    fn states(&self) -> impl Iterator<Item = &(Effects, &'static str)> {
        STATES.iter().filter(|(state, _)| self.asked.has(*state))
    }

    /// There is nothing to ask.
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty() && self.states().next().is_none()
    }

    /// The question as a message.
    pub(super) fn message(&self) -> BytesMut {
        let settings =
            self.names.iter().map(|name| format!("pg_catalog.current_setting({}, true)", quote_literal(name)));
        let states = self.states().map(|(_, sql)| (*sql).to_owned());
        query(&format!("SELECT {}", settings.chain(states).collect::<Vec<_>>().join(", ")))
    }

    /// Takes the body of the DataRow that answers it.
    pub(super) fn answered(&mut self, body: &[u8]) {
        self.answer = columns(body).filter(|columns| columns.len() == self.names.len() + self.states().count());
    }

    /// Whether the answer came, and could be read.
    pub(super) fn is_answered(&self) -> bool {
        self.answer.is_some()
    }

    /// A parameter's value.
    pub(super) fn value(&self, name: &str) -> Option<String> {
        let at = self.names.iter().position(|asked| asked == name)?;
        self.answer.as_ref()?.get(at)?.clone()
    }

    /// The states of which there is nothing left.
    pub(super) fn gone(&self) -> Effects {
        let mut gone = Effects::NONE;
        let answers = self.answer.iter().flat_map(|answer| &answer[self.names.len()..]);
        for ((state, _), answer) in self.states().zip(answers) {
            if answer.as_deref() == Some("f") {
                gone.insert(*state);
            }
        }
        gone
    }
}

/// The columns of a row in text format.
fn columns(mut body: &[u8]) -> Option<Vec<Option<String>>> {
    let count = body.try_get_u16().ok()?;
    let mut columns = Vec::new();
    for _ in 0..count {
        let length = body.try_get_i32().ok()?;
        let Ok(length) = usize::try_from(length) else {
            columns.push(None);
            continue;
        };
        let (value, rest) = body.split_at_checked(length)?;
        columns.push(Some(std::str::from_utf8(value).ok()?.to_owned()));
        body = rest;
    }
    Some(columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_answer_tells_values_and_what_is_gone() {
        let mut inquiry = Inquiry::new(["a.b", "c"].into_iter(), Effects::LISTEN);
        assert!(!inquiry.is_empty());
        inquiry.answered(b"\0\x03\0\0\0\x01x\xff\xff\xff\xff\0\0\0\x01f");
        assert_eq!(inquiry.value("a.b").as_deref(), Some("x"));
        assert_eq!(inquiry.value("c"), None);
        assert_eq!(inquiry.gone(), Effects::LISTEN);
    }

    #[test]
    fn an_answer_of_another_shape_is_none() {
        let mut inquiry = Inquiry::new(["a.b"].into_iter(), Effects::LISTEN);
        inquiry.answered(b"\0\x01\0\0\0\x01x");
        assert!(!inquiry.is_answered());
        assert_eq!(inquiry.gone(), Effects::NONE);
    }

    proptest! {
        #[test]
        fn any_bytes_are_columns_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Some(columns) = columns(&bytes) {
                prop_assert!(columns.len() * 4 <= bytes.len());
            }
        }
    }
}
