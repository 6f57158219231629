//! Frames: where messages begin and end in a stream, and which lengths are legal.

/// Bytes of a frame's header: type and length.
pub const HEADER_BYTES: usize = 5;

/// A frame of at most this many bytes is looked at only when all of it is there; a longer one is passed on in pieces.
pub const WHOLE_BYTES_MAX: usize = 8 * 1024;

/// PostgreSQL's bound for messages that carry data (`PQ_LARGE_MESSAGE_LIMIT`).
const LARGE_BYTES_MAX: u32 = 0x3fff_ffff;
/// PostgreSQL's bound for all others (`PQ_SMALL_MESSAGE_LIMIT`).
const SMALL_BYTES_MAX: u32 = 10_000;

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The message type.
    pub kind: u8,
    /// Bytes of the whole frame, header included.
    pub frame_bytes: usize,
}

/// A length that no message may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid message length {length} for message type {kind:#04x}")]
pub struct LengthError {
    /// The message type.
    pub kind: u8,
    /// The length word as sent.
    pub length: u32,
}

/// Reads the header at the start of `bytes`; `None` while it is not all there.
///
/// # Errors
/// The length is less than its own four bytes, or more than any message may have.
#[inline]
pub fn header(bytes: &[u8]) -> Result<Option<Header>, LengthError> {
    let Some(head) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let kind = head[0];
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    if !(4..=LARGE_BYTES_MAX + 4).contains(&length) {
        return Err(LengthError { kind, length });
    }
    Ok(Some(Header { kind, frame_bytes: length as usize + 1 }))
}

/// Whether a client's message may be as long as it says: PostgreSQL's own bounds by type.
///
/// # Errors
/// The length is over the bound of its type.
#[inline]
pub fn check_frontend(header: Header) -> Result<(), LengthError> {
    let large = matches!(header.kind, b'Q' | b'P' | b'B' | b'F' | b'd');
    let length = u32::try_from(header.frame_bytes - 1).unwrap_or(u32::MAX);
    if !large && length > SMALL_BYTES_MAX {
        return Err(LengthError { kind: header.kind, length });
    }
    Ok(())
}

/// The text up to the first NUL and what follows it.
#[must_use]
#[inline]
pub fn cstring(body: &[u8]) -> Option<(&[u8], &[u8])> {
    // Most names are empty.
    if let [0, rest @ ..] = body {
        return Some((&[], rest));
    }
    let end = memchr::memchr(0, body)?;
    Some((&body[..end], &body[end + 1..]))
}

/// A field of an ErrorResponse or NoticeResponse given with its header, as far as it is there.
#[must_use]
pub fn error_field(raw: &[u8], field: u8) -> Option<&[u8]> {
    let mut rest = raw.get(HEADER_BYTES..)?;
    loop {
        let (code, after) = rest.split_first()?;
        let (value, after) = if *code == 0 { return None } else { cstring(after)? };
        if *code == field {
            return Some(value);
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_outside_the_protocol_are_refused() {
        assert_eq!(header(b"Q\0\0\0"), Ok(None));
        assert!(header(b"Q\0\0\0\x03").is_err());
        assert!(header(b"Q\xff\xff\xff\xff").is_err());
        assert_eq!(header(b"S\0\0\0\x04"), Ok(Some(Header { kind: b'S', frame_bytes: 5 })));
        assert!(check_frontend(Header { kind: b'S', frame_bytes: 20_000 }).is_err());
        assert!(check_frontend(Header { kind: b'Q', frame_bytes: 20_000 }).is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_make_a_header_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            if let Ok(Some(found)) = header(&bytes) {
                prop_assert!(found.frame_bytes >= HEADER_BYTES);
                let _ = check_frontend(found);
            }
        }
    }
}
