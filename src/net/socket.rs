//! The operating system's sockets, TCP and Unix, behind one type.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::look::is_readable;
use super::pace;
use super::ring::RingSocket;

/// A silent TCP peer is asked whether it lives after this long.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// Time between two such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Questions without an answer after which the connection counts as dead.
const KEEPALIVE_RETRIES: u32 = 6;
/// Longest time between two tries to send what a TCP peer has not acknowledged. With the system's usual number of tries (`net.ipv4.tcp_retries2`,
/// 15) a network that swallows everything is found out in just under two minutes, as keepalive finds it where nothing is to be
/// sent; without this it takes a quarter of an hour. (TCP_USER_TIMEOUT would also end peers that are well and take nothing for a while.)
const RETRY_MAX: Duration = Duration::from_secs(10);
/// From `linux/tcp.h`, since Linux 6.15: in milliseconds.
const TCP_RTO_MAX_MS: libc::c_int = 44;

/// What the kernel knows of the other end, whatever is still to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerState {
    /// As far as is known, there.
    There,
    /// It sends nothing more. Whether it still listens only a write would tell.
    HalfClosed,
    /// Gone altogether.
    Gone,
}

impl PeerState {
    fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let mut asked = [PollFd::new(&socket, PollFlags::RDHUP)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        // A signal that comes in between says nothing of the other end.
        retry_on_intr(|| poll(&mut asked, Some(&at_once)))?;
        let told = asked[0].revents();
        Ok(if told.intersects(PollFlags::HUP | PollFlags::ERR) {
            Self::Gone
        } else if told.contains(PollFlags::RDHUP) {
            Self::HalfClosed
        } else {
            Self::There
        })
    }
}

/// A connected socket, registered with the runtime it was made in.
#[derive(Debug)]
pub(super) enum Socket {
    /// Not registered anywhere before it has to wait.
    Fresh(Fresh),
    /// Registered for what it receives alone: what it sends is nearly always taken at once, and the runtime would be woken to be told so.
    Watched(AsyncFd<BareSocket>),
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Either of them, in the thread's ring.
    Ring(RingSocket),
}

/// A socket that has not had to wait yet. To ask the system at once whether there is something to do, and not the runtime, saves
/// a turn of its loop where there is, as at the beginning of a session.
#[derive(Debug)]
pub(super) struct Fresh {
    /// None where the runtime could not take it.
    socket: Option<BareSocket>,
    /// How often it may go on without waiting: the runtime lets others have their turn.
    left: u8,
}

/// Reads and writes of a socket before the runtime gets it, whether it has to wait or not.
const FRESH_MAX: u8 = 16;

impl Fresh {
    /// What the system does at once; none if that is to wait.
    fn at_once<T>(&mut self, call: impl FnOnce(&BareSocket) -> io::Result<T>) -> Option<io::Result<T>> {
        self.left = self.left.checked_sub(1)?;
        match call(self.socket.as_ref()?) {
            Err(error) if is_to_wait(&error) => None,
            done => Some(done),
        }
    }

    fn socket(&self) -> io::Result<&BareSocket> {
        self.socket.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

/// A connected socket that belongs to no runtime.
#[derive(Debug)]
pub(super) enum BareSocket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Socket {
    /// Registers it with tokio if it is not yet.
    #[cold]
    fn register(&mut self) -> io::Result<()> {
        if let Self::Fresh(fresh) = self {
            let socket = fresh.socket.take().ok_or(io::ErrorKind::NotConnected)?;
            *self = Self::Watched(socket.watch()?);
        }
        Ok(())
    }

    /// Registers it for both directions: it has to wait until the peer takes more. Whoever waits to read is woken, to wait anew.
    #[cold]
    fn register_whole(&mut self, cx: &Context<'_>) -> io::Result<()> {
        *self = match std::mem::replace(self, Self::NOTHING) {
            Self::Fresh(Fresh { socket, .. }) => socket.ok_or(io::ErrorKind::NotConnected)?.register()?,
            Self::Watched(watched) => {
                cx.waker().wake_by_ref();
                watched.into_inner().register()?
            }
            other => other,
        };
        Ok(())
    }

    /// What is left of one that could not be registered: whatever is asked of it fails.
    const NOTHING: Self = Self::Fresh(Fresh { socket: None, left: 0 });

    /// What comes next is the peer's answer: the next read need not look whether it is there.
    pub(super) const fn expect_wait(&mut self) {
        if let Self::Fresh(fresh) = self {
            fresh.left = 0;
        }
    }

    #[inline]
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Ring(socket) => return socket.poll_read(cx, buf),
            Self::Fresh(fresh) => {
                if let Some(read) = fresh.at_once(|socket| socket.read(buf)) {
                    return Poll::Ready(read);
                }
                self.register()?;
                return self.poll_read(cx, buf);
            }
            Self::Watched(watched) => return read_watched(watched, cx, buf),
            Self::Tcp(_) | Self::Unix(_) => {}
        }
        let mut buf = ReadBuf::new(buf);
        ready!(self.poll_read_buf(cx, &mut buf))?;
        Poll::Ready(Ok(buf.filled().len()))
    }

    #[inline]
    pub(super) fn poll_read_buf(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Unix(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Ring(_) | Self::Fresh(_) | Self::Watched(_) => {
                let read = ready!(self.poll_read(cx, buf.initialize_unfilled()))?;
                buf.advance(read);
                Poll::Ready(Ok(()))
            }
        }
    }

    #[inline]
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Unix(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Ring(socket) => socket.poll_write(cx, buf),
            Self::Fresh(fresh) => {
                if let Some(written) = fresh.at_once(|socket| socket.write(buf)) {
                    return Poll::Ready(written);
                }
                self.register_whole(cx)?;
                self.poll_write(cx, buf)
            }
            Self::Watched(watched) => match watched.get_ref().write(buf) {
                Err(error) if is_to_wait(&error) => {
                    self.register_whole(cx)?;
                    self.poll_write(cx, buf)
                }
                done => Poll::Ready(done),
            },
        }
    }

    #[inline]
    pub(super) fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Self::Unix(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Self::Ring(socket) => {
                let first = bufs.iter().find(|buf| !buf.is_empty());
                socket.poll_write(cx, first.map_or(&[], |buf| &**buf))
            }
            Self::Fresh(_) => {
                self.register()?;
                self.poll_write_vectored(cx, bufs)
            }
            Self::Watched(watched) => match watched.get_ref().write_vectored(bufs) {
                Err(error) if is_to_wait(&error) => {
                    self.register_whole(cx)?;
                    self.poll_write_vectored(cx, bufs)
                }
                done => Poll::Ready(done),
            },
        }
    }

    #[inline]
    pub(super) fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Watched(watched) => watched.poll_read_ready(cx).map_ok(drop),
            Self::Tcp(socket) => socket.poll_read_ready(cx),
            Self::Unix(socket) => socket.poll_read_ready(cx),
            Self::Ring(socket) => socket.poll_read_ready(cx),
            Self::Fresh(fresh) => {
                // The runtime will not know before its next turn.
                if is_readable(fresh.socket()?) {
                    return Poll::Ready(Ok(()));
                }
                self.register()?;
                self.poll_read_ready(cx)
            }
        }
    }

    /// Waits until everything written is with the kernel, where a ring takes it before.
    pub(super) fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Fresh(_) | Self::Watched(_) | Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())),
            Self::Ring(socket) => socket.poll_sent(cx),
        }
    }

    /// Ends the sending direction. A peer that has gone already is as good as told.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = ready!(match self {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Ring(socket) => socket.poll_shutdown(cx),
            Self::Fresh(fresh) => {
                Poll::Ready(fresh.socket().and_then(|socket| SockRef::from(socket).shutdown(Shutdown::Write)))
            }
            Self::Watched(watched) => Poll::Ready(SockRef::from(watched.get_ref()).shutdown(Shutdown::Write)),
        });
        Poll::Ready(match result {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        })
    }

    /// Goes into the thread's ring or back to tokio, where the thread's sockets belong now; whether it went.
    #[inline]
    pub(super) fn settle(&mut self) -> io::Result<bool> {
        if matches!(self, Self::Ring(_)) == pace::is_dense() { Ok(false) } else { self.change_over() }
    }

    #[cold]
    fn change_over(&mut self) -> io::Result<bool> {
        if !matches!(self, Self::Ring(_)) {
            // tokio lets go of a socket only by value; what it holds is closed with this.
            *self = Self::Ring(RingSocket::new(self.duplicate()?)?);
            return Ok(true);
        }
        *self = match std::mem::replace(self, Self::NOTHING) {
            Self::Ring(socket) => match socket.release() {
                Ok(fd) => BareSocket::of(fd)?.attach(),
                Err(socket) => Self::Ring(socket),
            },
            other => other,
        };
        Ok(!matches!(self, Self::Ring(_)))
    }

    pub(super) fn peer_state(&self) -> io::Result<PeerState> {
        self.ask(PeerState::of)
    }

    pub(super) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.ask(|fd| fd.try_clone_to_owned())
    }

    /// Asks the system something about it.
    fn ask<T>(&self, ask: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
        match self {
            Self::Tcp(socket) => ask(socket.as_fd()),
            Self::Unix(socket) => ask(socket.as_fd()),
            Self::Ring(socket) => socket.ask(ask),
            Self::Fresh(fresh) => ask(fresh.socket()?.as_fd()),
            Self::Watched(watched) => ask(watched.get_ref().as_fd()),
        }
    }

    pub(super) fn detach(self) -> io::Result<BareSocket> {
        Ok(match self {
            Self::Fresh(fresh) => fresh.socket.ok_or(io::ErrorKind::NotConnected)?,
            Self::Watched(watched) => watched.into_inner(),
            Self::Tcp(socket) => BareSocket::Tcp(socket.into_std()?),
            Self::Unix(socket) => BareSocket::Unix(socket.into_std()?),
            Self::Ring(_) => {
                return Err(io::Error::new(io::ErrorKind::Unsupported, "a socket does not leave its ring"));
            }
        })
    }
}

/// What has arrived; a buffer that is not filled shows that there is no more.
#[inline]
fn read_watched(watched: &AsyncFd<BareSocket>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
    loop {
        let mut guard = ready!(watched.poll_read_ready(cx))?;
        match watched.get_ref().read(buf) {
            Ok(count) => {
                if 0 < count && count < buf.len() {
                    guard.clear_ready();
                }
                return Poll::Ready(Ok(count));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
}

fn is_to_wait(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

impl AsRawFd for BareSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl AsFd for BareSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

impl BareSocket {
    fn of(fd: OwnedFd) -> io::Result<Self> {
        let is_unix = SockRef::from(&fd).local_addr()?.is_unix();
        Ok(if is_unix { Self::Unix(fd.into()) } else { Self::Tcp(fd.into()) })
    }

    fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => (&mut &*socket).read(buf),
            Self::Unix(socket) => (&mut &*socket).read(buf),
        }
    }

    fn write(&self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => (&mut &*socket).write(buf),
            Self::Unix(socket) => (&mut &*socket).write(buf),
        }
    }

    fn write_vectored(&self, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => (&mut &*socket).write_vectored(bufs),
            Self::Unix(socket) => (&mut &*socket).write_vectored(bufs),
        }
    }

    #[expect(
        deprecated,
        reason = "its successor is unsafe because of values that change or close their descriptor; a socket does neither"
    )]
    fn watch(self) -> io::Result<AsyncFd<Self>> {
        AsyncFd::with_interest(self, Interest::READABLE)
    }

    /// For the runtime of whoever first has to wait for it.
    pub(super) fn attach(self) -> Socket {
        Socket::Fresh(Fresh { socket: Some(self), left: FRESH_MAX })
    }

    fn register(self) -> io::Result<Socket> {
        Ok(match self {
            Self::Tcp(socket) => Socket::Tcp(TcpStream::from_std(socket)?),
            Self::Unix(socket) => Socket::Unix(UnixStream::from_std(socket)?),
        })
    }
}

/// Sets on a listening socket what every connection has: the kernel hands it down to those that are accepted there.
///
/// # Errors
/// The socket's.
pub fn prepare_listener<'a>(socket: impl Into<SockRef<'a>>) -> io::Result<()> {
    set_options(socket)
}

/// Has the kernel keep a connection to itself until its client has said something, which clients of PostgreSQL do first: who takes it
/// then can read at once. One that says nothing is handed out after about a second all the same.
///
/// # Errors
/// The socket's.
pub fn defer_accept(listener: BorrowedFd<'_>, is_on: bool) -> io::Result<()> {
    set_tcp_option(listener, libc::TCP_DEFER_ACCEPT, libc::c_int::from(is_on))
}

#[allow(unsafe_code, reason = "no library knows these options")]
fn set_tcp_option(socket: BorrowedFd<'_>, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(4);
    // SAFETY: the pointer is to a value of this length, which the call only reads.
    let set = unsafe {
        let value = std::ptr::from_ref(&value).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, option, value, length)
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets what every TCP connection has: no delay of small writes, keepalive probes, and no long rests between tries.
pub(super) fn set_options<'a>(socket: impl Into<SockRef<'a>>) -> io::Result<()> {
    let socket = socket.into();
    socket.set_tcp_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_RETRIES);
    socket.set_tcp_keepalive(&keepalive)?;
    let millis = libc::c_int::try_from(RETRY_MAX.as_millis()).unwrap_or(libc::c_int::MAX);
    match set_tcp_option(socket.as_fd(), TCP_RTO_MAX_MS, millis) {
        // An older kernel.
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(()),
        set => set,
    }
}

/// What [`RETRY_MAX`] has come to; none on an older kernel.
#[cfg(test)]
#[allow(unsafe_code, reason = "no library knows this option")]
pub(super) fn longest_rest(socket: impl AsFd) -> Option<Duration> {
    let mut millis: libc::c_int = 0;
    let mut length = libc::socklen_t::try_from(size_of_val(&millis)).unwrap_or(4);
    // SAFETY: both pointers are to values of this function, and the call writes no more than the length.
    let got = unsafe {
        let value = std::ptr::from_mut(&mut millis).cast();
        libc::getsockopt(socket.as_fd().as_raw_fd(), libc::IPPROTO_TCP, TCP_RTO_MAX_MS, value, &raw mut length)
    };
    (got == 0).then(|| Duration::from_millis(millis.unsigned_abs().into()))
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn whatever_is_asked_of_a_socket_that_could_not_be_registered_fails() {
        let mut cx = Context::from_waker(Waker::noop());
        let mut socket = Socket::NOTHING;
        let is_failure = |done: Poll<io::Result<usize>>| matches!(done, Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::NotConnected);
        assert!(is_failure(socket.poll_write(&mut cx, b"x")));
        assert!(is_failure(socket.poll_write_vectored(&mut cx, &[io::IoSlice::new(b"x")])));
        assert!(is_failure(socket.poll_read(&mut cx, &mut [0])));
        assert!(is_failure(socket.poll_read_ready(&mut cx).map_ok(|()| 0)));
        assert!(socket.duplicate().is_err());
    }
}
