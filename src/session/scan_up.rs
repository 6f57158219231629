//! Reading what the client sends: which answers it will bring, and which state it may leave on the server.

use bytes::BytesMut;

use super::attach::NO_SESSION;
use super::error;
use super::prepared::{Carried, put_message};
use super::relay::{Discard, End, LongParse, LongText, Relay, Stopped, Unnamed, UnnamedState};
use super::state::Left;
use crate::protocol::{
    Answer, Effects, HEADER_BYTES, Header, Owed, Refusal, StatementScan, WHOLE_BYTES_MAX, check_frontend, cstring,
    effects_of, header, ready_for_query,
};

/// What a refused statement is replaced by, as much of it as there is room for: never a statement.
const FAILING: &[u8] = b"( -- refused by pgtenant";

/// Takes the place of the zero that ends a text: without one the message is none.
const NOT_AN_END: u8 = b'(';

/// Owns an unnamed statement that is nobody's to use.
const FAILED_PARSE: u64 = u64::MAX;

/// Bytes of a long frame that must be there before it goes on: names are in front.
const LONG_BYTES_MIN: usize = 1024;

impl Relay {
    /// Scans what was read from the client, and lets go on what may.
    pub(super) fn scan_up(&mut self) -> Result<(), End> {
        self.up.stopped = Stopped::No;
        self.scan_up_messages()?;
        self.answer_own();
        Ok(())
    }

    fn scan_up_messages(&mut self) -> Result<(), End> {
        loop {
            self.pass_plain_messages()?;
            let unscanned = self.up.window.unscanned();
            if unscanned.is_empty() {
                return Ok(());
            }
            if self.up.rest > 0 {
                let count = self.up.rest.min(unscanned.len());
                self.up.rest -= count;
                self.scan_long(0, count);
                self.passed_up(count);
                if self.up.rest == 0 {
                    self.end_long_frame();
                }
                continue;
            }
            let Some(head) = header(unscanned).map_err(|error| End::Refused(error::length(error)))? else {
                return Ok(());
            };
            check_frontend(head).map_err(|error| End::Refused(error::length(error)))?;
            let there = unscanned.len().min(head.frame_bytes);
            let whole = there == head.frame_bytes;
            let enough = whole || (head.frame_bytes > WHOLE_BYTES_MAX && there >= LONG_BYTES_MIN);
            if !enough && head.kind != b'd' {
                return Ok(());
            }
            if head.kind == b'X' {
                self.up.window.drop_unscanned();
                self.up.ended = true;
                self.control.set_half_closed();
                return Ok(());
            }
            if self.up.discard == Discard::Nothing {
                let carried = match head.kind {
                    b'Q' if whole && !self.names.is_empty() => self.deallocate(there),
                    _ => self.carry(head, there),
                };
                match carried {
                    Carried::No => {
                        if let Some(refusal) = self.client_message(head, there)? {
                            self.refuse(there, refusal)?;
                        } else {
                            self.up.rest = head.frame_bytes - there;
                            self.scan_long(HEADER_BYTES, there);
                            if self.replay.is_kept() {
                                self.replay.add(head.kind, &self.up.window.unscanned()[..there], whole);
                            }
                            self.up.window.pass(there);
                            if matches!(head.kind, b'Q' | b'S') && whole && self.state.take_stops() {
                                self.up.stopped = Stopped::ForAnswers;
                                return Ok(());
                            }
                        }
                    }
                    Carried::Done => {}
                    Carried::Refused(refusal) => self.refuse(there, refusal)?,
                    Carried::NeedServer => {
                        self.up.stopped = Stopped::ForServer;
                        return Ok(());
                    }
                    Carried::NeedRoom => {
                        self.up.stopped = Stopped::ForRoom;
                        return Ok(());
                    }
                }
            } else {
                self.discarded_message(head, there, whole);
            }
            self.up.rest = head.frame_bytes - there;
        }
    }

    /// Lets whole messages go on that say no more than what answer they will bring, as most of the extended protocol do.
    fn pass_plain_messages(&mut self) -> Result<(), End> {
        let is_plain = self.up.rest == 0 && self.up.discard == Discard::Nothing && !self.replay.is_kept();
        if !is_plain || self.names.get(b"").is_some() {
            return Ok(());
        }
        loop {
            let unscanned = self.up.window.unscanned();
            let Ok(Some(head)) = header(unscanned) else { return Ok(()) };
            let Some(frame) = unscanned.get(..head.frame_bytes) else { return Ok(()) };
            if head.frame_bytes > WHOLE_BYTES_MAX {
                return Ok(());
            }
            match (head.kind, &frame[HEADER_BYTES..]) {
                // Of the unnamed statement.
                (b'B', [0, 0, ..]) => {
                    self.pending.sent(Owed::Bind);
                    self.uses_unnamed(UnnamedState::Bound)?;
                }
                // Of a portal.
                (b'D', [b'P', ..]) => self.pending.sent(Owed::Describe),
                (b'E', _) => self.pending.sent(Owed::Execute),
                _ => return Ok(()),
            }
            self.up.window.pass(head.frame_bytes);
        }
    }

    /// Reads a piece of a long text. Where the text ends and may not go to the server, it loses its end, and fails there: what is
    /// before it is on its way already.
    fn scan_long(&mut self, from: usize, until: usize) {
        let Some(long) = &mut self.up.scan else { return };
        let piece = &mut self.up.window.unscanned()[from..until];
        let end = long.feed(piece).or_else(|| {
            let is_last = long.parse.is_none() && self.up.rest == 0;
            is_last.then(|| piece.len().saturating_sub(1))
        });
        let Some(end) = end.filter(|_| self.state.refuses_pins() && !long.is_refused) else { return };
        let Some(refusal) = self.state.refuses(Left::of_long(long.effects()).as_deref()) else { return };
        if let Some(end) = piece.get_mut(end) {
            *end = NOT_AN_END;
        }
        long.is_refused = true;
        self.pending.refuse_last(refusal);
        if long.parse.is_some() && long.always.is_empty() {
            // Such a message does not even take away the unnamed statement that is there, whosever that is.
            self.up.unnamed =
                Unnamed { state: UnnamedState::Bound, needed: self.up.unnamed.needed, ..Unnamed::default() };
            self.link.iter_mut().for_each(|link| link.server.unnamed_owner = FAILED_PARSE);
        }
    }

    /// Scanned bytes go on, or are thrown away.
    fn passed_up(&mut self, count: usize) {
        if self.up.discard == Discard::Nothing {
            self.up.window.pass(count);
        } else {
            self.up.window.skip(count);
        }
    }

    /// A message, or the first part of a long one, that goes to the server, unless it is refused.
    fn client_message(&mut self, head: Header, there: usize) -> Result<Option<Refusal>, End> {
        let whole = there == head.frame_bytes;
        let body = &self.up.window.unscanned()[HEADER_BYTES..there];
        match head.kind {
            b'Q' => return Ok(self.query(there, whole)),
            b'P' => return Ok(self.parse(there, whole)),
            b'F' => self.function_call(there),
            b'B' => {
                // Where the portal's name is too long to see further, it may be.
                let unnamed = cstring(body).is_none_or(|(_, rest)| rest.first() == Some(&0));
                self.pending.sent(Owed::Bind);
                if unnamed {
                    self.uses_unnamed(UnnamedState::Bound)?;
                }
            }
            b'D' => {
                let unnamed = body.starts_with(b"S\0");
                self.pending.sent(Owed::Describe);
                if unnamed {
                    self.uses_unnamed(UnnamedState::Parsed)?;
                }
            }
            b'E' => self.pending.sent(Owed::Execute),
            b'C' => self.pending.sent(Owed::Close(Answer::Server, 0)),
            b'S' => {
                self.pending.sent(Owed::Sync);
                self.batch_ends();
                self.state.forget_last_set();
            }
            b'c' | b'f' => self.pending.sent(Owed::CopyEnd),
            b'd' | b'H' => {}
            kind => return Err(End::Refused(error::message_type(kind))),
        }
        Ok(None)
    }

    fn query(&mut self, there: usize, whole: bool) -> Option<Refusal> {
        if whole {
            let body = &self.up.window.unscanned()[HEADER_BYTES..there];
            let text = body.strip_suffix(&[0]).unwrap_or(body);
            if self.place.profile.keeps_unnamed {
                self.state.may_change_schema(text);
            }
            let found = effects_of(text);
            if !self.state.repeats(found, text) {
                let left = Left::of(found, text);
                if let Some(refusal) = self.state.refuses_query(left.as_deref()) {
                    return Some(refusal);
                }
                self.state.leaves(left.as_deref());
                let is_first = self.link.as_ref().is_none_or(|link| link.clean && link.status == b'I');
                if is_first && self.pending.is_empty() {
                    self.state.sent_alone(text, left.as_deref());
                } else {
                    self.state.forget_last_set();
                }
            }
        } else {
            self.up.scan = Some(LongText::of(None, Effects::NONE));
            self.state.schema_unknown();
        }
        self.pending.sent(Owed::Query);
        self.unnamed_dies();
        None
    }

    /// Parse of a statement that is the server's own affair.
    fn parse(&mut self, there: usize, whole: bool) -> Option<Refusal> {
        let body = &self.up.window.unscanned()[HEADER_BYTES..there];
        let unnamed = body.first() == Some(&0);
        let mut left = None;
        if whole {
            let text = cstring(body).map_or(body, |(_, rest)| cstring(rest).map_or(rest, |(text, _)| text));
            if self.place.profile.keeps_unnamed {
                self.state.may_change_schema(text);
            }
            left = Left::of(self.thread.harmless.borrow_mut().effects_of(text), text);
            if let Some(refusal) = self.state.refuses(left.as_deref()) {
                return Some(refusal);
            }
            self.state.leaves(left.as_deref());
        } else {
            let always = if unnamed { Effects::NONE } else { Effects::PREPARED_STATEMENT };
            self.up.scan = Some(LongText::of(Some(LongParse::Name), always));
            self.state.schema_unknown();
        }
        if whole || unnamed {
            self.parsed(unnamed, left);
        }
        self.pending.sent(if unnamed { Owed::ParseUnnamed } else { Owed::Parse(Answer::Server, 0) });
        None
    }

    fn function_call(&mut self, there: usize) {
        let body = &mut self.up.window.unscanned()[HEADER_BYTES..there];
        let is_harmless = body.first_chunk().is_some_and(|oid| is_large_object_function(u32::from_be_bytes(*oid)));
        // What a function of the user's leaves cannot be seen.
        let refusal = if is_harmless { None } else { self.state.refuses_effect(Effects::CODE) };
        if let Some(refusal) = refusal {
            // No function has this number.
            body.iter_mut().take(4).for_each(|byte| *byte = 0);
            return self.pending.sent(Owed::RefusedQuery(refusal));
        }
        if !is_harmless {
            self.state.insert(Effects::CODE);
            self.state.schema_unknown();
        }
        self.pending.sent(Owed::FunctionCall);
    }

    /// Puts a text that fails in the place of one that is refused: the server's transaction fails as the client's must, and its
    /// error is exchanged for the refusal when it comes.
    pub(super) fn refuse(&mut self, there: usize, refusal: Refusal) -> Result<(), End> {
        let frame = self.up.window.unscanned();
        let is_query = frame[0] == b'Q';
        let name =
            if is_query { &[][..] } else { cstring(&frame[HEADER_BYTES..there]).map_or(&[][..], |(name, _)| name) };
        // No longer than what it replaces, but never empty, which would not fail; a broken message may have less room than that.
        let room = there.saturating_sub(HEADER_BYTES + name.len() + if is_query { 1 } else { 4 });
        let text = &FAILING[..room.clamp(1, FAILING.len())];
        let mut message = BytesMut::new();
        if is_query {
            put_message(&mut message, b'Q', &[text, b"\0"], 0);
        } else {
            put_message(&mut message, b'P', &[name, b"\0", text, b"\0\0\0"], 0);
        }
        if !self.up.window.replace(there, &message) {
            return Err(End::Refused(error::refused(refusal, &self.control.tenant.slug)));
        }
        if is_query {
            self.pending.sent(Owed::RefusedQuery(refusal));
            self.unnamed_dies();
        } else {
            self.pending.sent(Owed::RefusedParse(refusal));
        }
        Ok(())
    }

    /// A message that can get no server: it is thrown away, and its Sync answered.
    fn discarded_message(&mut self, head: Header, there: usize, whole: bool) {
        self.up.window.skip(there);
        let ends = match self.up.discard {
            Discard::Batch => matches!(head.kind, b'Q' | b'F' | b'S'),
            Discard::UntilSync | Discard::Nothing => head.kind == b'S',
        };
        if !ends {
            self.up.discard = Discard::UntilSync;
        } else if whole {
            self.discarded_batch_ends();
        } else {
            self.up.discard = Discard::Batch;
        }
    }

    fn discarded_batch_ends(&mut self) {
        self.up.discard = Discard::Nothing;
        if let Err(error) = ready_for_query(&mut self.down.own) {
            tracing::error!(%error, "ReadyForQuery cannot be encoded");
        }
    }

    /// The last byte of a frame that came in pieces has been seen.
    fn end_long_frame(&mut self) {
        if let Some(long) = self.up.scan.take().filter(|long| !long.is_refused) {
            let left = Left::of_long(long.effects());
            self.state.leaves(left.as_deref());
            if long.parse.is_some() {
                self.up.unnamed.left = left;
            }
        }
        if self.up.discard == Discard::Batch {
            self.discarded_batch_ends();
        }
    }

    fn parsed(&mut self, unnamed: bool, left: Option<Box<Left>>) {
        if !unnamed {
            self.state.insert(Effects::PREPARED_STATEMENT);
            return;
        }
        if self.pending.is_skipping() {
            return;
        }
        self.up.unnamed.state = UnnamedState::Parsed;
        self.up.unnamed.left = left;
        match &mut self.link {
            Some(link) => link.server.unnamed_owner = self.control.id,
            None => self.up.unnamed.parsed_ahead = true,
        }
    }

    /// Bind or Describe of the unnamed statement, which must be this session's own.
    fn uses_unnamed(&mut self, state: UnnamedState) -> Result<(), End> {
        if self.pending.is_skipping() {
            return Ok(());
        }
        let unnamed = &mut self.up.unnamed;
        if unnamed.state == UnnamedState::Untouched {
            // It was parsed in an earlier batch, whose end is settled.
            self.state.leaves(unnamed.left.as_deref());
        }
        match (unnamed.state, &self.link) {
            // Where there is none at all, the server itself says so.
            (UnnamedState::Untouched, Some(link))
                if ![NO_SESSION, self.control.id].contains(&link.server.unnamed_owner) =>
            {
                return Err(End::Refused(error::no_unnamed_statement()));
            }
            (UnnamedState::Untouched, None) => unnamed.needed |= !unnamed.parsed_ahead,
            (UnnamedState::Parsed, _) => unnamed.state = state,
            (UnnamedState::Untouched | UnnamedState::Bound | UnnamedState::Dead, _) => {}
        }
        Ok(())
    }

    fn unnamed_dies(&mut self) {
        if !self.pending.is_skipping() {
            self.names.take(b"");
        }
        let needed = self.up.unnamed.needed;
        self.up.unnamed = Unnamed { state: UnnamedState::Dead, needed, ..Unnamed::default() };
        self.state.remove(Effects::UNNAMED_STATEMENT);
        if let Some(link) = &mut self.link {
            link.server.unnamed_owner = NO_SESSION;
        }
    }

    /// Sync: an unnamed statement that was parsed but not used yet will be used in a later batch.
    fn batch_ends(&mut self) {
        match self.up.unnamed.state {
            UnnamedState::Parsed => self.state.insert(Effects::UNNAMED_STATEMENT),
            UnnamedState::Bound => self.state.remove(Effects::UNNAMED_STATEMENT),
            UnnamedState::Untouched | UnnamedState::Dead => {}
        }
        self.up.unnamed.state = UnnamedState::Untouched;
    }
}

/// Whether a function is one of those on large objects, whose descriptors end with the transaction: `lo_*`, `loread`, `lowrite`
/// (their object ids are PostgreSQL's own and never change).
fn is_large_object_function(oid: u32) -> bool {
    matches!(oid, 715 | 764 | 765 | 767 | 952..=958 | 964 | 1004 | 3170..=3172 | 3457..=3460)
}

impl LongText {
    fn of(parse: Option<LongParse>, always: Effects) -> Box<Self> {
        Box::new(Self { scan: StatementScan::new(), parse, always, is_refused: false })
    }

    /// What was found so far.
    fn effects(&self) -> Effects {
        let mut effects = self.scan.clone().finish();
        effects.insert(self.always);
        effects
    }

    /// Reads a piece; where in it the text of a Parse ends.
    fn feed(&mut self, piece: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < piece.len() {
            let nul = memchr::memchr(0, &piece[at..]).map(|found| at + found);
            match (self.parse, nul) {
                (None, _) => {
                    self.scan.feed(&piece[at..]);
                    return None;
                }
                (Some(LongParse::Types), _) | (Some(LongParse::Name), None) => return None,
                (Some(LongParse::Name), Some(nul)) => {
                    self.parse = Some(LongParse::Text);
                    at = nul + 1;
                }
                (Some(LongParse::Text), None) => {
                    self.scan.feed(&piece[at..]);
                    return None;
                }
                (Some(LongParse::Text), Some(nul)) => {
                    self.scan.feed(&piece[at..nul]);
                    self.parse = Some(LongParse::Types);
                    return Some(nul);
                }
            }
        }
        None
    }
}
