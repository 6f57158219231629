//! Reading what the server answers: whose turn is over, which settings changed, what must not reach the client.

use std::rc::Rc;

use bytes::Bytes;

use super::attach::NO_SESSION;
use super::error;
use super::relay::{End, Link, Relay};
use crate::backend::Asserted;
use crate::metrics::{Finder, count_error};
use crate::protocol::{Effects, Fate, HEADER_BYTES, Owed, WHOLE_BYTES_MAX, cstring, error_field, header};

impl Relay {
    /// Scans what was read from the server, and lets go on what may.
    pub(super) fn scan_down(&mut self) -> Result<(), End> {
        loop {
            let Some(link) = &mut self.link else { return Ok(()) };
            let hidden = link.swallow > 0;
            let asked = hidden && link.inquiry.is_some();
            let process_id = link.server.process_id;
            if hidden && self.down.window.has_ready() {
                // What the client gets must be gone before anything is left out after it.
                return Ok(());
            }
            if self.down.rest > 0 {
                let count = self.down.rest.min(self.down.window.unscanned().len());
                if count == 0 {
                    return Ok(());
                }
                self.down.rest -= count;
                self.passed_down(count, hidden, Fate::Pass);
                continue;
            }
            // Answers of pgtenant's own that could not be sent inside a long message go before the next one.
            if !hidden && (!self.down.own.is_empty() || !self.insert_own_answers()) {
                return Ok(());
            }
            if !hidden && self.pass_plain_answers() {
                continue;
            }
            let unscanned = self.down.window.unscanned();
            let Ok(head) = header(unscanned) else {
                tracing::error!(process_id, "server sent an impossible message length");
                self.down.window.drop_unscanned();
                self.down.ended = true;
                return Ok(());
            };
            let Some(head) = head else { return Ok(()) };
            let count = unscanned.len().min(head.frame_bytes);
            let data = matches!(head.kind, b'D' | b'd') && !asked;
            if !data && count < head.frame_bytes && head.frame_bytes <= WHOLE_BYTES_MAX {
                return Ok(());
            }
            if head.kind == b't' && !hidden && self.replay.is_kept() && count == head.frame_bytes {
                match self.describes_stale(count) {
                    // What follows decides.
                    None => return Ok(()),
                    Some(true) => {
                        self.down.window.cut(count);
                        continue;
                    }
                    Some(false) => {}
                }
            }
            let fate = match (data, hidden) {
                (true, _) => Fate::Pass,
                (false, true) => self.hidden_message(head.kind, count)?,
                (false, false) if head.kind == b'E' && self.replays_instead(count) => Fate::Hide,
                (false, false) => self.server_message(head.kind, count),
            };
            self.down.rest = head.frame_bytes - count;
            match fate {
                Fate::Refuse(refusal) if self.down.rest == 0 => {
                    self.down.window.cut(count);
                    let report = error::refused(refusal, &self.control.tenant.slug);
                    count_error(Finder::Proxy, report.sqlstate.0.as_bytes());
                    report.encode(&mut self.down.own);
                }
                fate => self.passed_down(count, hidden, fate),
            }
        }
    }

    /// Lets whole answers go on that tell nothing of the server's state, as most do; whether there were any.
    fn pass_plain_answers(&mut self) -> bool {
        let Some(link) = &mut self.link else { return false };
        let unscanned = self.down.window.unscanned();
        let mut passed = 0;
        while let Ok(Some(head)) = header(&unscanned[passed..])
            && let Some(frame) = unscanned[passed..].get(..head.frame_bytes)
        {
            if !matches!(head.kind, b'D' | b'd') {
                let takes = head.kind == b'C' && Taken::by(&frame[HEADER_BYTES..]).is_some();
                if takes || !self.pending.is_plain_answer(head.kind) {
                    break;
                }
                if head.kind == b'1' {
                    link.unnamed_answered = self.control.id;
                }
                self.down.fatal_seen = false;
            }
            passed += head.frame_bytes;
            if self.pending.own_turn().is_some() {
                break;
            }
        }
        self.down.window.pass(passed);
        passed > 0
    }

    /// Scanned bytes go on, or are left out.
    fn passed_down(&mut self, count: usize, hidden: bool, fate: Fate) {
        if hidden {
            self.down.window.skip(count);
        } else if fate == Fate::Hide {
            self.down.window.cut(count);
        } else {
            self.down.window.pass(count);
        }
    }

    /// Puts answers of pgtenant's own where their turn is; false if something must be sent first to make room.
    fn insert_own_answers(&mut self) -> bool {
        while self.pending.own_turn().is_some() {
            if !self.down.window.fits(0, HEADER_BYTES) {
                if !self.down.window.unscanned().is_empty() {
                    return false;
                }
                self.answer_own();
            } else if let Some(kind) = self.next_own_answer() {
                self.down.window.replace(0, &[kind, 0, 0, 0, 4]);
            }
        }
        true
    }

    /// A message that answers something of pgtenant's.
    fn hidden_message(&mut self, kind: u8, count: usize) -> Result<Fate, End> {
        let Some(link) = &mut self.link else { return Ok(Fate::Hide) };
        let body = &self.down.window.unscanned()[HEADER_BYTES..count];
        match kind {
            b'Z' => {
                link.swallow -= 1;
                link.status = body.first().copied().unwrap_or(b'E');
                if link.swallow > 0 {
                    return Ok(Fate::Hide);
                }
                link.clean = self.pending.is_empty();
                if self.replay.waits() {
                    self.replay();
                    return Ok(Fate::Hide);
                }
                match link.inquiry.take() {
                    Some(inquiry) if inquiry.is_answered() => self.settled(&inquiry),
                    // What the server does not tell keeps the connection with this client.
                    Some(_) => self.state.unanswered(),
                    None => {
                        link.server.asserted = Asserted::Is(Rc::clone(&self.place.assertion.context));
                        link.server.affinity = self.place.want.affinity;
                    }
                }
            }
            b'E' if link.inquiry.is_some() => {}
            b'E' => return Err(End::NotAsserted(Bytes::copy_from_slice(body))),
            b'D' => {
                if let Some(inquiry) = &mut link.inquiry {
                    inquiry.answered(body);
                }
            }
            // What comes unasked while the client's own connection is asked is the client's.
            b'A' | b'N' if link.inquiry.is_some() => {
                let message = &mut self.down.window.unscanned()[..count];
                if kind == b'A' {
                    notification_of(&mut message[HEADER_BYTES..], link.server.process_id, self.process_id);
                }
                self.down.own.extend_from_slice(message);
            }
            b'S' => _ = parameter_changed(link, body),
            _ => {}
        }
        Ok(Fate::Hide)
    }

    /// A message for the client, and what it tells of the server's state.
    fn server_message(&mut self, kind: u8, count: usize) -> Fate {
        let Some(link) = &mut self.link else { return Fate::Pass };
        let mut lost = Vec::new();
        let fate = self.pending.answered(kind, |owed| lost.push(owed));
        if !lost.is_empty() {
            self.names.lost(&lost, &mut link.server.prepared);
            if lost.contains(&Owed::ParseUnnamed) && !self.pending.parses_unnamed() {
                link.unnamed_lost(&lost);
            }
        }
        match fate {
            Fate::Confirm => self.names.confirmed(),
            Fate::ConfirmUnnamed => link.unnamed_answered = self.control.id,
            Fate::Pass | Fate::Hide | Fate::Refuse(_) => {}
        }
        if self.pending.is_uncertain() {
            self.state.insert(Effects::FAILED_COPY);
        }
        let message = &mut self.down.window.unscanned()[..count];
        let fatal = kind == b'E' && is_fatal(message);
        if kind == b'E' {
            self.state.forget_last_set();
            if is_stale_plan(message) {
                link.server.prepared.expire();
            }
            if !matches!(fate, Fate::Refuse(_)) {
                count_error(Finder::Server, error_field(message, b'C').unwrap_or_default());
            }
        }
        let body = &mut message[HEADER_BYTES..];
        match kind {
            b'Z' => {
                link.status = body.first().copied().unwrap_or(b'E');
                link.clean = self.pending.is_empty();
                self.replay.clear();
                self.place.pool.manager().traffic().add(|totals| totals.queries += 1);
                self.state.answered();
            }
            b'S' => {
                let changed = parameter_changed(link, body);
                if changed.is_some_and(|(name, _)| self.state.taken_away().has(name)) {
                    // What a RESET takes away of the context is set again.
                    return Fate::Hide;
                }
                if let Some((name, value)) = changed {
                    self.state.reported(name, value);
                }
            }
            b'C' => match Taken::by(body) {
                Some(Taken::Settings) => self.state.reset(),
                Some(Taken::All) => {
                    link.server.prepared.expire();
                    self.names.clear();
                    self.state.discarded(self.pending.len() <= 1);
                    self.place.carry(&[]);
                    link.server.asserted = Asserted::Fresh;
                }
                Some(Taken::Statements) => {
                    link.server.prepared.expire();
                    self.names.clear();
                }
                None => {}
            },
            b'A' => notification_of(body, link.server.process_id, self.process_id),
            b'W' if !self.place.profile.session_mode => self.state.insert(Effects::REPLICATION),
            _ => {}
        }
        self.down.fatal_seen = fatal;
        fate
    }
}

impl Link {
    /// These messages got no answer, and no Parse of the unnamed statement is on its way: whose is it now?
    fn unnamed_lost(&mut self, lost: &[Owed]) {
        if lost.first() == Some(&Owed::ParseUnnamed) {
            // The one that failed took away what was there before.
            self.unnamed_answered = NO_SESSION;
        }
        self.server.unnamed_owner = self.unnamed_answered;
    }
}

/// State of the session that a command took away.
enum Taken {
    Settings,
    Statements,
    All,
}

impl Taken {
    /// What a command did, by its tag.
    #[inline]
    fn by(tag: &[u8]) -> Option<Self> {
        match tag {
            b"RESET\0" => Some(Self::Settings),
            b"DEALLOCATE ALL\0" => Some(Self::Statements),
            b"DISCARD ALL\0" => Some(Self::All),
            _ => None,
        }
    }
}

/// Notes what ParameterStatus says; the parameter and its value.
fn parameter_changed<'a>(link: &mut Link, body: &'a [u8]) -> Option<(&'a str, &'a str)> {
    let (name, rest) = cstring(body)?;
    let (value, _) = cstring(rest)?;
    let (name, value) = (std::str::from_utf8(name).ok()?, std::str::from_utf8(value).ok()?);
    link.server.set_parameter(name.to_owned(), value.to_owned());
    Some((name, value))
}

/// The client knows itself by another number than the server does.
fn notification_of(body: &mut [u8], server_pid: i32, client_pid: i32) {
    if let Some(pid) = body.first_chunk_mut::<4>()
        && i32::from_be_bytes(*pid) == server_pid
    {
        *pid = client_pid.to_be_bytes();
    }
}

/// Whether an ErrorResponse ends the session: field `V`, never translated, says FATAL or PANIC.
fn is_fatal(message: &[u8]) -> bool {
    matches!(error_field(message, b'V'), Some(b"FATAL" | b"PANIC"))
}

/// Whether a prepared statement's plan no longer fits its tables: `cached plan must not change result type`, told by the
/// name of the function that says so, which is never translated.
pub(super) fn is_stale_plan(message: &[u8]) -> bool {
    error_field(message, b'C') == Some(b"0A000") && error_field(message, b'R') == Some(b"RevalidateCachedQuery")
}
