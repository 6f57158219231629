//! Where a connection names its tenant: the readings of startup options, user name, TLS server name and database name. No look-ups.

use std::fmt;

use crate::tenant::TenantName;

use super::config::IdentifyConfig;
use super::request::Asked;

/// The separator that names a tenant wherever it stands; others do only where nothing else names one.
const ALWAYS: &str = "@";
/// Most readings of one text: each costs a look-up that a stranger can cause.
const READINGS_MAX: usize = 8;
/// Most characters of a name in an error.
const SHOWN_CHARS_MAX: usize = 255;

/// Where in a connection a tenant was named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A startup parameter, given directly or inside `options`.
    Option,
    /// The user name.
    User,
    /// The server name of the TLS handshake.
    ServerName,
    /// The database name.
    Database,
    /// Nothing named one: the default tenant.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Option => "startup option",
            Self::User => "user name",
            Self::ServerName => "TLS server name",
            Self::Database => "database name",
            Self::Default => "default tenant",
        })
    }
}

/// One way to read a text: a tenant's name, and what is left without it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    /// The name as given.
    pub(crate) given: String,
    /// The name to look up; none if no tenant can bear it.
    pub(crate) name: Option<TenantName>,
    /// The text without the name: a login, a database, or nothing.
    pub(crate) rest: String,
}

impl Reading {
    fn new(given: &str, rest: &str) -> Self {
        Self { given: given.to_owned(), name: TenantName::parse(given).ok(), rest: rest.to_owned() }
    }

    /// Whether two readings are of one name, known or not.
    pub(crate) fn same_name(&self, other: &Self) -> bool {
        match (&self.name, &other.name) {
            (Some(a), Some(b)) => a == b,
            _ => self.given == other.given,
        }
    }
}

/// A name that a source gives, in all its readings; at least one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) source: Source,
    pub(crate) readings: Vec<Reading>,
}

impl Given {
    /// The name for people: the last reading is the shortest name.
    pub(crate) fn shown(&self) -> (String, Source) {
        (self.readings.last().map_or_else(String::new, |r| shown(&r.given)), self.source)
    }
}

/// The names that count whatever else there is: startup options, `login@tenant`, TLS server name, database name.
pub(crate) fn named(asked: &Asked, server_name: Option<&str>, config: &IdentifyConfig) -> Vec<Given> {
    let single = |source, reading| Given { source, readings: vec![reading] };
    let mut names: Vec<Given> = asked.tenants.iter().map(|t| single(Source::Option, Reading::new(t, ""))).collect();
    if config.separators.iter().any(|s| s == ALWAYS) && asked.user.contains(ALWAYS) {
        names.push(Given {
            source: Source::User,
            readings: whole_if_none(tenant_last(&asked.user, ALWAYS), &asked.user),
        });
    }
    if let (Some(name), Some(suffix)) = (server_name, &config.sni_suffix)
        && let Some(label) = first_label(name, suffix)
    {
        names.push(single(Source::ServerName, Reading::new(&label, "")));
    }
    if let Some(separator) = config.database_separator.as_deref().filter(|s| !s.is_empty())
        && asked.database.contains(separator)
        // Clients send the user name as the database of those who give none.
        && asked.database != asked.user
    {
        let readings = whole_if_none(tenant_first(&asked.database, separator), &asked.database);
        names.push(Given { source: Source::Database, readings });
    }
    names
}

/// The readings of a user name that count only where nothing else names a tenant, in the order they are tried: separator by
/// separator, then the whole name as a tenant's (the rest of that one is empty).
pub(crate) fn hinted(user: &str, config: &IdentifyConfig) -> Vec<Vec<Reading>> {
    let halves = |separator: &String| {
        let readings = tenant_last(user, separator).into_iter();
        readings.filter(|r| !r.given.is_empty() && !r.rest.is_empty()).collect::<Vec<_>>()
    };
    let weak = config.separators.iter().filter(|s| !s.is_empty() && *s != ALWAYS);
    let mut tries: Vec<_> = weak.map(halves).filter(|readings| !readings.is_empty()).collect();
    tries.push(vec![Reading::new(user, "")]);
    tries
}

/// A name for an error text: bounded, control characters escaped.
pub(crate) fn shown(name: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_default().collect() } else { c.to_string() };
    name.chars().take(SHOWN_CHARS_MAX).map(escaped).collect()
}

/// `login<separator>tenant` at every position.
fn tenant_last(text: &str, separator: &str) -> Vec<Reading> {
    splits(text, separator).map(|(before, after)| Reading::new(after, before)).collect()
}

/// `tenant<separator>module` at every position, longest tenant first.
fn tenant_first(text: &str, separator: &str) -> Vec<Reading> {
    let mut readings: Vec<_> = splits(text, separator).map(|(before, after)| Reading::new(before, after)).collect();
    readings.reverse();
    readings
}

/// Both sides of a separator at every position; none at all if there are more positions than any honest name has.
fn splits<'a>(text: &'a str, separator: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let bounded = text.matches(separator).take(READINGS_MAX + 1).count() <= READINGS_MAX;
    let positions = bounded.then(|| text.match_indices(separator));
    positions.into_iter().flatten().map(|(at, found)| (&text[..at], &text[at + found.len()..]))
}

/// A text with too many separators still names something, which nobody is called.
fn whole_if_none(readings: Vec<Reading>, text: &str) -> Vec<Reading> {
    if readings.is_empty() { vec![Reading { given: shown(text), name: None, rest: String::new() }] } else { readings }
}

/// The first label of a server name under a suffix; nothing for the suffix itself and for other domains.
fn first_label(server_name: &str, suffix: &str) -> Option<String> {
    let name = server_name.trim_end_matches('.').to_ascii_lowercase();
    let suffix = suffix.trim_matches('.').to_ascii_lowercase();
    let under = name.strip_suffix(&suffix)?.strip_suffix('.')?;
    under.split('.').next().filter(|label| !label.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(user: &str, database: &str) -> Asked {
        let parameters = [("user".to_owned(), user.to_owned()), ("database".to_owned(), database.to_owned())];
        Asked::sort(&parameters, &IdentifyConfig::default()).unwrap()
    }

    fn readings(given: &[Reading]) -> Vec<(&str, &str)> {
        given.iter().map(|r| (r.given.as_str(), r.rest.as_str())).collect()
    }

    #[test]
    fn a_user_name_is_read_at_every_at_sign() {
        let names = named(&asked("a@b@c", ""), None, &IdentifyConfig::default());
        assert_eq!(readings(&names[0].readings), [("b@c", "a"), ("c", "a@b")]);
    }

    #[test]
    fn a_user_name_of_nothing_but_separators_costs_no_look_ups() {
        let names = named(&asked(&"@".repeat(5000), ""), None, &IdentifyConfig::default());
        assert!(names[0].readings.iter().all(|r| r.name.is_none()));
        assert_eq!(hinted(&".".repeat(5000), &IdentifyConfig::default()).len(), 1);
    }

    #[test]
    fn empty_halves_of_a_dotted_name_are_no_names() {
        let config = IdentifyConfig::default();
        assert_eq!(hinted("app.", &config).len(), 1);
        assert_eq!(hinted(".acme", &config).len(), 1);
        assert_eq!(readings(&hinted("a.b.c", &config)[0]), [("b.c", "a"), ("c", "a.b")]);
    }

    #[test]
    fn the_server_name_counts_only_under_the_suffix() {
        for (name, label) in [
            ("acme.db.example.com", Some("acme")),
            ("ACME.DB.example.com.", Some("acme")),
            ("db.example.com", None),
            (".db.example.com", None),
            ("acmedb.example.com", None),
            ("acme.example.org", None),
        ] {
            assert_eq!(first_label(name, ".db.example.com").as_deref(), label, "{name}");
        }
        let off = IdentifyConfig::default();
        assert!(named(&asked("app", ""), Some("acme.db.example.com"), &off).is_empty(), "off unless configured");
    }

    #[test]
    fn the_database_name_counts_only_where_a_separator_is_configured() {
        let on = IdentifyConfig { database_separator: Some("/".into()), ..IdentifyConfig::default() };
        let names = named(&asked("app", "acme/finance"), None, &on);
        assert_eq!((names[0].source, readings(&names[0].readings)), (Source::Database, vec![("acme", "finance")]));
        assert!(named(&asked("app", "acme/finance"), None, &IdentifyConfig::default()).is_empty());
        assert!(named(&asked("dom/app", "dom/app"), None, &on).is_empty(), "the client's own default");
    }

    #[test]
    fn names_in_errors_are_bounded_and_printable() {
        assert_eq!(shown("a\n\u{7}é"), "a\\n\\u{7}é");
        assert_eq!(shown(&"x".repeat(9000)).len(), 255);
    }
}
