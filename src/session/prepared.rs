//! Named prepared statements carried across server connections: the client's names stand for statements that each
//! connection gets when it needs them, under names of pgtenant's own.

use std::ops::Range;
use std::rc::Rc;

use bytes::{BufMut, BytesMut};

use super::attach::OTHER_SESSION;
use super::names::{Names, Statement, Statements, name_is_reserved};
use super::relay::{Relay, Unnamed};
use crate::backend::{Preparation, PreparedSet, StatementId};
use crate::protocol::{
    Answer, Effects, HEADER_BYTES, Header, Owed, Pending, Refusal, cstring, deallocated, effects_of, names_a_moment,
};

/// Longest name: PostgreSQL's own bound, beyond which it cuts names off.
const NAME_BYTES_MAX: usize = 63;
/// Answered as a DEALLOCATE of a statement that is there.
const DEALLOCATES: &[u8] = b"PREPARE pgtenant_gone AS SELECT 1;DEALLOCATE pgtenant_gone";
/// Bytes around a statement's body and names in the messages made here.
const OVERHEAD_BYTES: usize = 256;

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
    /// It may not go to the server.
    Refused(Refusal),
}

/// Where in a message's body the name of a statement is; the unnamed one's is empty.
fn named(kind: u8, body: &[u8]) -> Option<Range<usize>> {
    let at = match kind {
        b'P' => 0,
        b'B' => cstring(body)?.0.len() + 1,
        b'D' | b'C' if body.first() == Some(&b'S') => 1,
        _ => return None,
    };
    let (name, _) = cstring(&body[at..])?;
    Some(at..at + name.len())
}

/// Whether a statement may be kept on servers though its client gave it no name. Its kind must be one that PostgreSQL plans, and it
/// must name its columns: the plan of a `*` fits no table that has got another one since, which a client that parses each time
/// would not notice.
fn is_keepable(text: &[u8]) -> bool {
    const KINDS: [&[u8]; 6] = [b"select", b"insert", b"update", b"delete", b"with", b"values"];
    let text = text.trim_ascii_start();
    let is_planned = KINDS.iter().any(|kind| {
        text.get(..kind.len()).is_some_and(|first| first.eq_ignore_ascii_case(kind))
            && text.get(kind.len()).is_none_or(|next| !next.is_ascii_alphanumeric() && *next != b'_')
    });
    is_planned
        && memchr::memchr_iter(b'*', text).all(|at| at > 0 && text[at - 1] == b'(' && text.get(at + 1) == Some(&b')'))
}

/// Whether an unnamed statement may be kept, and comes often enough. What is found out by reading its text is remembered.
fn may_keep(statements: &mut Statements, scope: u64, body: &[u8]) -> bool {
    if statements.is_kept(scope, body) {
        return true;
    }
    let text = cstring(body).map_or(body, |(text, _)| text);
    is_keepable(text) && statements.comes_often(scope, body) && effects_of(text).is_empty() && !names_a_moment(text)
}

impl Relay {
    /// Takes a message about a named statement out of the stream, and puts in its place what the server needs.
    pub(super) fn carry(&mut self, head: Header, there: usize) -> Carried {
        let carries = !self.place.profile.session_mode && self.place.profile.prepared_max > 0;
        if !carries || !matches!(head.kind, b'P' | b'B' | b'D' | b'C') || self.pending.is_skipping() {
            return Carried::No;
        }
        let Some(at) = named(head.kind, &self.up.window.unscanned()[HEADER_BYTES..there]) else {
            return Carried::No;
        };
        if at.is_empty() && !self.carries_unnamed(head, &at, there) {
            return Carried::No;
        }
        let frame = Frame { kind: head.kind, at, rest: head.frame_bytes - there };
        let is_parse = head.kind == b'P';
        let name = &self.up.window.unscanned()[HEADER_BYTES..there][frame.at.clone()];
        // An unnamed statement takes the place of the one before it; another name must be free.
        let known = if is_parse && name.is_empty() { None } else { self.names.get(name).cloned() };
        if self.is_servers_own(&frame, there, known.is_some()) {
            return Carried::No;
        }
        if self.link.is_none() {
            return Carried::NeedServer;
        }
        let extra = known.as_ref().map_or(0, |statement| statement.body.len()) + OVERHEAD_BYTES;
        if !self.up.window.fits(there, there + extra) && self.up.window.has_ready() {
            return Carried::NeedRoom;
        }
        let is_new = known.is_none();
        let statement = self.statement_of(&frame, there, known);
        if is_new && let Some(refusal) = self.state.refuses(statement.left.as_deref()) {
            return Carried::Refused(refusal);
        }
        if head.kind == b'B' {
            self.state.leaves(statement.left.as_deref());
            if statement.changes_schema {
                self.state.schema_unknown();
            }
        }
        self.exchange(&frame, there, &statement, is_new);
        if is_parse && frame.at.is_empty() {
            self.unnamed_is_elsewhere();
        }
        Carried::Done
    }

    /// Whether a message is about a statement that only this server connection has, or nobody.
    fn is_servers_own(&mut self, frame: &Frame, there: usize, is_known: bool) -> bool {
        let name = &self.up.window.unscanned()[HEADER_BYTES..there][frame.at.clone()];
        if frame.kind == b'P' {
            if frame.rest == 0 && name.len() <= NAME_BYTES_MAX && !self.names.is_full() {
                return false;
            }
            // Too long to be kept, or one too many: it stays with this connection, and the client with it.
            self.names.take(name);
        } else if is_known {
            return false;
        }
        // Under a name of pgtenant's own it would be another client's.
        if name_is_reserved(name) {
            self.up.window.unscanned()[HEADER_BYTES + frame.at.start] = b'P';
        }
        true
    }

    /// The statement that a message is about: the one that its name stands for, or the one that it gives a name to.
    fn statement_of(&mut self, frame: &Frame, there: usize, known: Option<Rc<Statement>>) -> Rc<Statement> {
        let body = &self.up.window.unscanned()[HEADER_BYTES..there];
        let scope = self.place.statement_scope;
        let scoped = |body: &[u8]| self.thread.statements.borrow_mut().statement(scope, body);
        let Some(known) = known else {
            let statement = scoped(&body[frame.at.end + 1..]);
            if frame.at.is_empty() {
                statement.is_kept.set(true);
            }
            return statement;
        };
        if known.scope == scope {
            return known;
        }
        // The client has set something since by which the text is read.
        let anew = scoped(&known.body);
        self.names.read_anew(&body[frame.at.clone()], &anew);
        anew
    }

    /// Puts what the server needs in the place of the client's message.
    fn exchange(&mut self, frame: &Frame, there: usize, statement: &Rc<Statement>, is_new: bool) {
        let Some(link) = &mut self.link else { return };
        let begins =
            matches!(frame.kind, b'B' | b'D') && link.clean && link.status == b'I' && self.pending.owes_own_only();
        let body = &self.up.window.unscanned()[HEADER_BYTES..there];
        let statements = self.thread.statements.borrow();
        let mut exchange = Exchange {
            statements: &statements,
            set: &mut link.server.prepared,
            pending: &mut self.pending,
            out: self.thread.scratch.take(),
            set_max: self.place.profile.prepared_max as usize,
            reads_otherwise: self.state.reads_otherwise(),
            is_failed: link.status == b'E',
            is_there: false,
        };
        match frame.kind {
            b'P' if is_new => exchange.parse(frame, body, statement, &mut self.names),
            b'C' => exchange.close(&body[frame.at.clone()], &mut self.names),
            _ => exchange.use_statement(frame, body, statement),
        }
        let (mut out, is_there) = (exchange.out, exchange.is_there);
        drop(statements);
        if begins && is_there && frame.rest == 0 {
            self.replay.begin(statement, &out, self.pending.owes_own_parse(statement.id));
        } else if is_there && self.replay.uses(statement) {
            self.replay.add(frame.kind, &out, frame.rest == 0);
        } else if !out.is_empty() {
            self.replay.clear();
        }
        self.put_instead(there, &out);
        out.clear();
        self.thread.scratch.set(out);
    }

    /// Whether a message about the unnamed statement is about one that is kept under a name of pgtenant's; if it is a Parse, whether
    /// it shall be.
    fn carries_unnamed(&mut self, head: Header, at: &Range<usize>, there: usize) -> bool {
        if head.kind != b'P' {
            return self.names.get(b"").is_some();
        }
        let body = &self.up.window.unscanned()[HEADER_BYTES..there];
        let body = &body[(at.end + 1).min(body.len())..];
        let is_safe = self.place.profile.keeps_unnamed
            && there == head.frame_bytes
            && !self.names.is_full()
            && self.state.is_clean()
            && !self.state.reads_otherwise()
            && !self.state.schema_changes()
            && self.link.as_ref().is_none_or(|link| link.status != b'E');
        let keeps = is_safe && may_keep(&mut self.thread.statements.borrow_mut(), self.place.statement_scope, body);
        if !keeps {
            // It is the server's own affair, and no longer what the name stood for.
            self.names.take(b"");
        }
        keeps
    }

    /// The client's unnamed statement is none that a server knows as such: what stands there, if anything, is not to be run.
    fn unnamed_is_elsewhere(&mut self) {
        self.up.unnamed = Unnamed::default();
        self.state.remove(Effects::UNNAMED_STATEMENT);
        if let Some(link) = &mut self.link {
            for owner in [&mut link.server.unnamed_owner, &mut link.unnamed_answered] {
                if *owner == self.control.id {
                    *owner = OTHER_SESSION;
                }
            }
        }
    }

    /// A Query that gives up one of the client's statements by name: the name goes, and the server gets two statements that come
    /// to the same answer, whichever connection this is and whatever state its transaction is in.
    pub(super) fn deallocate(&mut self, there: usize) -> Carried {
        if self.place.profile.session_mode || self.pending.is_skipping() {
            return Carried::No;
        }
        let body = &self.up.window.unscanned()[HEADER_BYTES..there];
        let Some(name) = deallocated(body.strip_suffix(&[0]).unwrap_or(body)) else {
            return Carried::No;
        };
        if self.names.get(name.as_bytes()).is_none() {
            return Carried::No;
        }
        let mut out = BytesMut::new();
        put_message(&mut out, b'Q', &[DEALLOCATES, b"\0"], 0);
        if !self.up.window.fits(there, out.len()) && self.up.window.has_ready() {
            return Carried::NeedRoom;
        }
        self.names.closed(name.as_bytes());
        self.pending.sent(Owed::Deallocate(Answer::Hidden));
        self.put_instead(there, &out);
        Carried::Done
    }

    /// Other bytes go on in the place of the next message: nothing waits before it if there is no room.
    fn put_instead(&mut self, there: usize, out: &[u8]) {
        if !self.up.window.replace(there, out) {
            self.up.prefix.extend_from_slice(out);
            self.up.window.skip(there);
        }
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
    statements: &'a Statements,
    set: &'a mut PreparedSet,
    pending: &'a mut Pending,
    out: BytesMut,
    set_max: usize,
    /// Texts may mean something else now than the statements' scope says.
    reads_otherwise: bool,
    /// The transaction has failed.
    is_failed: bool,
    /// A statement is used that the connection has.
    is_there: bool,
}

impl Exchange<'_> {
    /// Parse under a new name: sent only if this connection has not got the statement.
    fn parse(&mut self, frame: &Frame, body: &[u8], statement: &Rc<Statement>, names: &mut Names) {
        names.parsed(body[frame.at.clone()].into(), Rc::clone(statement));
        let preparation = self.set.use_statement(statement.id);
        // In a failed transaction the server has its own answer.
        if preparation == Preparation::There && !self.reads_otherwise && !self.is_failed {
            return self.pending.sent(Owed::Parse(Answer::Own, statement.id));
        }
        if preparation != Preparation::Parse {
            self.close_hidden(statement.id);
        }
        self.give_up_surplus();
        self.renamed(frame, body, statement);
        self.pending.sent(Owed::Parse(Answer::Server, statement.id));
        self.distrust(statement.id);
    }

    /// What is parsed in the midst of changes is nothing for others, nor for later.
    fn distrust(&mut self, id: StatementId) {
        if self.reads_otherwise {
            self.set.doubt(id);
        }
    }

    /// Close: the client's name goes, the statement stays for others.
    fn close(&mut self, name: &[u8], names: &mut Names) {
        names.closed(name);
        self.pending.sent(Owed::Close(Answer::Own, 0));
    }

    /// Bind or Describe; and Parse under a name that is taken, which the server itself shall refuse.
    fn use_statement(&mut self, frame: &Frame, body: &[u8], statement: &Statement) {
        let preparation = self.set.use_statement(statement.id);
        self.is_there = preparation == Preparation::There && frame.kind != b'P';
        if preparation == Preparation::Again {
            self.close_hidden(statement.id);
        }
        if preparation != Preparation::There {
            self.give_up_surplus();
            put_message(&mut self.out, b'P', &[statement.name.as_bytes(), b"\0", &statement.body], 0);
            self.pending.sent(Owed::Parse(Answer::Hidden, statement.id));
            self.distrust(statement.id);
        }
        self.renamed(frame, body, statement);
        self.pending.sent(match frame.kind {
            b'P' => Owed::Parse(Answer::Server, 0),
            b'B' => Owed::Bind,
            _ => Owed::Describe,
        });
    }

    /// The client's message with the name that servers know.
    fn renamed(&mut self, frame: &Frame, body: &[u8], statement: &Statement) {
        put_message(
            &mut self.out,
            frame.kind,
            &[&body[..frame.at.start], statement.name.as_bytes(), &body[frame.at.end..]],
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
pub(super) fn put_message(out: &mut BytesMut, kind: u8, parts: &[&[u8]], rest: usize) {
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
    fn the_statement_of_a_message_is_found_where_the_protocol_puts_it() {
        assert_eq!(named(b'P', b"s\0SELECT\0\0\0"), Some(0..1));
        assert_eq!(named(b'B', b"portal\0st\0\0\0"), Some(7..9));
        assert_eq!(named(b'D', b"Sst\0"), Some(1..3));
        assert_eq!(named(b'D', b"Pst\0"), None);
        assert_eq!(named(b'C', b"S\0"), Some(1..1));
        assert_eq!(named(b'P', b"\0SELECT\0\0\0"), Some(0..0));
        assert_eq!(named(b'B', b"portal"), None);
    }

    #[test]
    fn only_planned_statements_that_name_their_columns_are_kept() {
        for text in [
            "SELECT a FROM t",
            " select count(*) from t",
            "WITH x AS (SELECT 1) SELECT 2",
            "VALUES (1)",
            "INSERT INTO t VALUES ($1)",
        ] {
            assert!(is_keepable(text.as_bytes()), "{text}");
        }
        for text in [
            "SELECT * FROM t",
            "SELECT t.* FROM t",
            "BEGIN",
            "SELECTED",
            "SET a = 1",
            "",
            "DELETE FROM t RETURNING *",
            "*",
        ] {
            assert!(!is_keepable(text.as_bytes()), "{text}");
        }
    }
}
