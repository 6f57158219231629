//! The messages with which a server lets a client begin, as pgwire encodes them.

use bytes::{Bytes, BytesMut};
use pgwire::error::PgWireResult;
use pgwire::messages::Message;
use pgwire::messages::response::{ReadyForQuery, TransactionStatus};
use pgwire::messages::startup::{Authentication, BackendKeyData, ParameterStatus, SecretKey};

/// Appends AuthenticationOk.
///
/// # Errors
/// Never for this message; the encoder's own signature.
pub fn authentication_ok(out: &mut BytesMut) -> PgWireResult<()> {
    Authentication::Ok.encode(out)
}

/// Appends ParameterStatus.
///
/// # Errors
/// The value is longer than any message of this kind may be.
pub fn parameter_status(out: &mut BytesMut, name: &str, value: &str) -> PgWireResult<()> {
    ParameterStatus::new(name.to_owned(), value.to_owned()).encode(out)
}

/// Appends BackendKeyData; the secret has 4 bytes in protocol 3.0, up to 256 in 3.2.
///
/// # Errors
/// The secret is longer than that.
pub fn backend_key_data(out: &mut BytesMut, process_id: i32, secret: &[u8]) -> PgWireResult<()> {
    BackendKeyData::new(process_id, SecretKey::Bytes(Bytes::copy_from_slice(secret))).encode(out)
}

/// Appends ReadyForQuery outside a transaction.
///
/// # Errors
/// Never for this message; the encoder's own signature.
pub fn ready_for_query(out: &mut BytesMut) -> PgWireResult<()> {
    ReadyForQuery::new(TransactionStatus::Idle).encode(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_messages_are_those_of_the_protocol_chapter() {
        let mut out = BytesMut::new();
        authentication_ok(&mut out).unwrap();
        parameter_status(&mut out, "a", "b").unwrap();
        backend_key_data(&mut out, 7, &[1, 2, 3, 4]).unwrap();
        ready_for_query(&mut out).unwrap();
        let expected =
            b"R\0\0\0\x08\0\0\0\0S\0\0\0\x08a\0b\0K\0\0\0\x0c\0\0\0\x07\x01\x02\x03\x04Z\0\0\0\x05I".as_slice();
        assert_eq!(&out[..], expected);
    }
}
