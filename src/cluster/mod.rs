//! A temporary PostgreSQL server: for the demo, the tests and the benchmarks.

mod error;
mod install;
mod server;
mod supervisor;
mod template;

pub use error::Error;
pub use install::Install;
pub use server::{Builder, Cluster};
