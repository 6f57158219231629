//! Reading a client's messages before its session begins: as much at once as there is, and what is too much given back.

use std::io;

use tokio::io::AsyncReadExt;

use crate::net::Stream;

/// What a message may have reserved for it before its bytes have come: an ordinary one is shorter, and is read at once.
const RESERVED_BYTES: usize = 512;

/// Bytes of a client's that begin a message.
#[derive(Debug)]
pub(super) struct Inbox(Vec<u8>);

impl Inbox {
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(RESERVED_BYTES))
    }

    /// What has been read.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads once; how much there was, 0 at the end of the stream. Strangers send this: the room grows with its bytes, not with
    /// what they announce.
    pub(super) async fn read(&mut self, stream: &mut Stream) -> io::Result<usize> {
        if self.0.len() == self.0.capacity() {
            self.0.reserve(RESERVED_BYTES);
        }
        stream.read_buf(&mut self.0).await
    }

    /// Reads a message of this many bytes to its end; what comes after it stays to be read.
    pub(super) async fn message(mut self, stream: &mut Stream, length: usize) -> io::Result<Vec<u8>> {
        while self.0.len() < length {
            if self.read(stream).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        if self.0.len() > length {
            stream.unread(&self.0[length..]);
            self.0.truncate(length);
        }
        Ok(self.0)
    }
}
