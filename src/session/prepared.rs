//! Named prepared statements carried across server connections: the client's names stand for statements that each
//! connection gets when it needs them, under names of pgtenant's own.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::rc::Rc;

use bytes::{BufMut, BytesMut};

use super::relay::Relay;
use crate::backend::{Preparation, PreparedSet, StatementId};
use crate::protocol::{Answer, HEADER_BYTES, Header, Owed, Pending, cstring, effects_of};

/// How the names of statements on servers begin.
const NAME_PREFIX: &str = "pgtenant_";
/// Most statements that a thread remembers without a client that uses them.
const REMEMBERED_MAX: usize = 10_000;
/// Most named statements of one client; the server's own limit is its memory.
const NAMES_MAX: usize = 10_000;
/// Bytes of the statements that one client's names stand for, together.
const STATEMENT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Longest name: PostgreSQL's own bound, beyond which it cuts names off.
const NAME_BYTES_MAX: usize = 63;
/// Bytes around a statement's body and names in the messages made here.
const OVERHEAD_BYTES: usize = 256;

/// A statement, whoever prepares it.
pub(crate) struct Statement {
    id: StatementId,
    /// Parse without the name: text and parameter types.
    body: Box<[u8]>,
}

/// The statements of a thread, by scope and body: one text in one pool, for one tenant, is one statement.
pub(crate) struct Statements {
    known: HashMap<(u64, Box<[u8]>), Rc<Statement>>,
    last: StatementId,
    /// How many there may be before those without a client are looked for: a look at all is worth it only now and then.
    known_max: usize,
    /// Makes the names on servers unguessable.
    token: u64,
}

impl Default for Statements {
    fn default() -> Self {
        Self { known: HashMap::new(), last: 0, known_max: REMEMBERED_MAX, token: RandomState::new().hash_one(0) }
    }
}

impl Statements {
    fn statement(&mut self, scope: u64, body: &[u8]) -> Rc<Statement> {
        let key = (scope, Box::from(body));
        if let Some(known) = self.known.get(&key) {
            return Rc::clone(known);
        }
        if self.known.len() >= self.known_max {
            self.known.retain(|_, statement| Rc::strong_count(statement) > 1);
            self.known_max = REMEMBERED_MAX.max(2 * self.known.len());
        }
        // Zero means no statement. By the time numbers come round again their first bearers are long closed.
        self.last = self.last.checked_add(1).unwrap_or(1);
        let statement = Rc::new(Statement { id: self.last, body: body.into() });
        self.known.insert(key, Rc::clone(&statement));
        statement
    }

    /// A statement's name on servers.
    fn name(&self, id: StatementId) -> String {
        format!("{NAME_PREFIX}{:016x}_{id}", self.token)
    }
}

/// Whether a client's name could be one of pgtenant's.
fn name_is_reserved(name: &[u8]) -> bool {
    name.starts_with(NAME_PREFIX.as_bytes())
}

/// A change of a client's names that the server has not confirmed.
enum Change {
    Parsed(Box<[u8]>),
    Closed(Box<[u8]>, Rc<Statement>),
}

/// A client's names.
#[derive(Default)]
pub(super) struct Names {
    known: HashMap<Box<[u8]>, Rc<Statement>>,
    /// Bytes of all those statements.
    bytes: usize,
    /// In the order of the messages; an error undoes those that it takes along.
    unconfirmed: VecDeque<Change>,
}

impl Names {
    fn parsed(&mut self, name: Box<[u8]>, statement: Rc<Statement>) {
        self.unconfirmed.push_back(Change::Parsed(name.clone()));
        self.enter(name, statement);
    }

    fn enter(&mut self, name: Box<[u8]>, statement: Rc<Statement>) {
        self.bytes += statement.body.len();
        let old = self.known.insert(name, statement);
        self.bytes -= old.map_or(0, |old| old.body.len());
    }

    fn take(&mut self, name: &[u8]) -> Option<(Box<[u8]>, Rc<Statement>)> {
        let entry = self.known.remove_entry(name)?;
        self.bytes -= entry.1.body.len();
        Some(entry)
    }

    /// Whether no more names are kept for this client.
    fn is_full(&self) -> bool {
        self.known.len() >= NAMES_MAX || self.bytes >= STATEMENT_BYTES_MAX
    }

    fn closed(&mut self, name: &[u8]) {
        if let Some((name, statement)) = self.take(name) {
            self.unconfirmed.push_back(Change::Closed(name, statement));
        }
    }

    /// The oldest change has been answered.
    pub(super) fn confirmed(&mut self) {
        self.unconfirmed.pop_front();
    }

    /// All statements are gone but those that were sent after the message that took them away.
    pub(super) fn clear(&mut self) {
        let parsed = self.unconfirmed.iter().filter_map(|change| match change {
            Change::Parsed(name) => Some(name),
            Change::Closed(..) => None,
        });
        let later: HashSet<_> = parsed.collect();
        self.known.retain(|name, _| later.contains(name));
        self.bytes = self.known.values().map(|statement| statement.body.len()).sum();
    }

    /// These messages got no answer: as if they had never been sent.
    pub(super) fn lost(&mut self, lost: &[Owed], prepared: &mut PreparedSet) {
        let mut changes = Vec::new();
        for owed in lost {
            match owed {
                Owed::Parse(Answer::Hidden, id) | Owed::Close(Answer::Hidden, id) => prepared.doubt(*id),
                Owed::Parse(answer, id) if *id != 0 => {
                    if *answer == Answer::Server {
                        prepared.doubt(*id);
                    }
                    changes.extend(self.unconfirmed.pop_front());
                }
                Owed::Close(Answer::Own, _) => changes.extend(self.unconfirmed.pop_front()),
                _ => {}
            }
        }
        for change in changes.into_iter().rev() {
            match change {
                Change::Parsed(name) => {
                    self.take(&name);
                }
                Change::Closed(name, statement) => self.enter(name, statement),
            }
        }
    }
}

/// What became of a message about a named statement.
pub(super) enum Carried {
    /// It is about none, or one that is the server's own affair: it goes on as it is.
    No,
    /// Done: what goes on instead of it is on its way.
    Done,
    /// Which connection it will go to must be known first.
    NeedServer,
    /// What waits for the server must go first.
    NeedRoom,
}

/// Where in a message's body the name of a statement is.
fn named(kind: u8, body: &[u8]) -> Option<Range<usize>> {
    let at = match kind {
        b'P' => 0,
        b'B' => cstring(body)?.0.len() + 1,
        b'D' | b'C' if body.first() == Some(&b'S') => 1,
        _ => return None,
    };
    let (name, _) = cstring(&body[at..])?;
    (!name.is_empty()).then(|| at..at + name.len())
}

impl Relay {
    /// Takes a message about a named statement out of the stream, and puts in its place what the server needs.
    pub(super) fn carry(&mut self, head: Header, there: usize) -> Carried {
        let carries = !self.place.session_mode && self.place.prepared_max > 0;
        if !carries || !matches!(head.kind, b'P' | b'B' | b'D' | b'C') || self.pending.is_skipping() {
            return Carried::No;
        }
        let body = &self.up.window.unscanned()[HEADER_BYTES..there];
        let Some(at) = named(head.kind, body) else {
            return Carried::No;
        };
        let name = &body[at.clone()];
        let known = self.names.known.get(name).cloned();
        let is_parse = head.kind == b'P';
        let kept = there == head.frame_bytes && name.len() <= NAME_BYTES_MAX && !self.names.is_full();
        if is_parse && !kept {
            // Too long to be kept, or one too many: it stays with this connection, and the client with it.
            let name: Box<[u8]> = name.into();
            self.names.take(&name);
        }
        if (is_parse && !kept) || (!is_parse && known.is_none()) {
            // Under a name of pgtenant's own it would be another client's.
            if name_is_reserved(&self.up.window.unscanned()[HEADER_BYTES..there][at.clone()]) {
                self.up.window.unscanned()[HEADER_BYTES + at.start] = b'P';
            }
            return Carried::No;
        }
        let Some(link) = &mut self.link else {
            return Carried::NeedServer;
        };
        let extra = known.as_ref().map_or(0, |statement| statement.body.len()) + OVERHEAD_BYTES;
        let fits = self.up.window.fits(there, there + extra);
        if !fits && self.up.window.has_ready() {
            return Carried::NeedRoom;
        }
        let frame = Frame { kind: head.kind, at, rest: head.frame_bytes - there };
        let body = &self.up.window.unscanned()[HEADER_BYTES..there];
        if is_parse {
            let text = cstring(&body[frame.at.end + 1..]).map_or(&b""[..], |(text, _)| text);
            self.effects.insert(effects_of(text));
        }
        let mut exchange = Exchange {
            statements: &mut self.thread.statements.borrow_mut(),
            set: &mut link.server.prepared,
            pending: &mut self.pending,
            out: BytesMut::new(),
            set_max: self.place.prepared_max as usize,
        };
        match (head.kind, known) {
            (b'P', None) => exchange.parse(&frame, body, self.place.statement_scope, &mut self.names),
            (b'C', Some(_)) => exchange.close(&body[frame.at.clone()], &mut self.names),
            (_, Some(statement)) => exchange.use_statement(&frame, body, &statement),
            (_, None) => {}
        }
        let out = exchange.out;
        if !(fits && self.up.window.replace(there, &out)) {
            self.up.prefix.extend_from_slice(&out);
            self.up.window.skip(there);
        }
        Carried::Done
    }

    /// Answers what is pgtenant's turn to answer, while the server has nothing to say.
    pub(super) fn answer_own(&mut self) {
        while let Some(kind) = self.next_own_answer() {
            self.down.own.put_slice(&[kind, 0, 0, 0, 4]);
        }
    }

    /// The type of the next message if it is pgtenant's turn to answer.
    pub(super) fn next_own_answer(&mut self) -> Option<u8> {
        let kind = match self.pending.own_turn()? {
            Owed::Close(..) => b'3',
            _ => b'1',
        };
        self.pending.own_answered();
        self.names.confirmed();
        Some(kind)
    }
}

/// A client's message about a named statement: its type, where the name is in its body, and bytes still to come.
struct Frame {
    kind: u8,
    at: Range<usize>,
    rest: usize,
}

/// The messages that go on instead of a client's.
struct Exchange<'a> {
    statements: &'a mut Statements,
    set: &'a mut PreparedSet,
    pending: &'a mut Pending,
    out: BytesMut,
    set_max: usize,
}

impl Exchange<'_> {
    /// Parse under a new name: sent only if this connection has not got the statement.
    fn parse(&mut self, frame: &Frame, body: &[u8], scope: u64, names: &mut Names) {
        let statement = self.statements.statement(scope, &body[frame.at.end + 1..]);
        names.parsed(body[frame.at.clone()].into(), Rc::clone(&statement));
        let preparation = self.set.use_statement(statement.id);
        if preparation == Preparation::There {
            return self.pending.sent(Owed::Parse(Answer::Own, statement.id));
        }
        if preparation == Preparation::Again {
            self.close_hidden(statement.id);
        }
        self.give_up_surplus();
        self.renamed(frame, body, statement.id);
        self.pending.sent(Owed::Parse(Answer::Server, statement.id));
    }

    /// Close: the client's name goes, the statement stays for others.
    fn close(&mut self, name: &[u8], names: &mut Names) {
        names.closed(name);
        self.pending.sent(Owed::Close(Answer::Own, 0));
    }

    /// Bind or Describe; and Parse under a name that is taken, which the server itself shall refuse.
    fn use_statement(&mut self, frame: &Frame, body: &[u8], statement: &Statement) {
        let preparation = self.set.use_statement(statement.id);
        if preparation == Preparation::Again {
            self.close_hidden(statement.id);
        }
        if preparation != Preparation::There {
            self.give_up_surplus();
            let name = self.statements.name(statement.id);
            put_message(&mut self.out, b'P', &[name.as_bytes(), b"\0", &statement.body], 0);
            self.pending.sent(Owed::Parse(Answer::Hidden, statement.id));
        }
        self.renamed(frame, body, statement.id);
        self.pending.sent(match frame.kind {
            b'P' => Owed::Parse(Answer::Server, 0),
            b'B' => Owed::Bind,
            _ => Owed::Describe,
        });
    }

    /// The client's message with the name that servers know.
    fn renamed(&mut self, frame: &Frame, body: &[u8], id: StatementId) {
        let name = self.statements.name(id);
        put_message(
            &mut self.out,
            frame.kind,
            &[&body[..frame.at.start], name.as_bytes(), &body[frame.at.end..]],
            frame.rest,
        );
    }

    fn give_up_surplus(&mut self) {
        // Two for the one that comes: a set that grew in one batch shrinks again.
        for _ in 0..2 {
            if let Some(id) = self.set.surplus(self.set_max) {
                self.close_hidden(id);
            }
        }
    }

    fn close_hidden(&mut self, id: StatementId) {
        let name = self.statements.name(id);
        put_message(&mut self.out, b'C', &[b"S", name.as_bytes(), b"\0"], 0);
        self.pending.sent(Owed::Close(Answer::Hidden, id));
    }
}

/// Appends a message of these parts, of which `rest` bytes follow later.
fn put_message(out: &mut BytesMut, kind: u8, parts: &[&[u8]], rest: usize) {
    let length = parts.iter().map(|part| part.len()).sum::<usize>() + rest + 4;
    out.put_u8(kind);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    for part in parts {
        out.put_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_an_error_took_along_are_as_they_were() {
        let mut statements = Statements::default();
        let (one, two) = (statements.statement(0, b"one"), statements.statement(0, b"two"));
        let (mut names, mut set) = (Names::default(), PreparedSet::default());
        names.parsed(b"a"[..].into(), Rc::clone(&one));
        names.confirmed();
        names.closed(b"a");
        names.parsed(b"a"[..].into(), Rc::clone(&two));
        set.use_statement(two.id);
        names.lost(&[Owed::Close(Answer::Own, 0), Owed::Bind, Owed::Parse(Answer::Server, two.id)], &mut set);
        assert_eq!(names.known.get(&b"a"[..]).map(|statement| statement.id), Some(one.id));
        assert_eq!(set.use_statement(two.id), Preparation::Again, "it may be there or not");
        set.batch_begins();
        assert_eq!(set.surplus(0), Some(two.id));
        names.lost(&[Owed::Close(Answer::Hidden, two.id)], &mut set);
        assert_eq!(set.use_statement(two.id), Preparation::Again, "it was not closed after all");
    }

    #[test]
    fn one_text_in_one_scope_is_one_statement() {
        let mut statements = Statements::default();
        let ids = [(1, "a"), (1, "a"), (1, "b"), (2, "a")]
            .map(|(scope, body)| statements.statement(scope, body.as_bytes()).id);
        assert_eq!(ids, [1, 1, 2, 3]);
    }

    #[test]
    fn the_statement_of_a_message_is_found_where_the_protocol_puts_it() {
        assert_eq!(named(b'P', b"s\0SELECT\0\0\0"), Some(0..1));
        assert_eq!(named(b'B', b"portal\0st\0\0\0"), Some(7..9));
        assert_eq!(named(b'D', b"Sst\0"), Some(1..3));
        assert_eq!(named(b'D', b"Pst\0"), None);
        assert_eq!(named(b'C', b"S\0"), None);
        assert_eq!(named(b'B', b"portal"), None);
    }
}
