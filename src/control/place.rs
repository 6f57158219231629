//! A place to be made on a server, and the names and marks of the objects that make it up.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest;

use crate::tenant::{
    DatabaseName, IDENTIFIER_BYTES_MAX, Isolation, ModuleName, Pooling, RoleName, SchemaName, Server, TenantId,
};

/// The column that says whose row it is, where a module does not name another.
pub const TENANT_COLUMN: &str = "tenant_id";

/// Everything that provisioning makes or checks for one tenant's module.
#[derive(Debug, Clone)]
pub struct Place {
    /// Whose place it is.
    pub tenant: TenantId,
    /// The module it is a place of.
    pub module: ModuleName,
    /// What separates it from other tenants' places.
    pub isolation: Isolation,
    /// Whose connections will serve it.
    pub pooling: Pooling,
    /// The server it is on.
    pub server: Arc<Server>,
    /// Its database.
    pub database: DatabaseName,
    /// Its schema; always there unless `isolation` is `database`.
    pub schema: Option<SchemaName>,
    /// The role that gets the rights on its data, where the tenant has connections of its own.
    pub role: Option<RoleName>,
    /// The roles that the tenant's logins open.
    pub logins: Vec<LoginRole>,
    /// Schemas that follow its own in `search_path`.
    pub search_path_extra: Vec<String>,
    /// The column of common tables that says whose row it is.
    pub tenant_column: String,
    /// Directory with the module's migration files.
    pub migrations: Option<PathBuf>,
    /// The database that its own is made a copy of; PostgreSQL's usual one when absent.
    pub template: Option<DatabaseName>,
}

/// A role that a login opens, and what proves the login's password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginRole {
    /// The role, the same on every server.
    pub role: RoleName,
    /// `SCRAM-SHA-256$…`; without one the role cannot log in.
    pub verifier: Option<String>,
}

impl Place {
    /// The schema that its objects are in: its own, else `public` of its own database.
    #[must_use]
    pub fn schema_name(&self) -> &str {
        self.schema.as_ref().map_or("public", SchemaName::as_str)
    }

    /// The role that owns the place and whatever migrations make in it.
    #[must_use]
    pub fn owner(&self) -> String {
        derived(&self.path(), "owner")
    }

    /// The role of all that may connect to a common database: one grant in the database's row, whatever the number of tenants.
    #[must_use]
    pub fn clients(&self) -> String {
        derived(self.database.as_str(), "clients")
    }

    /// The role with the rights on a schema of common tables; a table's list of grants must not grow with the number of tenants.
    #[must_use]
    pub fn rows(&self) -> String {
        derived(&self.path(), "rows")
    }

    /// The mark of what belongs to this tenant's module; what is common to tenants bears the module's mark.
    #[must_use]
    pub fn mark(&self) -> String {
        match self.isolation {
            Isolation::Shared => format!("pgtenant:shared:{}", self.module),
            Isolation::Database | Isolation::Schema => format!("pgtenant:{}:{}", self.tenant, self.module),
        }
    }

    /// The mark of the tenant's roles, common to its modules.
    #[must_use]
    pub fn tenant_mark(&self) -> String {
        format!("pgtenant:{}", self.tenant)
    }

    /// The mark of what belongs to a database with places of several tenants.
    #[must_use]
    pub fn database_mark(&self) -> String {
        format!("pgtenant:database:{}", self.database)
    }

    /// The word under which steps in the place's schema wait for each other.
    pub(crate) fn lock(&self) -> String {
        format!("place:{}", self.schema_name())
    }

    fn path(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{}.{schema}", self.database),
            None => self.database.to_string(),
        }
    }
}

/// Database and schema.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\".\"{}\"", self.database, self.schema_name())
    }
}

/// A role's name after the place it serves; by the place's hash where the plain name would pass PostgreSQL's bound.
fn derived(path: &str, part: &str) -> String {
    let plain = format!("{path}.{part}");
    if plain.len() <= IDENTIFIER_BYTES_MAX && !plain.starts_with("pg_") {
        return plain;
    }
    let hash = hex(&digest::digest(&digest::SHA256, path.as_bytes()).as_ref()[..16]);
    format!("place.{hash}.{part}")
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_names_stay_within_postgresqls_bound_and_apart() {
        assert_eq!(derived("ops.acme", "owner"), "ops.acme.owner");
        let long = "x".repeat(63);
        let (a, b) = (derived(&format!("a.{long}"), "owner"), derived(&format!("b.{long}"), "owner"));
        assert!(a.len() <= IDENTIFIER_BYTES_MAX && a != b && a.ends_with(".owner"), "{a} {b}");
        assert!(!derived("pg_x", "owner").starts_with("pg_"));
    }
}
