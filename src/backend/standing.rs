//! Whether roles may still log in. PostgreSQL looks at that only when a connection is opened, which a client of a pool is spared: so the
//! server is asked again where the last look is too long ago.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use rapidhash::RapidHashMap;

use super::conn::ServerConn;
use super::error::QueryError;
use super::query::simple;
use crate::tenant::quote_literal;

/// Most roles remembered by one pool: a pool of one tenant has one, a common one may have as many as tenants.
const ROLES_MAX: usize = 1024;

/// Why PostgreSQL would not let a role log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// It has NOLOGIN.
    NoLogin,
    /// Its password has expired (`VALID UNTIL`).
    Expired,
    /// It is not there any more.
    Gone,
}

/// When roles were last seen to be ones that may log in.
#[derive(Debug, Default)]
pub struct Standings {
    seen: RefCell<RapidHashMap<Box<str>, Instant>>,
    asking: Cell<bool>,
}

impl Standings {
    /// This role was let in, or found fit, at this time.
    pub fn note(&self, role: &str, at: Instant) {
        let mut seen = self.seen.borrow_mut();
        if let Some(known) = seen.get_mut(role) {
            *known = at.max(*known);
            return;
        }
        if seen.len() >= ROLES_MAX {
            seen.clear();
        }
        seen.insert(role.into(), at);
    }

    /// How long ago the last look was at that one of these roles which waits longest for another; none if there is one that was never
    /// looked at.
    #[must_use]
    pub fn age(&self, roles: &[&str]) -> Option<Duration> {
        let seen = self.seen.borrow();
        let age = |role: &&str| seen.get(*role).map(Instant::elapsed);
        roles.iter().map(age).try_fold(Duration::ZERO, |most, age| Some(most.max(age?)))
    }

    /// Asks whether these roles may log in, on a connection that waits for a statement, and remembers that they may.
    ///
    /// # Errors
    /// [`QueryError`]: the connection is not to be used further. The one that may not, with the reason, is no error.
    pub async fn ask<'a>(
        &self,
        server: &mut ServerConn,
        roles: &[&'a str],
        limit: Duration,
    ) -> Result<Option<(&'a str, Unfit)>, QueryError> {
        let asked_at = Instant::now();
        // A simple query ends whatever unnamed statement is there.
        server.unnamed_owner = 0;
        let outcome = simple(&mut server.stream, &question(roles), limit).await?;
        server.note_parameters(outcome.parameters);
        let answers: Vec<&[u8]> = outcome.rows.iter().flatten().map(AsRef::as_ref).collect();
        for role in roles {
            match verdict(&answers, role) {
                Some(unfit) => {
                    self.seen.borrow_mut().remove(*role);
                    return Ok(Some((role, unfit)));
                }
                None => self.note(role, asked_at),
            }
        }
        Ok(None)
    }

    /// Whether nobody was asking in the background until now; whoever was told so has to say when it is over.
    #[must_use]
    pub fn begins_asking(&self) -> bool {
        !self.asking.replace(true)
    }

    /// Nobody asks in the background any more.
    pub fn has_asked(&self) {
        self.asking.set(false);
    }
}

/// One row a role: a letter for its standing, then its name. Qualified throughout: the session's `search_path` is the tenant's.
fn question(roles: &[&str]) -> String {
    let names: Vec<String> = roles.iter().map(|role| quote_literal(role)).collect();
    format!(
        "SELECT pg_catalog.concat(CASE WHEN NOT rolcanlogin THEN 'n' \
         WHEN rolvaliduntil OPERATOR(pg_catalog.<) pg_catalog.now() THEN 'e' ELSE 'f' END, rolname) \
         FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) ANY (ARRAY[{}]::pg_catalog.name[])",
        names.join(", ")
    )
}

fn verdict(answers: &[&[u8]], role: &str) -> Option<Unfit> {
    let own = answers.iter().find(|answer| answer.get(1..) == Some(role.as_bytes()));
    match own.and_then(|answer| answer.first()) {
        Some(b'f') => None,
        Some(b'n') => Some(Unfit::NoLogin),
        Some(_) => Some(Unfit::Expired),
        None => Some(Unfit::Gone),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_as_old_as_its_last_look_and_several_as_the_oldest() {
        let standings = Standings::default();
        let now = Instant::now();
        assert_eq!(standings.age(&["a"]), None);
        standings.note("a", now.checked_sub(Duration::from_secs(60)).unwrap());
        standings.note("b", now);
        assert!(standings.age(&["b"]).unwrap() < Duration::from_secs(30));
        assert!(standings.age(&["a", "b"]).unwrap() >= Duration::from_secs(60));
        assert_eq!(standings.age(&["a", "b", "c"]), None);
        standings.note("a", now.checked_sub(Duration::from_secs(90)).unwrap());
        assert!(standings.age(&["a"]).unwrap() < Duration::from_secs(90), "an older look says nothing new");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let standings = Standings::default();
        (0..3 * ROLES_MAX).for_each(|role| standings.note(&role.to_string(), Instant::now()));
        assert!(standings.seen.borrow().len() <= ROLES_MAX);
    }

    #[test]
    fn a_role_that_the_server_does_not_name_is_gone() {
        let answers: [&[u8]; 3] = [b"fapp", b"nreports", b"eold"];
        let verdicts = ["app", "reports", "old", "ap", "fapp", ""].map(|role| verdict(&answers, role));
        let gone = Some(Unfit::Gone);
        assert_eq!(verdicts, [None, Some(Unfit::NoLogin), Some(Unfit::Expired), gone, gone, gone]);
    }
}
