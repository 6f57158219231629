//! Import: old registries of services, or a registry file, merged into the registry in one transaction, and taken back.

mod claims;
mod compare;
mod conflict;
mod error;
mod file;
mod group;
mod merge;
mod options;
mod outcome;
mod place;
mod rollback;
mod run;
mod source;

pub use compare::{Compared, Finding, Verified};
pub use conflict::{Conflict, Kind};
pub use error::ImportError;
pub use options::{Options, Prefer};
pub use outcome::{Imported, Touched};
pub use rollback::{Obstacle, RolledBack};
pub use source::Source;
