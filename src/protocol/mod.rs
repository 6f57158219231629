//! PostgreSQL's wire protocol: bytes in, messages out, no I/O.

mod frame;
mod pending;
mod report;
mod sqlstate;
mod statement;

pub use frame::{HEADER_BYTES, Header, LengthError, WHOLE_BYTES_MAX, check_frontend, cstring, header};
pub use pending::{Owed, Pending};
pub use report::{Report, Severity};
pub use sqlstate::SqlState;
pub use statement::{Effects, StatementScan, effects_of};
