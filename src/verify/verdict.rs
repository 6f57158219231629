//! What a check comes to, and which walls are promised where.

use serde::Serialize;

use super::error::Error;
use super::scene::Ground;
use crate::tenant::{Isolation, PoolMode, Pooling};

/// What a check showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing came through; how many ways were tried, or what stopped them.
    Holds(String),
    /// Something did.
    Leaks(String),
    /// There is nothing to try here.
    NotApplicable(String),
}

/// What a wall is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wall {
    /// It stands everywhere: what programs do without meaning harm, and what the proxy or PostgreSQL refuses to everybody.
    Everywhere,
    /// It stops whoever can run any SQL. Only connections of a tenant's own have it.
    Hostile,
    /// What PostgreSQL keeps by database is apart only between databases.
    Databases,
}

impl Wall {
    /// Why a leak is no news there; `None` where the wall is promised.
    #[must_use]
    pub const fn documented(self, ground: Ground) -> Option<&'static str> {
        match (self, ground.isolation, ground.pooling) {
            (Self::Hostile, _, Pooling::Shared) => {
                Some("shared pooling is a wall against mistakes, not against hostile SQL")
            }
            (Self::Databases, Isolation::Schema | Isolation::Shared, _) => {
                Some("tenants of one database share what PostgreSQL keeps by database")
            }
            _ => None,
        }
    }
}

/// The word for what a check showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Outcome {
    /// The wall stands.
    #[serde(rename = "holds")]
    Holds,
    /// It does not.
    #[serde(rename = "leaks")]
    Leaks,
    /// There is no such wall here.
    #[serde(rename = "not applicable")]
    NotApplicable,
}

/// One check on one ground.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was tried.
    pub check: &'static str,
    /// Whose connections served the tenants.
    pub pooling: Pooling,
    /// What separated them.
    pub isolation: Isolation,
    /// How long a client kept its connection; `None` where no client was needed.
    pub pool_mode: Option<PoolMode>,
    /// What it showed.
    pub result: Outcome,
    /// More of it.
    pub detail: String,
    /// A wall that is promised does not stand, or was not shown to.
    #[serde(skip)]
    pub is_broken: bool,
}

impl Finding {
    /// What a check that was played to its end, or not, says of a wall.
    #[must_use]
    pub fn new(check: &'static str, wall: Wall, ground: Ground, played: Result<Verdict, Error>) -> Self {
        let documented = wall.documented(ground);
        let (result, detail, is_broken) = match played {
            Ok(Verdict::Holds(detail)) => (Outcome::Holds, detail, false),
            Ok(Verdict::NotApplicable(detail)) => (Outcome::NotApplicable, detail, false),
            Ok(Verdict::Leaks(detail)) => match documented {
                Some(why) => (Outcome::Leaks, format!("documented: {why} ({detail})"), false),
                None => (Outcome::Leaks, detail, true),
            },
            // Whoever asks whether a wall stands is not served by "perhaps".
            Err(error) => (Outcome::Leaks, format!("not shown to hold: {}", chain(&error)), true),
        };
        let Ground { isolation, pooling, pool_mode } = ground;
        Self { check, pooling, isolation, pool_mode: Some(pool_mode), result, detail, is_broken }
    }
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(wall: Wall, isolation: Isolation, pooling: Pooling, played: Result<Verdict, Error>) -> (Outcome, bool) {
        let ground = Ground { isolation, pooling, pool_mode: PoolMode::Transaction };
        let finding = Finding::new("x", wall, ground, played);
        (finding.result, finding.is_broken)
    }

    #[test]
    fn a_leak_is_news_only_where_the_wall_is_promised() {
        let leak = || Ok(Verdict::Leaks("seen".to_owned()));
        let shared = (Isolation::Schema, Pooling::Shared);
        assert_eq!(found(Wall::Everywhere, shared.0, shared.1, leak()), (Outcome::Leaks, true));
        assert_eq!(found(Wall::Hostile, shared.0, shared.1, leak()), (Outcome::Leaks, false));
        assert_eq!(found(Wall::Hostile, Isolation::Schema, Pooling::PerTenant, leak()), (Outcome::Leaks, true));
        assert_eq!(found(Wall::Databases, Isolation::Shared, Pooling::PerTenant, leak()), (Outcome::Leaks, false));
        assert_eq!(found(Wall::Databases, Isolation::Database, Pooling::PerTenant, leak()), (Outcome::Leaks, true));
    }

    #[test]
    fn a_check_that_could_not_be_played_is_no_proof() {
        let broken = Err(Error::Absent("an answer"));
        assert_eq!(found(Wall::Hostile, Isolation::Schema, Pooling::Shared, broken), (Outcome::Leaks, true));
    }
}
