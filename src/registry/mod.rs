//! Which tenant lives where: the stores, the cache in front of them, and word of changes.

mod admin;
mod config;
mod connect;
mod error;
mod migrations;
mod queries;
mod record;
mod rows;
mod transaction;

pub use admin::{Admin, Lock};
pub use config::Config;
pub use error::{RegistryError, Unavailable};
pub use migrations::MigrationState;
pub use rows::{LogEntry, ModuleRow, PlacementRow, PlacementStatus, Put, TenantDetails, TenantRow};
pub use transaction::Transaction;
