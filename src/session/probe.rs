//! Clients that may be gone: whoever waits for a server connection or for an answer is not read from, and may have left.

use std::io;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};

use super::place::Place;
use super::relay::{End, Link, Relay};
use super::thread::Thread;
use crate::net::{PeerState, Stream};
use crate::protocol::{HEADER_BYTES, cstring, header, parameter_status};

/// A server that has not gone on with a message after so many looks, about one a second, will not before its client has left.
const MUTE_MAX: u8 = 30;

/// What every server reports and no session can change.
const CONSTANT: &str = "server_version";

/// The server is in the midst of a message.
#[derive(Default)]
pub(super) struct Mute {
    /// What was missing of it at the last look.
    rest: usize,
    looks: u8,
}

impl Mute {
    /// One more look; whether there was one too many.
    fn is_for_good(&mut self, rest: usize) -> bool {
        if self.rest != rest {
            *self = Self { rest, looks: 0 };
        }
        self.looks = self.looks.saturating_add(1);
        self.looks > MUTE_MAX
    }
}

impl Relay {
    /// Looks whether the client is still there. One that closed its side may wait for its answers or be gone, which only a write
    /// tells: one of the server's parameters, which may be reported at any time, does no harm to one that waits.
    pub(super) fn probe_client(&mut self) -> Option<End> {
        match may_be_gone(&self.client) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => return Some(End::ClientLost(error)),
        }
        if self.down.has_unsent() {
            return None;
        }
        if self.down.rest > 0 {
            // Nothing can be written in the midst of a message, and so nothing be learnt.
            let is_lost = self.down.mute.is_for_good(self.down.rest);
            return is_lost.then(|| End::ClientLost(io::ErrorKind::TimedOut.into()));
        }
        report_something(&mut self.down.own, self.link.as_ref(), &self.place, &self.thread);
        None
    }
}

/// Looks whether a client that waits for a server connection is still there; why not, if it is not.
pub(super) fn probe_waiting(
    client: &mut Stream,
    own: &mut BytesMut,
    (place, thread): (&Place, &Thread),
    cx: &mut Context<'_>,
) -> Option<io::Error> {
    match may_be_gone(client) {
        Ok(true) => {}
        Ok(false) => return None,
        Err(error) => return Some(error),
    }
    if own.is_empty() {
        report_something(own, None, place, thread);
    }
    while !own.is_empty() {
        match client.poll_write(cx, own) {
            Poll::Ready(Ok(count)) => own.advance(count),
            Poll::Ready(Err(error)) => return Some(error),
            Poll::Pending => return None,
        }
    }
    match client.poll_flush(cx) {
        Poll::Ready(Err(error)) => Some(error),
        _ => None,
    }
}

/// Whether the client has closed its side, and so may be gone; an error where it is.
fn may_be_gone(client: &Stream) -> io::Result<bool> {
    match client.peer_state()? {
        PeerState::There => Ok(false),
        PeerState::HalfClosed => Ok(true),
        PeerState::Gone => Err(io::ErrorKind::ConnectionReset.into()),
    }
}

/// A parameter that the client was told before, and which never changes.
fn report_something(own: &mut BytesMut, link: Option<&Link>, place: &Place, thread: &Thread) {
    if let Some(link) = link {
        let constant = link.server.parameters.iter().find(|(name, _)| name == CONSTANT);
        if let Some((name, value)) = constant
            && let Err(error) = parameter_status(own, name, value)
        {
            tracing::debug!(%error, "no parameter to probe the client with");
        }
    } else if let Some(known) = thread.parameters(place.profile.pool_id, &place.want)
        && let Some(message) = constant_of(&known.messages)
    {
        own.extend_from_slice(message);
    }
}

/// The ParameterStatus message that never changes, among those of a login.
fn constant_of(mut messages: &[u8]) -> Option<&[u8]> {
    while let Ok(Some(head)) = header(messages) {
        let (message, rest) = messages.split_at_checked(head.frame_bytes)?;
        if cstring(&message[HEADER_BYTES..]).is_some_and(|(name, _)| name == CONSTANT.as_bytes()) {
            return Some(message);
        }
        messages = rest;
    }
    None
}
