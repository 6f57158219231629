//! The words of tenancy: tenants, their names, their places and their logins, as every floor above speaks of them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::address::Network;
use crate::limits::Own;

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

/// Makes a closed set of words with its text forms.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal, $expected:literal { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub enum $name {
            $($(#[$vdoc])* $variant),+
        }

        impl $name {
            /// The word as written in configuration, registry and output.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl FromStr for $name {
            type Err = NameError;
            fn from_str(s: &str) -> Result<Self, NameError> {
                match s {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(NameError::Unknown { what: $what, name: printable(s), expected: $expected }),
                }
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(s: String) -> Result<Self, NameError> {
                s.parse()
            }
        }
        impl From<$name> for String {
            fn from(word: $name) -> String {
                word.as_str().to_owned()
            }
        }
    };
}

words!(
    /// What separates one tenant's data from another's.
    Isolation, "isolation", "database, schema, shared" {
        /// A database of its own.
        Database = "database",
        /// A schema of its own in a common database.
        Schema = "schema",
        /// Rows of common tables, kept apart by row-level security.
        Shared = "shared",
    }
);
words!(
    /// Whose backend connections serve a placement.
    Pooling, "pooling", "per-tenant, shared" {
        /// The tenant's own login role and its own connections.
        PerTenant = "per-tenant",
        /// One service login and one pool for all tenants of a database.
        Shared = "shared",
    }
);
words!(
    /// How long a client keeps a backend connection.
    PoolMode, "pool_mode", "session, transaction" {
        /// From login to logout.
        Session = "session",
        /// For one transaction.
        Transaction = "transaction",
    }
);
words!(
    /// Whether a tenant is served.
    TenantStatus, "tenant status", "provisioning, active, suspended, moving, archived" {
        /// Not whole yet; refused with "try again".
        Provisioning = "provisioning",
        /// Served.
        Active = "active",
        /// Refused until activated again.
        Suspended = "suspended",
        /// Being moved to another place; refused with "try again" while the switch lasts.
        Moving = "moving",
        /// Deleted, data kept.
        Archived = "archived",
    }
);
words!(
    /// How a backend connection uses TLS: libpq's words and meanings.
    SslMode, "sslmode", "disable, prefer, require, verify-ca, verify-full" {
        /// Never.
        Disable = "disable",
        /// If the server can.
        Prefer = "prefer",
        /// Always, any certificate.
        Require = "require",
        /// Always, certificate signed by a known authority.
        VerifyCa = "verify-ca",
        /// Always, certificate signed by a known authority for this host name.
        VerifyFull = "verify-full",
    }
);

/// A PostgreSQL server on which tenants live.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Server {
    /// Its name in the registry.
    pub name: ServerName,
    /// Host name, address, or (with a leading `/`) directory of a Unix socket.
    pub host: String,
    /// TCP port, or the number in the Unix socket's name.
    pub port: u16,
    /// How connections to it use TLS.
    pub sslmode: SslMode,
    /// File with the certificate authorities to trust (PEM); the system's when absent.
    pub ca_file: Option<String>,
    /// Most connections that all pgtenant pools together may open to it.
    pub max_connections: Option<u32>,
    /// Reference to the credentials for DDL (`env:`, `file:`); the data plane never resolves it.
    pub admin_secret: Option<String>,
    /// Reference to the service login of shared pools (`env:`, `file:`).
    pub app_secret: Option<String>,
}

/// How places of a module are served. Places that agree have it in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Terms {
    /// The module.
    pub module: ModuleName,
    /// Further names under which clients may ask for the module (old physical database names).
    pub module_aliases: Vec<String>,
    /// What separates a place from other tenants' places.
    pub isolation: Isolation,
    /// Whose connections serve it.
    pub pooling: Pooling,
    /// Overrides the configuration's pool mode.
    pub pool_mode: Option<PoolMode>,
    /// Overrides the configuration's pool size.
    pub pool_size: Option<u32>,
    /// Schemas that follow the tenant's own in `search_path`.
    pub search_path_extra: Vec<String>,
    /// A further parameter that carries the tenant id beside `pgtenant.tenant_id` (for example `app.tenant_id`).
    pub tenant_parameter: Option<String>,
    /// On a shared pool, `SET ROLE` to [`Placement::role`] at each hand-over.
    pub set_role: bool,
}

/// One tenant's place for one module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The module it is a place of, and how it is served.
    pub terms: Arc<Terms>,
    /// The server it is on.
    pub server: Arc<Server>,
    /// The database it is in.
    pub database: DatabaseName,
    /// Its schema; always present for `schema` isolation. Plain text since adopted places may be in `public`.
    pub schema: Option<Box<str>>,
    /// The role whose rights the place grants; logins open their own backend role, see [`Login::role`].
    pub role: Option<Box<str>>,
    /// False until it is provisioned; such a place is refused with "try again".
    pub ready: bool,
}

impl Placement {
    /// Whether sessions of the one can go on in the other: all is the same but how many connections there may be.
    #[must_use]
    pub fn is_same_place(&self, other: &Self) -> bool {
        let server = Server { max_connections: other.server.max_connections, ..Server::clone(&self.server) };
        let terms = Terms { pool_size: other.terms.pool_size, ..Terms::clone(&self.terms) };
        Self { terms: Arc::new(terms), server: Arc::new(server), ..self.clone() } == *other
    }
}

/// A login of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// What the client calls itself, the tenant's name stripped.
    pub login: String,
    /// The backend role it opens.
    pub role: String,
    /// `SCRAM-SHA-256$…`; none means that the login cannot be used through the proxy yet.
    pub verifier: Option<String>,
}

/// When running sessions of a suspended tenant end. Two are the same if the registry says the same.
#[derive(Debug, Clone, Copy)]
pub struct SessionsEnd {
    /// By the registry's clock: this one's may have jumped, or never have been right.
    pub at: SystemTime,
    /// By this process's own, which only goes on.
    pub by: Instant,
}

impl SessionsEnd {
    /// At a time of the registry's that is so many seconds ahead.
    #[must_use]
    pub fn new(at: SystemTime, seconds_left: f64) -> Self {
        let now = Instant::now();
        let left = Duration::try_from_secs_f64(seconds_left).unwrap_or_default();
        Self { at, by: now.checked_add(left).unwrap_or(now) }
    }
}

impl PartialEq for SessionsEnd {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for SessionsEnd {}

/// Everything the data plane knows of one tenant: an immutable copy of its registry rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its identity.
    pub id: TenantId,
    /// Its short name.
    pub slug: Slug,
    /// Its name for people.
    pub name: String,
    /// Whether it is served.
    pub status: TenantStatus,
    /// When a suspension ends running sessions; new ones are refused at once.
    pub sessions_end: Option<Box<SessionsEnd>>,
    /// Its other names.
    pub aliases: Vec<Alias>,
    /// From where its clients may come; from everywhere when empty.
    pub allow: Vec<Network>,
    /// The module a client gets that names none.
    pub default_module: Option<ModuleName>,
    /// Its places, one a module.
    pub placements: Vec<Arc<Placement>>,
    /// What it may take, where that is not what the configuration says.
    pub limits: Arc<Own>,
    /// Its logins.
    pub logins: Vec<Login>,
    /// Raised by every change of any of its rows.
    pub generation: i64,
}

impl Tenant {
    /// The login with this name.
    #[must_use]
    pub fn login(&self, login: &str) -> Option<&Login> {
        self.logins.iter().find(|l| l.login == login)
    }

    /// The place for a module, by the module's exact name first, then by its aliases.
    #[must_use]
    pub fn placement(&self, module: &str) -> Option<&Arc<Placement>> {
        self.placements
            .iter()
            .find(|p| p.terms.module.as_str() == module)
            .or_else(|| self.placements.iter().find(|p| p.terms.module_aliases.iter().any(|a| a == module)))
    }

    /// The place of the default module: the one named as such, else the only one.
    #[must_use]
    pub fn default_placement(&self) -> Option<&Arc<Placement>> {
        match &self.default_module {
            Some(module) => self.placement(module.as_str()),
            None => match self.placements.as_slice() {
                [only] => Some(only),
                _ => None,
            },
        }
    }

    /// Whether its clients may come from this address; none is one that is not known.
    #[must_use]
    pub fn allows(&self, address: Option<IpAddr>) -> bool {
        self.allow.is_empty()
            || address.is_some_and(|address| self.allow.iter().any(|network| network.contains(address)))
    }

    /// Whether a normalised name is one of this tenant's.
    #[must_use]
    pub fn is_named(&self, name: &TenantName) -> bool {
        let name = name.as_str();
        self.slug.as_str() == name
            || self.aliases.iter().any(|a| a.as_str() == name)
            || self.id.0.hyphenated().to_string() == name
    }
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

fn printable(name: &str) -> String {
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
