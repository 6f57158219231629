//! The words of tenancy: tenants, their names, their places and their logins, as every floor above speaks of them.

mod names;

pub use names::{
    ALIAS_BYTES_MAX, Alias, DatabaseName, IDENTIFIER_BYTES_MAX, MODULE_BYTES_MAX, ModuleName, NameError, RoleName,
    SchemaName, ServerName, Slug, TenantId, TenantName, quote_ident, quote_literal,
};

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::address::Network;
use crate::limits::Own;
use names::printable;

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
