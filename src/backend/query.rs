//! Statements of pgtenant's own on a server connection: resets, health, and the look for a schema.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::message::frontend;
use tokio::time::timeout;

use super::error::{Broken, QueryError};
use super::fields::{parameter_status, set_parameter, sqlstate_of};
use super::frames::{Exchange, Frame, ReadError};
use crate::net::Stream;
use crate::protocol::cstring;
use crate::tenant::quote_literal;

/// What a simple query gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SimpleOutcome {
    /// The first column of each row, as text; none for NULL.
    pub rows: Vec<Option<Bytes>>,
    /// The command tag of each statement.
    pub tags: Vec<String>,
    /// Parameters that the server reported as changed, the last value of each.
    pub parameters: Vec<(String, String)>,
    /// The transaction status of ReadyForQuery: `I`, `T` or `E`.
    pub status: u8,
}

/// Runs one simple query on a connection that waits for a statement, and reads its whole answer. For small answers only.
/// Notices and notifications are dropped. Not cancel-safe: close the connection when the future is dropped half-way.
///
/// # Errors
/// [`QueryError`]. Only after [`QueryError::Server`] may the connection be used further.
pub async fn simple(stream: &mut Stream, sql: &str, limit: Duration) -> Result<SimpleOutcome, QueryError> {
    timeout(limit, exchange(stream, sql)).await.unwrap_or(Err(QueryError::Timeout(limit)))
}

/// Whether a schema exists, asked on a connection that waits for a statement.
///
/// # Errors
/// [`QueryError`], as for [`simple`].
pub async fn has_schema(stream: &mut Stream, schema: &str, limit: Duration) -> Result<bool, QueryError> {
    let found = timeout(limit, find_schema(stream, schema)).await.unwrap_or(Err(QueryError::Timeout(limit)))?;
    Ok(found.exists)
}

/// The answer to the look for a schema.
pub(super) struct Found {
    pub(super) exists: bool,
    pub(super) parameters: Vec<(String, String)>,
}

pub(super) async fn find_schema(stream: &mut Stream, schema: &str) -> Result<Found, QueryError> {
    // Operators are qualified too: the session's search_path is the tenant's.
    let sql =
        format!("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname OPERATOR(pg_catalog.=) {}", quote_literal(schema));
    let outcome = exchange(stream, &sql).await?;
    Ok(Found { exists: !outcome.rows.is_empty(), parameters: outcome.parameters })
}

async fn exchange(stream: &mut Stream, sql: &str) -> Result<SimpleOutcome, QueryError> {
    let mut message = BytesMut::with_capacity(sql.len() + 6);
    frontend::query(sql, &mut message).map_err(QueryError::Nul)?;
    let mut exchange = Exchange::new(stream);
    exchange.send(&message).await?;
    let mut answer = Answer::default();
    while answer.outcome.status == 0 || !exchange.is_at_end() {
        let frame = exchange.receive().await.map_err(|error| match error {
            ReadError::Io(error) => QueryError::Io(error),
            ReadError::Broken(broken) => QueryError::Broken(broken),
        })?;
        answer.take(&frame)?;
    }
    match answer.refusal {
        Some((sqlstate, raw)) => Err(QueryError::Server { sqlstate, raw }),
        None => Ok(answer.outcome),
    }
}

#[derive(Default)]
struct Answer {
    outcome: SimpleOutcome,
    refusal: Option<(String, Bytes)>,
}

impl Answer {
    fn take(&mut self, frame: &Frame) -> Result<(), Broken> {
        let outcome = &mut self.outcome;
        match frame.kind() {
            b'N' | b'A' => {}
            b'S' => {
                let (name, value) = parameter_status(&frame.body()).ok_or(frame.malformed())?;
                if !set_parameter(&mut outcome.parameters, name, value) {
                    return Err(frame.unexpected());
                }
            }
            // Once the answer has ended, only the above may come.
            _ if outcome.status != 0 => return Err(frame.unexpected()),
            b'T' | b'I' => {}
            b'D' => outcome.rows.push(first_column(frame.body()).ok_or(frame.malformed())?),
            b'C' => {
                let body = frame.body();
                let (tag, _) = cstring(&body).ok_or(frame.malformed())?;
                outcome.tags.push(String::from_utf8_lossy(tag).into_owned());
            }
            b'E' => self.refusal = Some((sqlstate_of(&frame.0).ok_or(frame.malformed())?, frame.0.clone())),
            b'Z' => match frame.body().as_ref() {
                [status @ (b'I' | b'T' | b'E')] => outcome.status = *status,
                _ => return Err(frame.malformed()),
            },
            _ => return Err(frame.unexpected()),
        }
        Ok(())
    }
}

/// The first column of a DataRow; a row without columns counts as NULL.
fn first_column(mut body: Bytes) -> Option<Option<Bytes>> {
    if body.try_get_u16().ok()? == 0 {
        return Some(None);
    }
    match usize::try_from(body.try_get_i32().ok()?) {
        Ok(length) if length <= body.len() => Some(Some(body.split_to(length))),
        Ok(_) => None,
        Err(_) => Some(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_have_a_first_column_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(Some(column)) = first_column(Bytes::from(bytes.clone())) {
                prop_assert!(column.len() + 6 <= bytes.len());
            }
        }
    }
}
