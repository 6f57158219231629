//! The session parameters that a client has set, carried with it from one server connection to the next.
//!
//! What they are is never worked out from statement texts: these only tell which parameters may have changed. The server is asked
//! for their values when the transaction is over, so that rollback, savepoints, functions and errors need no rules here.

use crate::protocol::{How, Parameters};

/// Most parameters carried for one client.
const CARRIED_MAX: usize = 32;
/// Bytes of their names and values.
const CARRIED_BYTES_MAX: usize = 4 * 1024;
/// Most parameters that may have changed in one transaction and still be asked about.
const TOUCHED_MAX: usize = 64;
/// It counts bytes in this client's encoding, so that nothing but ASCII can go with it.
const ENCODING: &str = "client_encoding";
/// It decides what the others may be set to.
const ROLE: &str = "role";
/// They are the server's, or say who a session is; some are reported all the same.
const NEVER_SET: [&str; 6] = [
    "in_hot_standby",
    "integer_datetimes",
    "is_superuser",
    "server_encoding",
    "server_version",
    "session_authorization",
];
/// A connection on which temporary tables were used takes no other value.
const TEMP_BUFFERS: &str = "temp_buffers";

/// A parameter that may have changed.
struct Touched {
    name: String,
    /// Statements set it, or the server reported it.
    is_set: bool,
    /// Statements reset it.
    is_reset: bool,
    /// It was reset last, and is given again to whoever resets it.
    is_given: bool,
}

/// What came of the server's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// The client carries what it carried before.
    Same,
    /// It carries something else from now on.
    Changed,
    /// What it has set cannot be carried.
    Uncarriable,
}

/// One client's parameters.
#[derive(Default)]
pub(super) struct Settings(
    /// None before it touches one: many clients never do.
    Option<Box<Parts>>,
);

#[derive(Default)]
struct Parts {
    carried: Vec<(String, String)>,
    touched: Vec<Touched>,
    /// Those that the server is being asked about; what is touched meanwhile is asked about later.
    asked: Vec<Touched>,
    /// More was touched than is remembered.
    is_overfull: bool,
}

impl Settings {
    /// What has to be set on every connection that the client gets, in the order in which it can be.
    pub(super) fn carried(&self) -> &[(String, String)] {
        self.0.as_ref().map_or(&[], |parts| &parts.carried)
    }

    /// The value that is carried.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.carried().iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Carries a parameter no more.
    pub(super) fn drop(&mut self, name: &str) {
        if let Some(parts) = &mut self.0 {
            parts.carried.retain(|(known, _)| known != name);
        }
    }

    /// Notes what a statement may change.
    pub(super) fn touch(&mut self, parameters: &Parameters, given: &[String]) {
        for at in 0..=parameters.touched.len() {
            if parameters.resets_all == Some(at) {
                let carried = self.carried().iter().map(|(name, _)| name.clone());
                let changing = self.touched().iter().chain(self.asked()).map(|touched| touched.name.clone());
                let names: Vec<_> = carried.chain(changing).collect();
                // RESET ALL leaves the role as it is.
                names.iter().filter(|name| *name != ROLE).for_each(|name| self.note(name, false, given.contains(name)));
            }
            let Some(touch) = parameters.touched.get(at) else { return };
            match touch.how {
                How::Set(_) => self.note(&touch.name, true, false),
                How::Reset => self.note(&touch.name, false, given.contains(&touch.name)),
                How::Local(_) => {}
            }
        }
    }

    /// Notes a parameter that the server reports.
    pub(super) fn reported(&mut self, name: &str) {
        let name = name.to_ascii_lowercase();
        if !self.touched().iter().any(|touched| touched.name == name) {
            self.note(&name, true, false);
        }
    }

    fn note(&mut self, name: &str, sets: bool, is_given: bool) {
        if NEVER_SET.contains(&name) {
            return;
        }
        let parts = self.0.get_or_insert_default();
        if let Some(touched) = parts.touched.iter_mut().find(|touched| touched.name == name) {
            touched.is_set |= sets;
            touched.is_reset |= !sets;
            touched.is_given = is_given;
        } else if parts.touched.len() < TOUCHED_MAX {
            parts.touched.push(Touched { name: name.to_owned(), is_set: sets, is_reset: !sets, is_given });
        } else {
            parts.is_overfull = true;
        }
    }

    fn touched(&self) -> &[Touched] {
        self.0.as_ref().map_or(&[], |parts| &parts.touched)
    }

    fn asked(&self) -> &[Touched] {
        self.0.as_ref().map_or(&[], |parts| &parts.asked)
    }

    /// Nothing may have changed.
    pub(super) fn is_settled(&self) -> bool {
        self.touched().is_empty() && self.asked().is_empty()
    }

    /// The server is asked about everything that was touched.
    pub(super) fn ask(&mut self) {
        if let Some(parts) = &mut self.0 {
            parts.asked = std::mem::take(&mut parts.touched);
        }
    }

    /// It gave no answer.
    pub(super) fn unanswered(&mut self) {
        let Some(parts) = &mut self.0 else { return };
        let later = std::mem::replace(&mut parts.touched, std::mem::take(&mut parts.asked));
        for touched in later {
            if touched.is_set {
                self.note(&touched.name, true, touched.is_given);
            }
            if touched.is_reset {
                self.note(&touched.name, false, touched.is_given);
            }
        }
    }

    /// The messages that touched something reached no server.
    pub(super) fn untouch(&mut self) {
        if let Some(parts) = &mut self.0 {
            parts.touched.clear();
            parts.asked.clear();
            parts.is_overfull = false;
        }
    }

    /// Everything went back to what it was at the start.
    pub(super) fn discarded(&mut self) {
        if let Some(parts) = &mut self.0 {
            parts.carried.clear();
        }
    }

    /// The parameters to ask about; `reported` are those whose values are known.
    pub(super) fn unknown<'a>(&'a self, reported: &'a [(String, String)]) -> impl Iterator<Item = &'a str> {
        let known = |name: &str| reported.iter().any(|(reported, _)| reported.eq_ignore_ascii_case(name));
        self.touched().iter().map(|touched| touched.name.as_str()).filter(move |name| !known(name))
    }

    /// Takes over the values that parameters have now; none for one that does not exist.
    pub(super) fn settle(&mut self, value: impl Fn(&str) -> Option<String>) -> Settled {
        let Some(parts) = &mut self.0 else { return Settled::Same };
        if parts.is_overfull {
            self.unanswered();
            return Settled::Uncarriable;
        }
        let mut carried = parts.carried.clone();
        for touched in &parts.asked {
            let old = carried.iter().position(|(name, _)| *name == touched.name);
            let now = value(&touched.name);
            // It was reset, and is not what it was: so it is what it was at the start.
            let ends_reset = touched.is_reset && (!touched.is_set || touched.is_given);
            let is_start = ends_reset && now.as_ref() != old.map(|old| &carried[old].1);
            match (old, now) {
                (Some(old), None) => _ = carried.remove(old),
                (Some(old), Some(_)) if is_start => _ = carried.remove(old),
                (Some(old), Some(now)) => carried[old].1 = now,
                (None, Some(now)) if !is_start => carried.push((touched.name.clone(), now)),
                (None, _) => {}
            }
        }
        carried.sort_by_key(|(name, _)| name == ROLE);
        if !can_be_carried(&carried) {
            self.unanswered();
            return Settled::Uncarriable;
        }
        parts.asked.clear();
        let settled = if carried == parts.carried { Settled::Same } else { Settled::Changed };
        parts.carried = carried;
        settled
    }
}

fn can_be_carried(carried: &[(String, String)]) -> bool {
    let bytes: usize = carried.iter().map(|(name, value)| name.len() + value.len()).sum();
    let has_encoding = carried.iter().any(|(name, _)| name == ENCODING);
    let is_ascii = carried.iter().all(|(_, value)| value.is_ascii());
    let fits_all = carried.iter().all(|(name, _)| name != TEMP_BUFFERS);
    fits_all && carried.len() <= CARRIED_MAX && bytes <= CARRIED_BYTES_MAX && (is_ascii || !has_encoding)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::parameters_of;

    /// Runs statements, then settles with these values.
    fn after(settings: &mut Settings, statements: &str, values: &[(&str, &str)]) -> Settled {
        settings.touch(&parameters_of(statements.as_bytes()), &["given".to_owned()]);
        let value = |name: &str| values.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        settings.ask();
        settings.settle(value)
    }

    fn shown(settings: &Settings) -> String {
        settings.carried().iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_was_set_is_carried_as_the_server_shows_it() {
        let mut settings = Settings::default();
        assert_eq!(
            after(&mut settings, "SET ROLE r; SET work_mem = 4096", &[("work_mem", "4MB"), ("role", "r")]),
            Settled::Changed
        );
        assert_eq!(shown(&settings), "work_mem=4MB role=r");
        assert_eq!(after(&mut settings, "SET work_mem = '4MB'", &[("work_mem", "4MB")]), Settled::Same);
        assert_eq!(after(&mut settings, "SET work_mem = '8MB'", &[("work_mem", "4MB")]), Settled::Same, "rolled back");
        assert!(settings.is_settled());
    }

    #[test]
    fn what_was_reset_is_carried_no_more_unless_the_reset_was_rolled_back() {
        let mut settings = Settings::default();
        after(&mut settings, "SET a.b = 1; SET c.d = 2; SET ROLE r", &[("a.b", "1"), ("c.d", "2"), ("role", "r")]);
        after(&mut settings, "RESET a.b", &[("a.b", "1")]);
        assert_eq!(shown(&settings), "a.b=1 c.d=2 role=r");
        after(&mut settings, "RESET a.b", &[("a.b", "")]);
        assert_eq!(shown(&settings), "c.d=2 role=r");
        after(&mut settings, "SET c.d TO DEFAULT; SET c.d = 3", &[("c.d", "3")]);
        assert_eq!(shown(&settings), "c.d=3 role=r");
        after(&mut settings, "RESET ALL", &[("c.d", "")]);
        assert_eq!(shown(&settings), "role=r");
    }

    #[test]
    fn what_is_given_again_after_a_reset_is_not_the_clients_own() {
        let mut settings = Settings::default();
        for text in ["SET given = 1; RESET given", "SET given = 1; RESET ALL", "RESET ALL; SET given = 1; RESET given"]
        {
            after(&mut settings, text, &[("given", "neutral")]);
            assert_eq!(shown(&settings), "", "{text}");
        }
        after(&mut settings, "RESET ALL; SET given = 1", &[("given", "1")]);
        assert_eq!(shown(&settings), "given=1");
        after(&mut settings, "RESET given", &[("given", "1")]);
        assert_eq!(shown(&settings), "given=1", "rolled back");
    }

    #[test]
    fn what_no_connection_can_be_set_to_is_not_carried() {
        let mut settings = Settings::default();
        settings.reported("in_hot_standby");
        settings.reported("is_superuser");
        assert!(settings.is_settled());
        assert_eq!(after(&mut settings, "SET temp_buffers = 200", &[("temp_buffers", "1600kB")]), Settled::Uncarriable);
    }

    #[test]
    fn what_is_touched_while_the_server_is_asked_is_asked_about_later() {
        let mut settings = Settings::default();
        settings.touch(&parameters_of(b"SET a.b = 1"), &[]);
        settings.ask();
        settings.touch(&parameters_of(b"SET a.b = 2"), &[]);
        settings.settle(|_| Some("1".to_owned()));
        assert!(!settings.is_settled());
        settings.ask();
        settings.unanswered();
        assert_eq!(settings.unknown(&[]).collect::<Vec<_>>(), ["a.b"]);
        settings.ask();
        settings.touch(&parameters_of(b"RESET ALL"), &[]);
        settings.settle(|_| Some("2".to_owned()));
        assert_eq!(shown(&settings), "a.b=2");
        assert_eq!(after(&mut settings, "", &[("a.b", "")]), Settled::Changed, "RESET ALL took it away");
        assert_eq!(shown(&settings), "");
    }

    #[test]
    fn what_is_known_by_report_is_not_asked() {
        let mut settings = Settings::default();
        settings.touch(&parameters_of(b"SET timezone = 'UTC'; SET a.b = 1"), &[]);
        settings.reported("TimeZone");
        let reported = [("TimeZone".to_owned(), "UTC".to_owned())];
        assert_eq!(settings.unknown(&reported).collect::<Vec<_>>(), ["a.b"]);
    }

    #[test]
    fn too_much_and_what_two_encodings_would_spell_differently_is_not_carried() {
        let mut settings = Settings::default();
        let long = "x".repeat(CARRIED_BYTES_MAX);
        assert_eq!(after(&mut settings, "SET a.b = 1", &[("a.b", &long)]), Settled::Uncarriable);
        settings.untouch();
        let values = [("client_encoding", "LATIN1"), ("a.b", "é")];
        assert_eq!(after(&mut settings, "SET a.b = 1; SET NAMES 'LATIN1'", &values), Settled::Uncarriable);
        settings.untouch();
        let many: String = (0..=TOUCHED_MAX).map(|n| format!("RESET a.b{n};")).collect();
        assert_eq!(after(&mut settings, &many, &[]), Settled::Uncarriable);
    }
}
