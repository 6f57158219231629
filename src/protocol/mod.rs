//! PostgreSQL's wire protocol: bytes in, messages out, no I/O.

mod report;
mod sqlstate;

pub use report::{Report, Severity};
pub use sqlstate::SqlState;
