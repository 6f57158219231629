//! Session state that a client may leave on its server connection, as a set: the reasons for which it cannot be given back.

use std::fmt;

/// Session state that statements might leave behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effects(u32);

impl Effects {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// A session parameter was set or reset, and its name is known: `SET`, `RESET`, `set_config`.
    pub const PARAMETER: Self = Self(1);
    /// `LISTEN`.
    pub const LISTEN: Self = Self(1 << 1);
    /// A session-level advisory lock.
    pub const ADVISORY_LOCK: Self = Self(1 << 2);
    /// A temporary table, view or sequence.
    pub const TEMPORARY: Self = Self(1 << 3);
    /// A cursor that outlives its transaction.
    pub const HOLD_CURSOR: Self = Self(1 << 4);
    /// SQL-level `PREPARE`.
    pub const PREPARE: Self = Self(1 << 5);
    /// `LOAD` of a library.
    pub const LOAD: Self = Self(1 << 6);
    /// A parameter was set whose name cannot be told, or whose value cannot be carried.
    pub const OPAQUE_PARAMETER: Self = Self(1 << 7);
    /// `lastval()`, `currval()`, `setseed()`: state of the session that other statements read.
    pub const SEQUENCE: Self = Self(1 << 8);
    /// `DO`: code that cannot be looked into.
    pub const CODE: Self = Self(1 << 9);
    /// A named statement of the extended protocol that is not carried.
    pub const PREPARED_STATEMENT: Self = Self(1 << 10);
    /// Replication or another mode that takes the connection over.
    pub const REPLICATION: Self = Self(1 << 12);
    /// Text that this scanner cannot read reliably (old string syntax, an encoding that is unsafe to scan).
    pub const UNREADABLE: Self = Self(1 << 13);
    /// An unnamed prepared statement that lives on after its Sync.
    pub const UNNAMED_STATEMENT: Self = Self(1 << 14);
    /// A copy that failed around a Sync: the server may answer once more than is known.
    pub const FAILED_COPY: Self = Self(1 << 15);
    /// No state, but its end perhaps: `UNLISTEN`, `CLOSE`, `DEALLOCATE`, `DISCARD`, `DROP`, `pg_advisory_unlock`.
    pub const RELEASE: Self = Self(1 << 16);
    /// No state beyond the transaction: `SET LOCAL`.
    pub const LOCAL_PARAMETER: Self = Self(1 << 17);

    /// What the server can be asked about at the end of a transaction.
    pub const ASKABLE: Self = Self(
        Self::PARAMETER.0
            | Self::LISTEN.0
            | Self::ADVISORY_LOCK.0
            | Self::TEMPORARY.0
            | Self::HOLD_CURSOR.0
            | Self::PREPARE.0,
    );
    /// What `DISCARD ALL` takes away for certain; LOAD, for one, it does not undo.
    pub const DISCARDED: Self = Self(
        Self::ASKABLE.0
            | Self::OPAQUE_PARAMETER.0
            | Self::SEQUENCE.0
            | Self::PREPARED_STATEMENT.0
            | Self::UNNAMED_STATEMENT.0,
    );

    const NAMES: [(Self, &'static str); 15] = [
        (Self::PARAMETER, "parameter"),
        (Self::LISTEN, "listen"),
        (Self::ADVISORY_LOCK, "advisory_lock"),
        (Self::TEMPORARY, "temporary"),
        (Self::HOLD_CURSOR, "hold_cursor"),
        (Self::PREPARE, "prepare"),
        (Self::LOAD, "load"),
        (Self::OPAQUE_PARAMETER, "opaque_parameter"),
        (Self::SEQUENCE, "sequence"),
        (Self::CODE, "code"),
        (Self::PREPARED_STATEMENT, "prepared_statement"),
        (Self::REPLICATION, "replication"),
        (Self::UNREADABLE, "unreadable"),
        (Self::UNNAMED_STATEMENT, "unnamed_statement"),
        (Self::FAILED_COPY, "failed_copy"),
    ];

    /// Adds all of another set.
    pub fn insert(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Takes all of another set away.
    pub fn remove(&mut self, other: Self) {
        self.0 &= !other.0;
    }

    /// This set without another.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// What is in both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether any of another set is in this one.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether all of another set is in this one.
    #[must_use]
    pub const fn has_all(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether nothing is in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The names of what is in it: metric labels and console words.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(flag, _)| self.has(*flag)).map(|(_, name)| name)
    }
}

impl fmt::Display for Effects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, name) in self.names().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            f.write_str(name)?;
        }
        Ok(())
    }
}
