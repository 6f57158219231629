//! Looking at what a socket has without taking it.

use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket::{MsgFlags, recv};

/// Whether reading would give something at once, the end or an error included.
pub(super) fn is_readable(socket: impl AsFd) -> bool {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
    let seen = recv(socket.as_fd().as_raw_fd(), &mut [0], flags);
    !matches!(seen, Err(nix::Error::EAGAIN | nix::Error::EINTR))
}
