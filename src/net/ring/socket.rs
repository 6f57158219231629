//! A socket whose bytes a ring moves.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::task::{Context, Poll};

use super::driver::{Ring, with_ring};

/// A connected socket in a thread's ring, whose thread it must not leave. Dropping it closes it.
#[derive(Debug)]
pub(in crate::net) struct RingSocket {
    /// The number of its ring.
    ring: u64,
    index: usize,
}

impl RingSocket {
    /// Takes a connected socket into the ring of this thread.
    ///
    /// # Errors
    /// There is none.
    pub(in crate::net) fn new(fd: OwnedFd) -> io::Result<Self> {
        with_ring(|ring| Self { ring: ring.number(), index: ring.enter(fd) }).ok_or_else(astray)
    }

    #[inline]
    pub(in crate::net) fn poll_read(&self, cx: &Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.with(|ring| ring.poll_read(self.index, cx, buf))
    }

    #[inline]
    pub(in crate::net) fn poll_write(&self, cx: &Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|ring| ring.poll_write(self.index, cx, bytes))
    }

    #[inline]
    pub(in crate::net) fn poll_read_ready(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.with(|ring| ring.poll_read_ready(self.index, cx).map(Ok))
    }

    /// Waits until everything written is with the kernel.
    pub(in crate::net) fn poll_sent(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.with(|ring| ring.poll_sent(self.index, cx))
    }

    /// Ends the sending direction, after everything written.
    pub(in crate::net) fn poll_shutdown(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.with(|ring| ring.poll_shutdown(self.index, cx))
    }

    /// Asks the kernel something about it.
    pub(in crate::net) fn ask<T>(&self, ask: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
        match self.with(|ring| Poll::Ready(ring.with_fd(self.index, ask))) {
            Poll::Ready(answer) => answer,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Takes it out of the ring; not while bytes are on their way through it.
    pub(in crate::net) fn release(self) -> Result<OwnedFd, Self> {
        let fd = with_ring(|ring| if ring.number() == self.ring { ring.release(self.index) } else { None });
        match fd.flatten() {
            Some(fd) => {
                std::mem::forget(self);
                Ok(fd)
            }
            None => Err(self),
        }
    }

    #[inline]
    fn with<T>(&self, call: impl FnOnce(&Ring) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        with_ring(|ring| if ring.number() == self.ring { call(ring) } else { Poll::Ready(Err(astray())) })
            .unwrap_or_else(|| Poll::Ready(Err(astray())))
    }
}

impl Drop for RingSocket {
    fn drop(&mut self) {
        let left = with_ring(|ring| ring.number() == self.ring && ring.leave(self.index));
        if left == Some(false) {
            tracing::error!("a socket was dropped away from its ring");
        }
    }
}

/// The socket is used on another thread than its own, or after the end of its ring.
fn astray() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the socket is away from its ring")
}
