//! The control plane: makes and changes tenants on real servers and in the registry.

mod connection;
mod database;
mod error;
mod files;
mod pattern;
mod place;
mod provision;
mod roles;
mod schema;

pub use connection::{Connection, admin_credentials, app_credentials};
pub use error::{Error, PatternError};
pub use files::migrations_directory;
pub use pattern::Pattern;
pub use place::{LoginRole, Place, TENANT_COLUMN};
pub use provision::{Provisioned, SCRAM_ITERATIONS, check_admin, provision, set_logins, verifier};
