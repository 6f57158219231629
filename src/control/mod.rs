//! The control plane: makes and changes tenants on real servers and in the registry.

mod adopt;
mod connection;
mod database;
mod error;
mod files;
mod finish;
mod inspect;
mod logins;
mod order;
mod pattern;
mod place;
mod provision;
mod removal;
mod roles;
mod schema;
mod steps;
mod subscribe;
mod template;
mod tenants;

pub use connection::{Connection, admin_credentials, app_credentials};
pub use error::{Error, PatternError};
pub use files::migrations_directory;
pub use finish::Reconciled;
pub use inspect::{Problem, inspect};
pub use logins::LoginMade;
pub use order::{DEFAULT_LOGIN, Inventory, Overrides, check_module, default_login};
pub use pattern::Pattern;
pub use place::{LoginRole, Place, TENANT_COLUMN};
pub use provision::{Provisioned, SCRAM_ITERATIONS, check_admin, provision, verifier};
pub use steps::Steps;
pub use subscribe::Subscription;
pub use tenants::{Control, Created, NewTenant, chain, generate_password};
