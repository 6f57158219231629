//! A byte stream to a peer: TCP or Unix socket, plain or TLS.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::record::{self, TlsInfo, TlsSession};
use super::socket::{BareSocket, PeerState, Socket, set_options};
use super::tls::ServerTls;

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A process of this machine.
    Unix,
    /// A TCP peer that left before its address was asked for.
    Gone,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
            Self::Gone => f.write_str("gone"),
        }
    }
}

/// A byte stream to a peer. Belongs to the runtime it was made in, until it is [detached](Self::detach).
///
/// Reading and writing are independent directions of one owner; each remembers the waker of its last poll only.
#[derive(Debug)]
pub struct Stream {
    layer: Layer,
    peer: Peer,
    /// Bytes that were [read too far](Self::unread); empty for all but a moment of a stream's life.
    unread: Box<[u8]>,
}

/// What is between the bytes and the socket.
#[derive(Debug)]
enum Layer {
    Plain(Socket),
    /// Boxed: a TLS session is a kilobyte of state that plain streams should not carry.
    Tls(Socket, Box<TlsSession>),
}

impl Layer {
    fn of(socket: Socket, tls: Option<Box<TlsSession>>) -> Self {
        match tls {
            None => Self::Plain(socket),
            Some(session) => Self::Tls(socket, session),
        }
    }
}

impl Stream {
    /// A stream over a connected TCP socket, with Nagle's delay off and keepalive on.
    #[must_use]
    pub fn from_tcp(socket: TcpStream) -> Self {
        // Both calls fail only on a socket that is dead already, which the first read will tell.
        if let Err(error) = set_options(&socket) {
            tracing::debug!(%error, "set options of a TCP socket");
        }
        let peer = socket.peer_addr().map_or(Peer::Gone, Peer::Tcp);
        Self { layer: Layer::Plain(Socket::Tcp(socket)), peer, unread: Box::default() }
    }

    /// A stream over a connected Unix socket.
    #[must_use]
    pub fn from_unix(socket: UnixStream) -> Self {
        Self { layer: Layer::Plain(Socket::Unix(socket)), peer: Peer::Unix, unread: Box::default() }
    }

    /// Another handle of its socket, for whoever waits until the peer has closed it, too.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        match &self.layer {
            Layer::Plain(socket) | Layer::Tls(socket, _) => socket.duplicate(),
        }
    }

    /// Gives back bytes that were read too far: the next reads give them first. Only what the last read gave can be given
    /// back, and before TLS begins it must have been read again.
    pub fn unread(&mut self, bytes: &[u8]) {
        debug_assert!(self.unread.is_empty());
        self.unread = bytes.into();
    }

    #[cold]
    fn read_again(&mut self, buf: &mut [u8]) -> usize {
        let count = self.unread.len().min(buf.len());
        buf[..count].copy_from_slice(&self.unread[..count]);
        self.unread = self.unread[count..].into();
        count
    }

    /// Reads what is there, up to the buffer's length. `Ok(0)` is the end (also a TLS peer's end without `close_notify`).
    ///
    /// # Errors
    /// The socket's, or `InvalidData` for what is no TLS.
    #[inline]
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if !self.unread.is_empty() {
            return Poll::Ready(Ok(self.read_again(buf)));
        }
        match &mut self.layer {
            Layer::Plain(socket) => socket.poll_read(cx, buf),
            Layer::Tls(socket, tls) => tls.poll_read(socket, cx, buf),
        }
    }

    /// Writes as much as the peer takes now. Under TLS the bytes written may still be held in part, as ciphertext, until
    /// the next write, [flush](Self::poll_flush) or read; nothing more is accepted while they are.
    ///
    /// # Errors
    /// The socket's, or `BrokenPipe` after shutdown.
    #[inline]
    pub fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.layer {
            Layer::Plain(socket) => socket.poll_write(cx, buf),
            Layer::Tls(socket, tls) => tls.poll_write(socket, cx, buf),
        }
    }

    /// Sends what TLS still holds; ready at once on plain streams.
    ///
    /// # Errors
    /// The socket's.
    #[inline]
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.layer {
            Layer::Plain(_) => Poll::Ready(Ok(())),
            Layer::Tls(socket, tls) => tls.poll_send(socket, cx),
        }
    }

    /// Waits until reading would give bytes, the end or an error; takes nothing. On a plain stream it may be wrong
    /// where an earlier read filled its buffer exactly; under TLS it counts decrypted bytes only, so that records without
    /// any (session tickets) wake nobody.
    ///
    /// # Errors
    /// The runtime's, when it shuts down.
    #[inline]
    pub fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.unread.is_empty() {
            return Poll::Ready(Ok(()));
        }
        match &mut self.layer {
            Layer::Plain(socket) => socket.poll_read_ready(cx),
            Layer::Tls(socket, tls) => tls.poll_read_ready(socket, cx),
        }
    }

    /// What comes next is the peer's answer to what was just written, which is not there yet: the next read waits first.
    pub const fn expect_wait(&mut self) {
        match &mut self.layer {
            Layer::Plain(socket) | Layer::Tls(socket, _) => socket.expect_wait(),
        }
    }

    /// What the kernel knows of the other end, whatever is still to be read: one system call.
    ///
    /// # Errors
    /// The kernel's, when it is short of memory.
    pub fn peer_state(&self) -> io::Result<PeerState> {
        match &self.layer {
            Layer::Plain(socket) | Layer::Tls(socket, _) => socket.peer_state(),
        }
    }

    /// Who is at the other end.
    #[must_use]
    pub const fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Whom it comes from, where the other end has said so for its client.
    pub const fn set_peer(&mut self, peer: Peer) {
        self.peer = peer;
    }

    /// What the TLS handshake agreed on; `None` on a plain stream.
    #[must_use]
    pub fn tls(&self) -> Option<&TlsInfo> {
        match &self.layer {
            Layer::Plain(_) => None,
            Layer::Tls(_, tls) => Some(tls.info()),
        }
    }

    /// Makes the stream a TLS one, as server; `prefix` is what was read from it already.
    ///
    /// # Errors
    /// The socket's, `InvalidData` for what is no acceptable handshake, `InvalidInput` when the stream is TLS already or has
    /// unread bytes, which were said in clear.
    pub async fn accept_tls(self, prefix: &[u8], tls: &ServerTls) -> io::Result<Self> {
        let connection = rustls::ServerConnection::new(Arc::clone(&tls.config)).map_err(record::invalid_data)?;
        let (mut socket, peer) = self.into_plain()?;
        let session = TlsSession::accept(&mut socket, connection, prefix, tls.server_end_point.clone()).await?;
        Ok(Self { layer: Layer::Tls(socket, session), peer, unread: Box::default() })
    }

    /// Makes the stream a TLS one, as client. The name is sent to the server (unless it is an address), verified or not.
    ///
    /// # Errors
    /// The socket's, `InvalidData` for a certificate or handshake that is not acceptable, `InvalidInput` when the stream
    /// is TLS already.
    pub async fn connect_tls(self, name: ServerName<'static>, config: Arc<rustls::ClientConfig>) -> io::Result<Self> {
        let connection = rustls::ClientConnection::new(config, name.clone()).map_err(record::invalid_data)?;
        let (mut socket, peer) = self.into_plain()?;
        let session = TlsSession::connect(&mut socket, connection, &name).await?;
        Ok(Self { layer: Layer::Tls(socket, session), peer, unread: Box::default() })
    }

    fn into_plain(self) -> io::Result<(Socket, Peer)> {
        let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        match self.layer {
            Layer::Plain(_) if !self.unread.is_empty() => refuse("bytes in clear before TLS"),
            Layer::Plain(socket) => Ok((socket, self.peer)),
            Layer::Tls(..) => refuse("TLS inside TLS"),
        }
    }

    /// Takes the stream out of its runtime, with all that TLS holds in either direction.
    ///
    /// # Errors
    /// The runtime could not let go of the socket.
    pub fn detach(self) -> io::Result<Detached> {
        let (socket, tls) = match self.layer {
            Layer::Plain(socket) => (socket.detach()?, None),
            Layer::Tls(socket, tls) => (socket.detach()?, Some(tls)),
        };
        Ok(Detached { socket, tls, peer: self.peer, unread: self.unread })
    }

    /// Gives the stream to what moves the bytes of this thread's streams now, tokio or its ring; whether it went. Where bytes are on their
    /// way it stays as it is, until it is called again. Whoever waited for a stream that went has to poll it anew.
    ///
    /// # Errors
    /// No file descriptor is left, and the stream is as it was; or the kernel knows nothing of its socket, and it is of no use any more.
    #[inline]
    pub fn settle(&mut self) -> io::Result<bool> {
        match &mut self.layer {
            Layer::Plain(socket) | Layer::Tls(socket, _) => socket.settle(),
        }
    }

    /// Says goodbye (`close_notify` under TLS) and ends the sending direction; the other one can still be read.
    ///
    /// # Errors
    /// The socket's.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_close(cx)).await
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.layer {
            Layer::Plain(socket) => socket.poll_shutdown(cx),
            Layer::Tls(socket, tls) => {
                ready!(tls.poll_close_notify(socket, cx))?;
                socket.poll_shutdown(cx)
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        if !stream.unread.is_empty() {
            let read = stream.read_again(buf.initialize_unfilled());
            buf.advance(read);
            return Poll::Ready(Ok(()));
        }
        match &mut stream.layer {
            Layer::Plain(socket) => socket.poll_read_buf(cx, buf),
            Layer::Tls(socket, tls) => {
                let read = ready!(tls.poll_read(socket, cx, buf.initialize_unfilled()))?;
                buf.advance(read);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Self::poll_write(self.get_mut(), cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        ready!(Self::poll_flush(stream, cx))?;
        match &mut stream.layer {
            Layer::Plain(socket) | Layer::Tls(socket, _) => socket.poll_sent(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_close(cx)
    }
}

/// A [`Stream`] between two runtimes.
#[derive(Debug)]
pub struct Detached {
    socket: BareSocket,
    tls: Option<Box<TlsSession>>,
    peer: Peer,
    unread: Box<[u8]>,
}

impl Detached {
    pub(super) fn new(socket: BareSocket, peer: Peer) -> Self {
        Self { socket, tls: None, peer, unread: Box::default() }
    }

    /// Gives the stream to the runtime in which it will first have to wait; what that cannot take, the wait tells.
    #[must_use]
    pub fn attach(self) -> Stream {
        Stream { layer: Layer::of(self.socket.attach(), self.tls), peer: self.peer, unread: self.unread }
    }

    /// Who is at the other end.
    #[must_use]
    pub const fn peer(&self) -> &Peer {
        &self.peer
    }

    /// What the TLS handshake agreed on; `None` on a plain stream.
    #[must_use]
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.tls.as_ref().map(|session| session.info())
    }
}
