//! The control plane: makes and changes tenants on real servers and in the registry.

mod connection;
mod database;
mod error;
mod files;
mod inspect;
mod order;
mod pattern;
mod place;
mod provision;
mod roles;
mod schema;
mod tenants;

pub use connection::{Connection, admin_credentials, app_credentials};
pub use error::{Error, PatternError};
pub use files::migrations_directory;
pub use inspect::{Problem, inspect};
pub use order::{DEFAULT_LOGIN, Inventory, Overrides, check_module, default_login};
pub use pattern::Pattern;
pub use place::{LoginRole, Place, TENANT_COLUMN};
pub use provision::{Provisioned, SCRAM_ITERATIONS, check_admin, provision, set_logins, verifier};
pub use tenants::{Control, Created, NewTenant, chain, generate_password};
