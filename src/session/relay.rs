//! The steady state of a session: bytes from the client to its server and back, frame by frame but never message by message.

use std::any::Any;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::buffer::Window;
use super::cancels::Cancels;
use super::control::{Control, Doing};
use super::inquiry::Inquiry;
use super::keys::CancelKey;
use super::names::Names;
use super::place::Place;
use super::probe::Mute;
use super::replay::Replay;
use super::state::{Left, State};
use super::thread::Thread;
use crate::backend::Servers;
use crate::net::{Engine, Stream};
use crate::pool::Checkout;
use crate::protocol::{Effects, Pending, Report, StatementScan};

/// Most answers that may be owed before no more is read from the client.
pub(super) const OWED_MAX: usize = 100_000;

/// Most bytes of pgtenant's own answers that wait for the client before no more is read from it.
const OWN_BYTES_MAX: usize = 16 * 1024;

/// A session that ends within so many transactions stays with tokio, where it began: the way to the engine costs more than it spares.
pub(super) const YOUNG_TRANSACTIONS: u8 = 4;

/// A server connection in use.
pub(super) struct Link {
    pub(super) server: Checkout<Servers>,
    /// The transaction status of the last ReadyForQuery.
    pub(super) status: u8,
    /// Nothing was sent since a ReadyForQuery that answered everything.
    pub(super) clean: bool,
    /// ReadyForQuery messages still to come for what the session itself asked; nothing is shown to the client until then.
    pub(super) swallow: u32,
    /// What is hidden is the answer to this.
    pub(super) inquiry: Option<Box<Inquiry>>,
    /// Cancel requests on their way to this connection; none before the first.
    pub(super) cancels: Option<Rc<Cancels>>,
    /// When the client's transaction began, and what is under way in it.
    pub(super) began: Option<(Instant, Instant)>,
    /// Whose unnamed statement is there, as far as answers have come; `unnamed_owner` is ahead by what was sent.
    pub(super) unnamed_answered: u64,
}

impl Link {
    /// A connection with the session's context, nothing under way.
    pub(super) fn new(server: Checkout<Servers>) -> Self {
        let unnamed_answered = server.unnamed_owner;
        Self {
            server,
            status: b'I',
            clean: true,
            swallow: 0,
            inquiry: None,
            began: None,
            cancels: None,
            unnamed_answered,
        }
    }
}

impl Link {
    /// Something of the client's goes to the server, which owed nothing.
    fn begins(&mut self) {
        let now = Instant::now();
        self.began = Some((self.began.map_or(now, |(transaction, _)| transaction), now));
    }

    /// Everything is answered; how long it took: the query, and the transaction if that is over.
    pub(super) fn ends(&mut self) -> Option<(Duration, Option<Duration>)> {
        let (transaction, query) = self.began?;
        let now = Instant::now();
        let is_over = self.status == b'I';
        if is_over {
            self.began = None;
        }
        Some((now - query, is_over.then(|| now - transaction)))
    }
}

/// The way from the client to the server.
#[derive(Default)]
pub(super) struct Up {
    pub(super) window: Window,
    /// Bytes of the current frame that are still to come.
    pub(super) rest: usize,
    /// The scan of a statement text that did not come in one piece.
    pub(super) scan: Option<Box<LongText>>,
    /// What the client's messages are thrown away up to.
    pub(super) discard: Discard,
    /// Nothing more will come from the client.
    pub(super) ended: bool,
    /// Bytes of our own that go to the server first.
    pub(super) prefix: BytesMut,
    pub(super) unnamed: Unnamed,
    /// Why the scan stopped in front of a whole frame.
    pub(super) stopped: Stopped,
}

/// The text of a long Query or Parse on its way.
pub(super) struct LongText {
    pub(super) scan: StatementScan,
    /// In Parse, the statement's name comes first and the text ends with a NUL.
    pub(super) parse: Option<LongParse>,
    /// What it leaves whatever its text is.
    pub(super) always: Effects,
    pub(super) is_refused: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum LongParse {
    Name,
    Text,
    Types,
}

/// The unnamed prepared statement, as far as the messages since the last Sync go.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum UnnamedState {
    #[default]
    Untouched,
    Parsed,
    Bound,
    /// A simple query ended it.
    Dead,
}

/// What a scan of the client's messages stopped for.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    /// It did not.
    #[default]
    No,
    /// The next message depends on the server connection that it goes to.
    ForServer,
    /// What waits for the server must go first.
    ForRoom,
    /// What was sent must be answered first: the next message depends on what comes of it.
    ForAnswers,
}

/// What is known of the unnamed prepared statement, which another client may have replaced on the server meanwhile.
#[derive(Default)]
pub(super) struct Unnamed {
    pub(super) state: UnnamedState,
    /// It was parsed in messages that wait for a server connection.
    pub(super) parsed_ahead: bool,
    /// Messages that wait for a server connection use the one of an earlier time.
    pub(super) needed: bool,
    /// What it may leave behind, whenever it is used.
    pub(super) left: Option<Box<Left>>,
}

/// Messages of the client that can get no answer from a server.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Discard {
    #[default]
    Nothing,
    /// The first message decides: a Query or FunctionCall goes alone, anything else up to its Sync.
    Batch,
    UntilSync,
}

/// The way from the server to the client.
#[derive(Default)]
pub(super) struct Down {
    pub(super) window: Window,
    pub(super) rest: usize,
    /// Messages of our own for the client, sent when no frame of the server's is under way.
    pub(super) own: BytesMut,
    /// The server closed the connection, or broke the protocol.
    pub(super) ended: bool,
    /// Its last word was a FATAL error.
    pub(super) fatal_seen: bool,
    /// Writing to the server failed: its last word, if it has one, is still to be read.
    pub(super) breaking: bool,
    pub(super) mute: Mute,
}

impl Up {
    /// Whether something waits for the server, or to know which one it will be.
    fn wants_server(&self) -> bool {
        self.window.has_ready() || !self.prefix.is_empty() || self.stopped == Stopped::ForServer
    }
}

impl Down {
    /// Whether something waits for the client.
    pub(super) fn has_unsent(&self) -> bool {
        self.window.has_ready() || !self.own.is_empty()
    }
}

/// Why the relay stops.
#[derive(Debug)]
pub(super) enum End {
    /// The client said so, or closed its side, and has its answers.
    Terminated,
    /// The client cannot be written to or read from.
    ClientLost(io::Error),
    /// The server connection is gone; its last word, if any, was passed on.
    ServerLost,
    /// The session ends with this as its last word.
    Refused(Report),
    /// The context could not be asserted; what the client sent is not to be answered.
    NotAsserted(Bytes),
}

/// What the relay needs from outside its loop.
pub(super) enum Turn {
    /// No server connection was free at once.
    NeedServer,
    End(End),
}

/// A session after its login.
pub(crate) struct Relay {
    pub(super) client: Stream,
    pub(super) link: Option<Link>,
    /// A connection that must be made ready before anything is sent on it.
    pub(super) restless: Option<Box<Checkout<Servers>>>,
    pub(super) up: Up,
    pub(super) down: Down,
    pub(super) pending: Pending,
    /// What the client left on its server connection.
    pub(super) state: State,
    /// The client's names of prepared statements.
    pub(super) names: Names,
    /// The client's batch, while it can be sent once more.
    pub(super) replay: Replay,
    pub(super) place: Place,
    pub(super) control: Rc<Control>,
    pub(super) thread: Rc<Thread>,
    /// The process id that the client knows.
    pub(super) process_id: i32,
    /// Transactions still to come before its socket goes to the thread's engine.
    pub(super) young: u8,
    /// A socket is another's now, and has to be polled anew.
    pub(super) settled_anew: bool,
    /// Of the parameters that the client was told.
    pub(super) told: u64,
    /// Given back when all else is gone: its place among the clients, and its cancel key.
    pub(super) _kept: (Box<dyn Any + Send>, CancelKey),
}

impl Relay {
    /// One turn of the loop: everything that can be done without waiting. Each direction goes on until it is stuck, and again
    /// only if the other one did something that may have freed it.
    pub(super) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        Engine::worked();
        self.control.listen(cx.waker());
        let mut is_first = true;
        loop {
            if let Some(end) = self.poll_signals() {
                return Poll::Ready(Turn::End(end));
            }
            match self.pump_down(cx) {
                Ok(Pumped::Stuck) if !is_first => break,
                Ok(_) => {}
                Err(end) => return Poll::Ready(Turn::End(end)),
            }
            match self.pump_up(cx) {
                Ok(Pumped::Stuck) => break,
                Ok(Pumped::NeedServer) if self.down.has_unsent() => break,
                Ok(Pumped::NeedServer) => return Poll::Ready(Turn::NeedServer),
                Ok(Pumped::Moved) => {}
                Err(end) => return Poll::Ready(Turn::End(end)),
            }
            is_first = false;
        }
        // A transaction that is over now may be what a shutdown waits for.
        match self.finished().or_else(|| self.poll_signals()) {
            Some(end) => Poll::Ready(Turn::End(end)),
            None => {
                if std::mem::take(&mut self.settled_anew) {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
        }
    }

    /// What the rest of the thread asked for.
    fn poll_signals(&mut self) -> Option<End> {
        if self.control.wants_cancel() {
            self.cancel_statement();
        }
        if self.control.take_probe()
            && let Some(end) = self.probe_client()
        {
            return Some(end);
        }
        if self.control.is_killed() {
            return self.control.take_kill().map(End::Refused);
        }
        if self.control.is_draining() && self.is_between_transactions() {
            return Some(End::Refused(super::error::shutdown()));
        }
        None
    }

    /// Nothing of the client's is under way anywhere.
    fn is_between_transactions(&self) -> bool {
        let server_free = self.link.as_ref().is_none_or(|link| link.clean && link.status == b'I' && link.swallow == 0);
        server_free
            && self.pending.is_empty()
            && self.up.rest == 0
            && !self.up.wants_server()
            && !self.down.window.has_ready()
    }

    /// The client's side has ended and nothing is owed to it any more.
    fn finished(&mut self) -> Option<End> {
        if self.down.has_unsent() {
            return None;
        }
        if self.down.ended {
            return Some(End::ServerLost);
        }
        let unsent = self.up.wants_server() || self.up.stopped != Stopped::No;
        let answered = !self.down.breaking && !self.pending.awaits_ready();
        (self.up.ended && !unsent && answered).then_some(End::Terminated)
    }

    /// Server to client.
    fn pump_down(&mut self, cx: &mut Context<'_>) -> Result<Pumped, End> {
        let mut pumped = Pumped::Stuck;
        loop {
            match self.flush_down(cx) {
                Poll::Ready(Ok(wrote)) => pumped = if wrote { Pumped::Moved } else { pumped },
                Poll::Ready(Err(error)) => return Err(End::ClientLost(error)),
                Poll::Pending => return Ok(pumped),
            }
            if self.down.ended {
                return Ok(pumped);
            }
            if self.down.window.has_held() {
                self.read_down()?;
                if self.down.window.has_ready() {
                    continue;
                }
            }
            let Some(link) = &mut self.link else {
                return Ok(pumped);
            };
            let space = self.down.window.space(&self.thread.buffers);
            match link.server.stream.poll_read(cx, space) {
                Poll::Pending => {
                    self.down.window.release(&self.thread.buffers);
                    return Ok(pumped);
                }
                Poll::Ready(Ok(0) | Err(_)) => {
                    self.down.window.drop_unscanned();
                    self.down.window.release(&self.thread.buffers);
                    self.down.ended = true;
                    if self.down.rest > 0 {
                        // There is no place for them inside a message that never ends.
                        self.down.own.clear();
                    }
                    return Ok(Pumped::Moved);
                }
                Poll::Ready(Ok(count)) => {
                    pumped = Pumped::Moved;
                    self.down.window.filled(count);
                    self.read_down()?;
                }
            }
        }
    }

    /// Scans what came from the server, and gives the server back if that was all.
    fn read_down(&mut self) -> Result<(), End> {
        self.scan_down()?;
        if self.link.as_ref().is_some_and(|link| link.clean) {
            self.transaction_boundary();
        }
        Ok(())
    }

    /// Writes what waits for the client; whether anything went.
    fn flush_down(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut wrote = false;
        let flushed = self.write_down(cx, &mut wrote);
        if flushed.is_pending() {
            if wrote || self.control.stalled_since().is_none() {
                self.control.set_stalled(Some(self.thread.now()));
            }
        } else if wrote || self.control.stalled_since().is_some() {
            self.control.set_stalled(None);
            self.down.window.release(&self.thread.buffers);
        }
        flushed.map_ok(|()| wrote)
    }

    fn write_down(&mut self, cx: &mut Context<'_>, wrote: &mut bool) -> Poll<io::Result<()>> {
        while self.down.window.has_ready() {
            let count = ready!(self.client.poll_write(cx, self.down.window.ready()))?;
            self.place.pool.manager().traffic().add(|totals| totals.sent_bytes += count as u64);
            self.down.window.wrote(count);
            *wrote = true;
        }
        // All of them: nothing of the server's may come in between.
        while !self.down.own.is_empty() && self.down.rest == 0 {
            let count = ready!(self.client.poll_write(cx, &self.down.own))?;
            let _ = self.down.own.split_to(count);
            *wrote = true;
        }
        if self.client.tls().is_some() {
            ready!(self.client.poll_flush(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Client to server.
    fn pump_up(&mut self, cx: &mut Context<'_>) -> Result<Pumped, End> {
        let mut pumped = Pumped::Stuck;
        loop {
            if self.replay.waits() && !self.up.window.has_ready() && self.up.prefix.is_empty() {
                return Ok(pumped);
            }
            if self.up.wants_server() {
                if self.is_held() {
                    return Ok(pumped);
                }
                if self.link.is_none() && !self.attach_at_once() {
                    return Ok(Pumped::NeedServer);
                }
                pumped = Pumped::Moved;
                if self.up.stopped == Stopped::ForServer {
                    // What depended on the server goes in the same write as what did not.
                    self.scan_up()?;
                    self.sent_without_answer();
                    continue;
                }
                match self.flush_up(cx) {
                    Poll::Ready(Ok(())) => self.sent_without_answer(),
                    Poll::Ready(Err(_)) => {
                        // The reason may still be on its way: the server's last word comes by reading.
                        self.up.window.rescan();
                        self.up.window.drop_unscanned();
                        self.up.prefix.clear();
                        self.up.ended = true;
                        self.down.breaking = true;
                    }
                    Poll::Pending => return Ok(pumped),
                }
                continue;
            }
            if self.up.stopped == Stopped::ForRoom {
                pumped = Pumped::Moved;
                self.scan_up()?;
                continue;
            }
            if let Some(link) = &mut self.link
                && link.server.stream.tls().is_some()
                && link.server.stream.poll_flush(cx).is_pending()
            {
                return Ok(pumped);
            }
            if self.up.stopped == Stopped::ForAnswers {
                let hidden = self.link.as_ref().is_some_and(|link| link.swallow > 0);
                if (hidden || self.pending.awaits_ready()) && !self.down.ended {
                    return Ok(pumped);
                }
                pumped = Pumped::Moved;
                self.scan_up()?;
                continue;
            }
            let full = self.pending.len() > OWED_MAX || self.down.own.len() > OWN_BYTES_MAX;
            if self.up.ended || self.down.ended || full {
                return Ok(pumped);
            }
            let space = self.up.window.space(&self.thread.buffers);
            match self.client.poll_read(cx, space) {
                Poll::Pending => {
                    self.up.window.release(&self.thread.buffers);
                    return Ok(pumped);
                }
                Poll::Ready(Err(error)) => return Err(End::ClientLost(error)),
                Poll::Ready(Ok(0)) => {
                    if self.up.rest > 0 || self.up.window.has_held() {
                        return Err(End::ClientLost(io::ErrorKind::UnexpectedEof.into()));
                    }
                    self.up.window.release(&self.thread.buffers);
                    self.up.ended = true;
                    self.control.set_half_closed();
                    return Ok(Pumped::Moved);
                }
                Poll::Ready(Ok(count)) => {
                    pumped = Pumped::Moved;
                    self.place.pool.manager().traffic().add(|totals| totals.received_bytes += count as u64);
                    self.up.window.filled(count);
                    self.scan_up()?;
                }
            }
        }
    }

    /// The operator holds up what would begin now.
    fn is_held(&self) -> bool {
        let begins = self.link.as_ref().is_none_or(|link| link.clean && link.status == b'I' && link.swallow == 0);
        if !begins || self.up.rest > 0 || !self.thread.is_paused(&self.control) {
            return false;
        }
        self.control.set_doing(Doing::Waiting, self.thread.now());
        true
    }

    /// What went to the server brings no answer: no ReadyForQuery will come by which the connection is given back.
    fn sent_without_answer(&mut self) {
        let nothing_owed = self.pending.is_empty() && !self.pending.is_skipping();
        if nothing_owed && self.link.as_ref().is_some_and(|link| link.clean) && !self.up.wants_server() {
            self.transaction_boundary();
        }
    }

    /// Writes what waits for the server, our own bytes first and with the client's in one write.
    fn flush_up(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(link) = &mut self.link else {
            return Poll::Ready(Ok(()));
        };
        let answered = link.swallow > 0 || !self.pending.is_empty() || self.pending.is_skipping();
        if link.clean && answered {
            link.clean = false;
            if !self.pending.is_empty() {
                link.begins();
            }
            self.control.set_doing(Doing::Active, self.thread.now());
        }
        if !self.up.prefix.is_empty() {
            if self.up.window.prepend(&self.up.prefix, &self.thread.buffers) {
                self.thread.give_prefix(std::mem::take(&mut self.up.prefix));
            } else {
                let count = ready!(link.server.stream.poll_write(cx, &self.up.prefix))?;
                let _ = self.up.prefix.split_to(count);
                return Poll::Ready(Ok(()));
            }
        }
        let count = ready!(link.server.stream.poll_write(cx, self.up.window.ready()))?;
        self.up.window.wrote(count);
        self.up.window.release(&self.thread.buffers);
        Poll::Ready(Ok(()))
    }
}

/// What a pump did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pumped {
    Stuck,
    Moved,
    NeedServer,
}
