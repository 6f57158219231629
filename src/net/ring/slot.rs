//! What a ring knows of one socket.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Waker};

use super::buffers::Filled;

/// Bytes of one send.
pub(super) const SEND_BYTES: usize = 16 * 1024;

/// What has been received, or is awaited.
#[derive(Debug)]
pub(super) enum Inbound {
    /// The kernel is to receive something.
    Armed,
    /// There was no buffer for it; it is to be asked again when there is one.
    Starved,
    /// In a buffer of the ring: from, to.
    Buffered(Filled, usize, usize),
    /// The same, copied out because buffers were short.
    Kept(Box<[u8]>, usize),
    /// Nothing is awaited: much comes at a time, and is read by whoever wants it.
    Direct,
    /// The peer has ended its direction.
    Ended,
    /// An error of the socket, told to every reader.
    Failed(i32),
}

/// What is on its way out.
#[derive(Debug)]
pub(super) enum Outbound {
    Idle,
    /// The kernel sends these bytes: from, to.
    Sending(Box<[u8]>, usize, usize),
    /// An error of the socket, told to every writer.
    Failed(i32),
}

/// One socket.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) fd: OwnedFd,
    pub(super) inbound: Inbound,
    pub(super) outbound: Outbound,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    /// Completions still to come.
    pub(super) in_flight: u8,
    /// Nobody holds it any more; it goes with its last completion.
    pub(super) is_closing: bool,
}

impl Slot {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            inbound: Inbound::Armed,
            outbound: Outbound::Idle,
            reader: None,
            writer: None,
            in_flight: 0,
            is_closing: false,
        }
    }

    /// Whether reading would give something at once; none if that is not known.
    pub(super) fn is_readable(&self) -> Option<bool> {
        match &self.inbound {
            Inbound::Armed | Inbound::Starved => Some(false),
            Inbound::Buffered(..) | Inbound::Kept(..) | Inbound::Ended | Inbound::Failed(_) => Some(true),
            Inbound::Direct => None,
        }
    }
}

/// Remembers whom to wake, without a new waker for the same task.
pub(super) fn remember(waker: &mut Option<Waker>, cx: &Context<'_>) {
    match waker {
        Some(known) if known.will_wake(cx.waker()) => {}
        waker => *waker = Some(cx.waker().clone()),
    }
}

pub(super) fn error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}
