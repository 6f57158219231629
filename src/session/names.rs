//! Names of prepared statements: what a client's names stand for, and what servers know the same statements by.

use std::cell::Cell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;

use hashbrown::HashTable;

use super::state::Left;
use crate::backend::{PreparedSet, StatementId};
use crate::protocol::{Answer, Owed, changes_schema, cstring, effects_of};

/// How the names of statements on servers begin.
const NAME_PREFIX: &str = "pgtenant_";
/// Most statements that a thread remembers without a client that uses them.
const REMEMBERED_MAX: usize = 10_000;
/// How often an unnamed statement comes before it is kept on servers: the same as PostgreSQL waits before it plans one for good.
const SEEN_MIN: u8 = 5;
/// Most named statements of one client; the server's own limit is its memory.
const NAMES_MAX: usize = 10_000;
/// Bytes of the statements that one client's names stand for, together.
const STATEMENT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A statement, whoever prepares it.
pub(crate) struct Statement {
    pub(super) id: StatementId,
    /// Its name on servers.
    pub(super) name: Box<str>,
    /// Whose it is: who reads it otherwise has another one of the same text.
    pub(super) scope: u64,
    /// Parse without the name: text and parameter types.
    pub(super) body: Box<[u8]>,
    /// What it may leave behind whenever it is executed.
    pub(super) left: Option<Box<Left>>,
    /// It may change what other texts mean.
    pub(super) changes_schema: bool,
    /// It came without a name, and was found fit to be kept all the same.
    pub(super) is_kept: Cell<bool>,
}

/// The statements of a thread, by scope and body: one text in one pool, for one tenant, is one statement.
pub(crate) struct Statements {
    known: HashTable<Rc<Statement>>,
    hasher: RandomState,
    /// How often the bodies of unnamed statements have been seen, by their hashes.
    seen: HashMap<u64, u8>,
    last: StatementId,
    /// How many there may be before those without a client are looked for: a look at all is worth it only now and then.
    known_max: usize,
    /// Makes the names on servers unguessable.
    token: u64,
}

impl Default for Statements {
    fn default() -> Self {
        let hasher = RandomState::new();
        let token = hasher.hash_one(0);
        Self { known: HashTable::new(), hasher, seen: HashMap::new(), last: 0, known_max: REMEMBERED_MAX, token }
    }
}

impl Statements {
    pub(super) fn statement(&mut self, scope: u64, body: &[u8]) -> Rc<Statement> {
        let hash = self.hasher.hash_one((scope, body));
        if let Some(known) = self.known.find(hash, |known| known.scope == scope && *known.body == *body) {
            return Rc::clone(known);
        }
        if self.known.len() >= self.known_max {
            self.known.retain(|statement| Rc::strong_count(statement) > 1);
            self.known_max = REMEMBERED_MAX.max(2 * self.known.len());
        }
        // Zero means no statement. By the time numbers come round again their first bearers are long closed.
        self.last = self.last.checked_add(1).unwrap_or(1);
        let text = cstring(body).map_or(body, |(text, _)| text);
        let left = Left::of(effects_of(text), text);
        let name = self.name(self.last).into();
        let statement = Rc::new(Statement {
            id: self.last,
            name,
            scope,
            body: body.into(),
            left,
            changes_schema: changes_schema(text),
            is_kept: Cell::new(false),
        });
        let Self { known, hasher, .. } = self;
        known.insert_unique(hash, Rc::clone(&statement), |known| hasher.hash_one((known.scope, &*known.body)));
        statement
    }

    /// A statement's name on servers.
    pub(super) fn name(&self, id: StatementId) -> String {
        format!("{NAME_PREFIX}{:016x}_{id}", self.token)
    }

    /// Whether such a statement is there, and was kept without a name of its client's.
    pub(super) fn is_kept(&self, scope: u64, body: &[u8]) -> bool {
        let hash = self.hasher.hash_one((scope, body));
        let known = self.known.find(hash, |known| known.scope == scope && *known.body == *body);
        known.is_some_and(|known| known.is_kept.get())
    }

    /// Whether the body of an unnamed statement has come often enough to be worth keeping on servers. One that has is not counted
    /// any more: it may have to be looked at again when there is a server.
    pub(super) fn comes_often(&mut self, scope: u64, body: &[u8]) -> bool {
        if self.seen.len() >= REMEMBERED_MAX {
            // What comes often is soon known again.
            self.seen.clear();
        }
        let seen = self.seen.entry(self.hasher.hash_one((scope, body))).or_default();
        let often = *seen >= SEEN_MIN;
        *seen += u8::from(!often);
        often
    }
}

/// Whether a client's name could be one of pgtenant's.
pub(super) fn name_is_reserved(name: &[u8]) -> bool {
    name.starts_with(NAME_PREFIX.as_bytes())
}

/// A change of a client's names that the server has not confirmed.
enum Change {
    /// With what the name stood for before; only the unnamed statement may have stood for anything.
    Parsed(Box<[u8]>, Option<Rc<Statement>>),
    Closed(Box<[u8]>, Rc<Statement>),
}

/// A client's names.
#[derive(Default)]
pub(super) struct Names(
    /// None before it gives one: many clients never do.
    Option<Box<Table>>,
);

#[derive(Default)]
struct Table {
    known: HashMap<Box<[u8]>, Rc<Statement>>,
    /// Bytes of all those statements.
    bytes: usize,
    /// In the order of the messages; an error undoes those that it takes along.
    unconfirmed: VecDeque<Change>,
}

impl Names {
    pub(super) fn parsed(&mut self, name: Box<[u8]>, statement: Rc<Statement>) {
        let table = self.0.get_or_insert_default();
        let old = table.take(&name).map(|(_, old)| old);
        table.unconfirmed.push_back(Change::Parsed(name.clone(), old));
        table.enter(name, statement);
    }

    /// What a name stands for.
    pub(super) fn get(&self, name: &[u8]) -> Option<&Rc<Statement>> {
        self.0.as_ref()?.known.get(name)
    }

    /// The client's name stands for the same text in another scope now.
    pub(super) fn read_anew(&mut self, name: &[u8], statement: &Rc<Statement>) {
        if let Some(known) = self.0.as_mut().and_then(|table| table.known.get_mut(name)) {
            *known = Rc::clone(statement);
        }
    }

    pub(super) fn take(&mut self, name: &[u8]) -> Option<(Box<[u8]>, Rc<Statement>)> {
        self.0.as_mut()?.take(name)
    }

    /// Whether the client has no statements.
    pub(super) fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|table| table.known.is_empty())
    }

    /// Whether no more names are kept for this client.
    pub(super) fn is_full(&self) -> bool {
        self.0.as_ref().is_some_and(|table| table.known.len() >= NAMES_MAX || table.bytes >= STATEMENT_BYTES_MAX)
    }

    pub(super) fn closed(&mut self, name: &[u8]) {
        if let Some(table) = &mut self.0
            && let Some((name, statement)) = table.take(name)
        {
            table.unconfirmed.push_back(Change::Closed(name, statement));
        }
    }

    /// The oldest change has been answered.
    pub(super) fn confirmed(&mut self) {
        self.unconfirmed();
    }

    fn unconfirmed(&mut self) -> Option<Change> {
        self.0.as_mut()?.unconfirmed.pop_front()
    }

    /// All statements are gone but those that were sent after the message that took them away.
    pub(super) fn clear(&mut self) {
        let Some(table) = &mut self.0 else { return };
        let parsed = table.unconfirmed.iter().filter_map(|change| match change {
            Change::Parsed(name, _) => Some(name),
            Change::Closed(..) => None,
        });
        let later: HashSet<_> = parsed.collect();
        table.known.retain(|name, _| later.contains(name));
        table.bytes = table.known.values().map(|statement| statement.body.len()).sum();
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
                    changes.extend(self.unconfirmed());
                }
                Owed::Close(Answer::Own, _) | Owed::Deallocate(_) => changes.extend(self.unconfirmed()),
                _ => {}
            }
        }
        let Some(table) = &mut self.0 else { return };
        for change in changes.into_iter().rev() {
            match change {
                Change::Parsed(name, old) => {
                    table.take(&name);
                    if let Some(old) = old {
                        table.enter(name, old);
                    }
                }
                Change::Closed(name, statement) => table.enter(name, statement),
            }
        }
    }
}

impl Table {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Preparation;

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
        assert_eq!(names.get(b"a").map(|statement| statement.id), Some(one.id));
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
    fn an_unnamed_statement_is_kept_from_its_sixth_time_on_however_often_that_is_looked_at() {
        let mut statements = Statements::default();
        let often: Vec<_> = (0..8).map(|_| statements.comes_often(1, b"a")).collect();
        assert_eq!(often, [false, false, false, false, false, true, true, true]);
        assert!(!statements.comes_often(2, b"a"), "another scope's is another");
    }

    #[test]
    fn only_what_was_found_fit_is_kept_without_a_name() {
        let mut statements = Statements::default();
        let (one, _) = (statements.statement(1, b"a"), statements.statement(2, b"a"));
        assert!(!statements.is_kept(1, b"a"), "it has a name");
        one.is_kept.set(true);
        assert_eq!(
            [(1, b"a"), (2, b"a"), (1, b"b")].map(|(scope, body)| statements.is_kept(scope, body)),
            [true, false, false]
        );
    }
}
