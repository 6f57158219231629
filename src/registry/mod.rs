//! Which tenant lives where: the stores, the cache in front of them, and word of changes.

mod activity;
mod admin;
mod cache;
mod change;
mod common;
mod config;
mod connect;
mod contents;
mod database;
mod edits;
mod error;
mod file;
mod handle;
mod imports;
mod instances;
mod leases;
mod migrations;
mod queries;
mod record;
mod rows;
mod snapshot;
mod standing;
mod toml_format;
mod transaction;
mod watch;

pub use activity::{Activity, Use};
pub use admin::{Admin, Lock};
pub use change::Change;
pub use config::Config;
pub use connect::{check_url, connection_settings};
pub use contents::{Contents, Problem, Problems};
pub use edits::{Difference, Edit, Edits, differences};
pub use error::{RegistryError, Unavailable};
pub use handle::{ReadAgain, Registry};
pub use imports::ImportRecord;
pub use instances::Instance;
pub use leases::{Ask, Lease, Leases, Wish};
pub use migrations::MigrationState;
pub use rows::{
    Filter, LogEntry, ModuleRow, PlacementRow, PlacementStatus, PlacementVersion, Put, TenantDetails, TenantRow,
};
pub use standing::Standing;
pub use transaction::Transaction;
