//! Whole messages from a server, bounded, for the exchanges that pgtenant has with it itself.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::error::Broken;
use crate::net::Stream;
use crate::protocol::{HEADER_BYTES, header};

/// Longest single message of such an exchange.
const FRAME_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of all messages of such an exchange.
const EXCHANGE_BYTES_MAX: usize = 1024 * 1024;
const READ_BYTES: usize = 4 * 1024;

/// Why no message could be read.
#[derive(Debug)]
pub(super) enum ReadError {
    Io(io::Error),
    Broken(Broken),
}

/// One message, header included.
#[derive(Debug, Clone)]
pub(super) struct Frame(pub(super) Bytes);

impl Frame {
    pub(super) fn kind(&self) -> u8 {
        self.0[0]
    }

    pub(super) fn body(&self) -> Bytes {
        self.0.slice(HEADER_BYTES..)
    }

    pub(super) fn unexpected(&self) -> Broken {
        Broken::Unexpected(self.kind())
    }

    pub(super) fn malformed(&self) -> Broken {
        Broken::Malformed(self.kind())
    }
}

/// One exchange with a server over a borrowed stream.
pub(super) struct Exchange<'a> {
    stream: &'a mut Stream,
    buffer: BytesMut,
    received: usize,
}

impl<'a> Exchange<'a> {
    pub(super) fn new(stream: &'a mut Stream) -> Self {
        Self { stream, buffer: BytesMut::new(), received: 0 }
    }

    pub(super) fn stream(&self) -> &Stream {
        self.stream
    }

    pub(super) async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.stream.write_all(message).await?;
        self.stream.flush().await
    }

    pub(super) async fn receive(&mut self) -> Result<Frame, ReadError> {
        loop {
            if let Some(frame) = take_frame(&mut self.buffer).map_err(ReadError::Broken)? {
                return Ok(frame);
            }
            if self.received > EXCHANGE_BYTES_MAX {
                return Err(ReadError::Broken(Broken::TooMuch { max: EXCHANGE_BYTES_MAX }));
            }
            self.buffer.reserve(READ_BYTES);
            match self.stream.read_buf(&mut self.buffer).await.map_err(ReadError::Io)? {
                0 => return Err(ReadError::Io(io::ErrorKind::UnexpectedEof.into())),
                n => self.received += n,
            }
        }
    }

    /// Whether nothing was read beyond the last message given out.
    pub(super) fn is_at_end(&self) -> bool {
        self.buffer.is_empty()
    }
}

/// Splits the first whole message off the buffer.
pub(super) fn take_frame(buffer: &mut BytesMut) -> Result<Option<Frame>, Broken> {
    let Some(head) = header(buffer)? else { return Ok(None) };
    if head.frame_bytes > FRAME_BYTES_MAX {
        return Err(Broken::TooLong { kind: head.kind, max: FRAME_BYTES_MAX });
    }
    if buffer.len() < head.frame_bytes {
        return Ok(None);
    }
    Ok(Some(Frame(buffer.split_to(head.frame_bytes).freeze())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_messages_whole_or_in_part_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(bytes.as_slice());
            let mut taken = 0;
            while let Ok(Some(frame)) = take_frame(&mut buffer) {
                prop_assert!(frame.0.len() >= HEADER_BYTES);
                prop_assert_eq!(frame.body().len() + HEADER_BYTES, frame.0.len());
                taken += frame.0.len();
            }
            prop_assert_eq!(taken + buffer.len(), bytes.len());
        }
    }

    #[test]
    fn a_message_over_the_bound_is_refused_before_it_is_there() {
        let mut buffer = BytesMut::from(&b"D\x00\x02\x00\x00"[..]);
        assert!(matches!(take_frame(&mut buffer), Err(Broken::TooLong { kind: b'D', .. })));
    }
}
