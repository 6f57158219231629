//! What can go wrong with an import before there is anything to merge.

use crate::auth::SecretError;
use crate::tenant::ServerName;

/// Why a source cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A connection string that is none. Its text may hold a password and is not shown.
    #[error("the --source of module \"{module}\" is no connection URL")]
    Url {
        /// The module.
        module: String,
        /// Why not.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A source without exactly one host.
    #[error("the --source of module \"{module}\" must name one host")]
    Host {
        /// The module.
        module: String,
    },
    /// A source that names nobody to connect as.
    #[error("the --source of module \"{module}\" names no user")]
    User {
        /// The module.
        module: String,
    },
    /// A source given by reference that could not be had.
    #[error("the --source of module \"{module}\"")]
    Secret {
        /// The module.
        module: String,
        /// Why.
        #[source]
        source: SecretError,
    },
    /// Only tenants with schemas of their own are in such tables.
    #[error(
        "module \"{module}\" has isolation {isolation}; old registries name schemas, so its tenants are adopted one by one with: pgtenant tenant \
         subscribe … --existing"
    )]
    Isolation {
        /// The module.
        module: String,
        /// Its isolation.
        isolation: &'static str,
    },
    /// A module without a server, and none at the source's address.
    #[error(
        "module \"{module}\" names no server, and none is known at the source's host and port; name one with: pgtenant module add {module} … --server S"
    )]
    Server {
        /// The module.
        module: String,
    },
    /// No such table.
    #[error(
        "the source of module \"{module}\" on {server} has no table or view public.tenant_registry (or the user may not see it)"
    )]
    NoTable {
        /// The module.
        module: String,
        /// Where it is.
        server: ServerName,
    },
    /// A column that is missing, or of the wrong type.
    #[error("public.tenant_registry in the source of module \"{module}\": column {column} {what}")]
    Column {
        /// The module.
        module: String,
        /// The column.
        column: String,
        /// What is wrong with it.
        what: String,
    },
    /// More tenants than are read.
    #[error(
        "public.tenant_registry in the source of module \"{module}\" has more than {max} rows; is it the right table?"
    )]
    Size {
        /// The module.
        module: String,
        /// The most that is read.
        max: usize,
    },
    /// No import of this number.
    #[error("there is no import {import}")]
    NoImport {
        /// The number.
        import: i64,
    },
}
