//! One TLS session over a socket: rustls turns records into bytes and back, this file moves them with bounded buffers.
//!
//! Ciphertext is read into a buffer that the thread lends, decrypted only while the reader has room, and written before
//! any further plaintext is accepted. An idle session so holds no buffers but the few kilobytes rustls keeps.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, BufRead as _, Read as _, Write as _};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::Connection;
use rustls_pki_types::ServerName;

use super::socket::Socket;
use super::tls::server_end_point;

/// Ciphertext taken from the socket in one read: the longest TLS record.
const READ_BYTES: usize = 18 * 1024;
/// Plaintext accepted by one write, and so the ciphertext held (less the records' overhead).
const WRITE_BYTES_MAX: usize = 32 * 1024;

/// What a TLS handshake agreed on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsInfo {
    /// The host name the client named (SNI).
    pub server_name: Option<String>,
    /// The application protocol agreed on.
    pub alpn: Option<Vec<u8>>,
    /// `tls-server-end-point` of RFC 5929, on either side the hash of the *server's* certificate. `None` when the
    /// certificate's signature has no single hash; there is no channel binding then.
    pub server_end_point: Option<Vec<u8>>,
    /// Whether the client showed a certificate, which then was verified.
    pub client_certificate: bool,
}

/// A TLS session after its handshake. The socket is lent by the owner for each call.
#[derive(Debug)]
pub(super) struct TlsSession {
    connection: Connection,
    inbound: Inbound,
    /// The socket ended, or the peer said so.
    ended: bool,
    /// What broke the session; told to the reader once all plaintext before it was read.
    broken: Option<rustls::Error>,
    close_notify_sent: bool,
    info: TlsInfo,
}

/// Wraps an error of rustls.
pub(super) fn invalid_data(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl TlsSession {
    /// Does the server's part of a handshake; `prefix` was read from the socket already.
    pub(super) async fn accept(
        socket: &mut Socket,
        connection: rustls::ServerConnection,
        prefix: &[u8],
        end_point: Option<Arc<[u8]>>,
    ) -> io::Result<Box<Self>> {
        let mut session = Self::new(Connection::Server(connection));
        session.inbound = Inbound::holding(prefix);
        session.shake_hands(socket).await?;
        if let Connection::Server(server) = &session.connection {
            session.info = TlsInfo {
                server_name: server.server_name().map(str::to_owned),
                alpn: server.alpn_protocol().map(<[u8]>::to_vec),
                server_end_point: end_point.map(|hash| hash.to_vec()),
                client_certificate: server.peer_certificates().is_some(),
            };
        }
        Ok(session)
    }

    /// Does the client's part of a handshake.
    pub(super) async fn connect(
        socket: &mut Socket,
        connection: rustls::ClientConnection,
        name: &ServerName<'static>,
    ) -> io::Result<Box<Self>> {
        let mut session = Self::new(Connection::Client(connection));
        session.shake_hands(socket).await?;
        let certificate = session.connection.peer_certificates().and_then(<[_]>::first);
        session.info = TlsInfo {
            server_name: match name {
                ServerName::DnsName(name) => Some(name.as_ref().to_owned()),
                _ => None,
            },
            alpn: session.connection.alpn_protocol().map(<[u8]>::to_vec),
            server_end_point: certificate.and_then(|certificate| server_end_point(certificate)),
            client_certificate: false,
        };
        Ok(session)
    }

    fn new(mut connection: Connection) -> Box<Self> {
        connection.set_buffer_limit(Some(WRITE_BYTES_MAX));
        Box::new(Self {
            connection,
            inbound: Inbound::default(),
            ended: false,
            broken: None,
            close_notify_sent: false,
            info: TlsInfo::default(),
        })
    }

    pub(super) const fn info(&self) -> &TlsInfo {
        &self.info
    }

    async fn shake_hands(&mut self, socket: &mut Socket) -> io::Result<()> {
        poll_fn(|cx| self.poll_handshake(socket, cx)).await
    }

    fn poll_handshake(&mut self, socket: &mut Socket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let sent = self.poll_send(socket, cx)?;
            if !self.connection.is_handshaking() {
                return sent.map(Ok);
            }
            if self.ended {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "end of stream in a TLS handshake",
                )));
            }
            // Read even while a write waits: the peer may not read before it has written.
            ready!(self.poll_fill(socket, cx))?;
        }
    }

    pub(super) fn poll_read(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(self.poll_read_ready(socket, cx))?;
        let mut read = 0;
        loop {
            match self.connection.reader().read(&mut buf[read..]) {
                // The end: of TLS, or of the socket without close_notify, which libpq and others omit.
                Ok(0) => break,
                Ok(n) => read += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Poll::Ready(Err(error)),
            }
            // All that rustls had decrypted is out. What is left of the ciphertext may give more.
            if read == buf.len() || self.inbound.is_empty() || self.broken.is_some() {
                break;
            }
            self.decrypt(socket, cx);
        }
        match &self.broken {
            Some(error) if read == 0 => Poll::Ready(Err(invalid_data(error.clone()))),
            _ => Poll::Ready(Ok(read)),
        }
    }

    /// Ready when a read would give plaintext, the end or an error.
    pub(super) fn poll_read_ready(&mut self, socket: &mut Socket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            // Anything but "would block" is something to tell: plaintext, close_notify or an end without one.
            let would_block =
                matches!(self.connection.reader().fill_buf(), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
            if !would_block || self.ended {
                return Poll::Ready(Ok(()));
            }
            if let Some(error) = self.broken.clone() {
                return Poll::Ready(Err(invalid_data(error)));
            }
            ready!(self.poll_fill(socket, cx))?;
        }
    }

    /// Decrypts the ciphertext that is held, or else reads some and decrypts that.
    fn poll_fill(&mut self, socket: &mut Socket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.inbound.is_empty() {
            // Answers to the peer's own TLS messages, and what a writer left behind, go out without anyone asking.
            if let Poll::Ready(Err(error)) = self.poll_send(socket, cx) {
                tracing::debug!(%error, "send held TLS records before reading");
            }
            if ready!(self.inbound.poll_read(socket, cx))? == 0 {
                self.ended = true;
                return Poll::Ready(Ok(()));
            }
        }
        self.decrypt(socket, cx);
        match &self.broken {
            Some(error) if self.connection.is_handshaking() => Poll::Ready(Err(invalid_data(error.clone()))),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Feeds rustls from the held ciphertext until there is plaintext or nothing left.
    fn decrypt(&mut self, socket: &mut Socket, cx: &mut Context<'_>) {
        while !self.inbound.is_empty() {
            let taken = self.connection.read_tls(&mut self.inbound);
            let state = match &taken {
                // A handshake message beyond all bounds: the one thing rustls refuses to take.
                Err(_) => Err(rustls::Error::InvalidMessage(rustls::InvalidMessage::HandshakePayloadTooLarge)),
                Ok(_) => self.connection.process_new_packets(),
            };
            match state {
                Ok(_) if matches!(taken, Ok(0)) => {
                    // After close_notify nothing is of use.
                    self.inbound.clear();
                    self.ended = true;
                }
                Ok(state) if state.plaintext_bytes_to_read() > 0 => return,
                Ok(_) => {}
                Err(error) => {
                    self.inbound.clear();
                    self.broken = Some(error);
                    // The alert that tells the peer why; if it cannot be sent at once, the error says enough here.
                    if let Poll::Ready(Err(error)) = self.poll_send(socket, cx) {
                        tracing::debug!(%error, "send a TLS alert");
                    }
                }
            }
        }
    }

    pub(super) fn poll_write(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.close_notify_sent {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(self.poll_send(socket, cx))?;
        let accepted = self.connection.writer().write(buf)?;
        match self.poll_send(socket, cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // Held in part: the next write, flush or read goes on with it.
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(accepted)),
        }
    }

    /// Sends the ciphertext that is held.
    pub(super) fn poll_send(&mut self, socket: &mut Socket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut Outbound { socket, cx }) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_close_notify(&mut self, socket: &mut Socket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.close_notify_sent {
            self.connection.send_close_notify();
            self.close_notify_sent = true;
        }
        self.poll_send(socket, cx)
    }
}

thread_local! {
    /// The buffer that streams of this thread read ciphertext into, unless a stream holds it with a rest.
    static READ_BUFFER: Cell<Option<Vec<u8>>> = const { Cell::new(None) };
}

/// Ciphertext from the socket that rustls has not taken yet.
#[derive(Debug, Default)]
struct Inbound {
    /// Without capacity while there is nothing.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Inbound {
    fn holding(bytes: &[u8]) -> Self {
        Self { buffer: bytes.to_vec(), start: 0, end: bytes.len() }
    }

    const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Drops what is held and gives the buffer back to the thread.
    fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
        let buffer = std::mem::take(&mut self.buffer);
        if buffer.len() == READ_BYTES {
            READ_BUFFER.set(Some(buffer));
        }
    }

    /// Reads once from the socket. Called while nothing is held.
    fn poll_read(&mut self, socket: &mut Socket, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.buffer = READ_BUFFER.take().unwrap_or_else(|| vec![0; READ_BYTES]);
        let result = socket.poll_read(cx, &mut self.buffer);
        match result {
            Poll::Ready(Ok(n)) if n > 0 => (self.start, self.end) = (0, n),
            _ => self.clear(),
        }
        result
    }
}

impl io::Read for Inbound {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let held = &self.buffer[self.start..self.end];
        let taken = held.len().min(buf.len());
        buf[..taken].copy_from_slice(&held[..taken]);
        self.start += taken;
        if self.is_empty() {
            self.clear();
        }
        Ok(taken)
    }
}

/// The socket as the blocking writer that rustls knows.
struct Outbound<'a, 'b, 'c> {
    socket: &'a mut Socket,
    cx: &'b mut Context<'c>,
}

fn blocking(result: Poll<io::Result<usize>>) -> io::Result<usize> {
    match result {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl io::Write for Outbound<'_, '_, '_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        blocking(self.socket.poll_write(self.cx, buf))
    }

    fn write_vectored(&mut self, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
        blocking(self.socket.poll_write_vectored(self.cx, bufs))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn a_stream_that_waits_holds_no_read_buffer() {
        let (mut peer, socket) = UnixStream::pair().unwrap();
        let mut socket = Socket::Unix(socket);
        let mut inbound = Inbound::default();
        let waiting = poll_fn(|cx| Poll::Ready(inbound.poll_read(&mut socket, cx))).await;
        assert!(waiting.is_pending());
        assert_eq!(inbound.buffer.capacity(), 0);

        peer.write_all(b"record").await.unwrap();
        assert_eq!(poll_fn(|cx| inbound.poll_read(&mut socket, cx)).await.unwrap(), 6);
        assert_eq!(inbound.read(&mut [0; 4]).unwrap(), 4);
        assert_eq!(inbound.buffer.len(), READ_BYTES, "a rest keeps its buffer");
        assert_eq!(inbound.read(&mut [0; 4]).unwrap(), 2);
        assert_eq!(inbound.buffer.capacity(), 0);
        assert_eq!(READ_BUFFER.take().map(|buffer| buffer.len()), Some(READ_BYTES), "the thread has it back");
    }
}
