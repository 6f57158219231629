//! Names of tenants and of what they have on a server, checked where they are made.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Longest identifier that PostgreSQL keeps whole, in bytes (`NAMEDATALEN - 1`).
pub const IDENTIFIER_BYTES_MAX: usize = 63;
/// Longest module name, in bytes: the registry's view has a column `<module>_schema`, which must keep its whole name.
pub const MODULE_BYTES_MAX: usize = IDENTIFIER_BYTES_MAX - "_schema".len();
/// Longest alias of a tenant, in bytes.
pub const ALIAS_BYTES_MAX: usize = 255;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name has no characters.
    #[error("{what} is empty")]
    Empty {
        /// What was being named.
        what: &'static str,
    },
    /// The name is longer than its kind allows; names are never truncated.
    #[error("{what} is longer than {max} bytes")]
    TooLong {
        /// What was being named.
        what: &'static str,
        /// The bound that was passed, in bytes.
        max: usize,
    },
    /// The name has a character that its kind does not allow.
    #[error("{what} \"{name}\" has a character that is not allowed there")]
    Character {
        /// What was being named.
        what: &'static str,
        /// The name as given, with control characters escaped.
        name: String,
    },
    /// The name belongs to PostgreSQL or to pgtenant.
    #[error("{what} \"{name}\" is reserved")]
    Reserved {
        /// What was being named.
        what: &'static str,
        /// The name as given.
        name: String,
    },
    /// A slug or alias has the shape of a UUID, which would shadow a tenant id.
    #[error("{what} \"{name}\" has the shape of a UUID")]
    UuidShaped {
        /// What was being named.
        what: &'static str,
        /// The name as given.
        name: String,
    },
    /// The word is none of a closed set.
    #[error("{what} \"{name}\" is not one of {expected}")]
    Unknown {
        /// What was being named.
        what: &'static str,
        /// The word as given.
        name: String,
        /// The words that would have been right.
        expected: &'static str,
    },
}

/// The identity of a tenant; stays the same when slug, name and places change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TenantId(pub Uuid);

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A tenant's short name: `[a-z0-9][a-z0-9_-]{0,62}`, not shaped like a UUID.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Slug(Box<str>);

impl Slug {
    /// Checks a slug's shape.
    ///
    /// # Errors
    /// A [`NameError`] that says which rule was broken.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        let what = "slug";
        bounded(what, name, IDENTIFIER_BYTES_MAX)?;
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        let first = name.as_bytes()[0];
        if !name.bytes().all(legal) || first == b'_' || first == b'-' {
            return Err(NameError::Character { what, name: printable(name) });
        }
        not_uuid_shaped(what, name)?;
        Ok(Self(name.into()))
    }

    /// The slug as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Another name of a tenant: any printable text of up to 255 bytes, not shaped like a UUID.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Alias(Box<str>);

impl Alias {
    /// Checks an alias.
    ///
    /// # Errors
    /// A [`NameError`] that says which rule was broken.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        let what = "alias";
        bounded(what, name, ALIAS_BYTES_MAX)?;
        if name.chars().any(char::is_control) || name.trim() != name {
            return Err(NameError::Character { what, name: printable(name) });
        }
        not_uuid_shaped(what, name)?;
        Ok(Self(name.into()))
    }

    /// The alias as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Any of a tenant's names as a client gave it, normalised for look-up: UUIDs in lower case with hyphens, slugs and aliases as they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantName(Box<str>);

impl TenantName {
    /// Normalises a name for look-up.
    ///
    /// # Errors
    /// A [`NameError`] when no tenant could bear this name (empty, too long, control characters).
    pub fn parse(name: &str) -> Result<Self, NameError> {
        let what = "tenant name";
        bounded(what, name, ALIAS_BYTES_MAX)?;
        if name.chars().any(char::is_control) {
            return Err(NameError::Character { what, name: printable(name) });
        }
        Ok(Self(match Uuid::try_parse(name) {
            Ok(id) => id.hyphenated().to_string().into(),
            Err(_) => name.into(),
        }))
    }

    /// The normalised name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The identity that it spells out, if it is no slug and no alias.
    #[must_use]
    pub fn id(&self) -> Option<TenantId> {
        Uuid::try_parse(&self.0).ok().map(TenantId)
    }
}

impl From<TenantId> for TenantName {
    fn from(id: TenantId) -> Self {
        Self(id.to_string().into())
    }
}

/// Makes a newtype for a PostgreSQL identifier of at most 63 bytes.
macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $what:literal, $reserved:expr) => {
        identifier!($(#[$doc])* $name, $what, $reserved, IDENTIFIER_BYTES_MAX);
    };
    ($(#[$doc:meta])* $name:ident, $what:literal, $reserved:expr, $max:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks a name against PostgreSQL's rules and the reserved names.
            ///
            /// # Errors
            /// A [`NameError`] that says which rule was broken.
            pub fn parse(name: &str) -> Result<Self, NameError> {
                bounded($what, name, $max)?;
                if name.chars().any(char::is_control) {
                    return Err(NameError::Character { what: $what, name: printable(name) });
                }
                let reserved: fn(&str) -> bool = $reserved;
                if reserved(name) {
                    return Err(NameError::Reserved { what: $what, name: name.to_owned() });
                }
                Ok(Self(name.into()))
            }

            /// The name, unquoted.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The name as an SQL identifier, always in double quotes.
            #[must_use]
            pub fn quoted(&self) -> String {
                quote_ident(&self.0)
            }
        }

        text_newtype!($name);
    };
}

/// The conversions that every checked text type has.
macro_rules! text_newtype {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl FromStr for $name {
            type Err = NameError;
            fn from_str(s: &str) -> Result<Self, NameError> {
                Self::parse(s)
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(s: String) -> Result<Self, NameError> {
                Self::parse(&s)
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.into()
            }
        }
    };
}

text_newtype!(Slug);
text_newtype!(Alias);
text_newtype!(TenantName);

identifier!(
    /// The name of a database on a server.
    DatabaseName, "database name", |n| matches!(n, "template0" | "template1")
);
identifier!(
    /// The name of a schema that may belong to a tenant; PostgreSQL's own are refused.
    SchemaName, "schema name", |n| n.starts_with("pg_") || matches!(n, "information_schema" | "public" | "pgtenant")
);
identifier!(
    /// The name of a role that may belong to a tenant; PostgreSQL's own are refused.
    RoleName, "role name", |n| n.starts_with("pg_") || matches!(n, "postgres" | "public" | "none")
);
identifier!(
    /// The name of a module (service): what a client asks for as its database.
    ModuleName, "module name", |_| false, MODULE_BYTES_MAX
);
identifier!(
    /// The name of a server in the registry.
    ServerName, "server name", |_| false
);

/// Quotes text as an SQL identifier.
#[must_use]
pub fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes text as an SQL string constant that reads the same whatever `standard_conforming_strings` says.
#[must_use]
pub fn quote_literal(text: &str) -> String {
    let escaped = text.replace('\'', "''");
    if text.contains('\\') { format!("E'{}'", escaped.replace('\\', "\\\\")) } else { format!("'{escaped}'") }
}

fn bounded(what: &'static str, name: &str, max: usize) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty { what });
    }
    if name.len() > max {
        return Err(NameError::TooLong { what, max });
    }
    Ok(())
}

fn not_uuid_shaped(what: &'static str, name: &str) -> Result<(), NameError> {
    match Uuid::try_parse(name) {
        Ok(_) => Err(NameError::UuidShaped { what, name: name.to_owned() }),
        Err(_) => Ok(()),
    }
}

pub(super) fn printable(name: &str) -> String {
    name.chars().take(ALIAS_BYTES_MAX).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slug_is_short_lower_case_and_no_uuid() {
        assert!(Slug::parse("acme-2_x").is_ok());
        for bad in ["", "-a", "_a", "Acme", "a b", "a.b", &"a".repeat(64), "0190b5a0-0000-7000-8000-000000000001"] {
            assert!(Slug::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_alias_may_be_a_krn_but_not_a_uuid_in_any_spelling() {
        assert!(Alias::parse("krn:acme:client:prod-001").is_ok());
        assert!(Alias::parse("0190b5a000007000800000000000000a").is_err());
        assert!(Alias::parse("a\nb").is_err());
    }

    #[test]
    fn uuids_in_any_spelling_are_one_name() {
        let plain = TenantName::parse("0190B5A000007000800000000000000A").map(String::from);
        assert_eq!(plain.as_deref(), Ok("0190b5a0-0000-7000-8000-00000000000a"));
    }

    #[test]
    fn a_name_spells_an_id_or_is_a_slug_or_an_alias() {
        let id = |text: &str| TenantName::parse(text).unwrap().id();
        let hyphenated = "0190b5a0-0000-7000-8000-00000000000a";
        let braced = format!("{{{hyphenated}}}");
        for spelling in [hyphenated, "0190B5A000007000800000000000000A", &braced, &format!("urn:uuid:{hyphenated}")] {
            assert_eq!(id(spelling).map(|id| id.to_string()).as_deref(), Some(hyphenated), "{spelling}");
            assert!(Slug::parse(spelling).is_err() && Alias::parse(spelling).is_err(), "{spelling}");
        }
        for other in ["acme", "krn:acme:client:prod-001", "0190b5a0-0000-7000-8000-00000000000", "0190b5a0"] {
            assert_eq!(id(other), None, "{other}");
        }
    }

    #[test]
    fn names_over_63_bytes_are_refused_and_never_truncated() {
        assert!(SchemaName::parse(&"é".repeat(32)).is_err());
        assert!(RoleName::parse("pg_read_all_data").is_err());
        assert!(SchemaName::parse("public").is_err());
    }

    #[test]
    fn quoting_survives_quotes_and_backslashes() {
        assert_eq!(quote_ident("a\"b"), "\"a\"\"b\"");
        assert_eq!(quote_literal("a'b"), "'a''b'");
        assert_eq!(quote_literal("a\\'b"), "E'a\\\\''b'");
    }
}
