//! What became of one place, or was found there.

use std::time::Duration;

use super::super::error::Error;
use super::super::tenants::chain;
use crate::tenant::{ModuleName, Slug, TenantId};

/// A tenant of a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whose {
    /// Its id.
    pub id: TenantId,
    /// Its short name.
    pub slug: Slug,
}

/// What became of one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Whose place it is: several tenants' where rows are common.
    pub tenants: Vec<Whose>,
    /// Whose files it follows.
    pub module: ModuleName,
    /// Whether it is common to tenants.
    pub common: bool,
    /// Files applied by this run.
    pub applied: usize,
    /// The highest version that it has had.
    pub version: Option<i64>,
    /// The version of the last file there is.
    pub latest: Option<i64>,
    /// The names of the files that it has not had, as far as that could be told.
    pub pending: Vec<String>,
    /// Why it is not as it is to be.
    pub problem: Option<Problem>,
    /// How long it took.
    pub duration: Duration,
}

/// Why a place is not as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// It is not what the files would make of it: one was changed, is gone, or slipped in before others.
    Drifted(String),
    /// It could not be asked or changed.
    Failed(String),
}

impl Problem {
    /// What happened, in a line.
    #[must_use]
    pub fn text(&self) -> &str {
        let (Self::Drifted(text) | Self::Failed(text)) = self;
        text
    }
}

impl From<&Error> for Problem {
    fn from(error: &Error) -> Self {
        if error.is_drift() { Self::Drifted(chain(error)) } else { Self::Failed(chain(error)) }
    }
}

/// How a place stands beside its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has had them all.
    Current,
    /// It has not had all.
    Behind,
    /// It has had others.
    Drifted,
    /// It could not be asked.
    Unknown,
}

impl Standing {
    /// The word in output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Behind => "behind",
            Self::Drifted => "drifted",
            Self::Unknown => "unknown",
        }
    }
}

impl Outcome {
    /// How the place stands.
    #[must_use]
    pub const fn standing(&self) -> Standing {
        match &self.problem {
            Some(Problem::Drifted(_)) => Standing::Drifted,
            Some(Problem::Failed(_)) => Standing::Unknown,
            None if self.pending.is_empty() => Standing::Current,
            None => Standing::Behind,
        }
    }

    /// What the run came to there.
    #[must_use]
    pub const fn result(&self) -> &'static str {
        match (&self.problem, self.applied) {
            (Some(_), _) => "failed",
            (None, 0) => "current",
            (None, _) => "applied",
        }
    }
}
