//! PostgreSQL's wire protocol: bytes in, messages out, no I/O.

mod effects;
mod frame;
mod messages;
mod options;
mod parameters;
mod pending;
mod proxy_header;
mod report;
mod schema;
mod sqlstate;
mod startup;
mod statement;
mod tokens;

pub use effects::Effects;
pub use frame::{HEADER_BYTES, Header, LengthError, WHOLE_BYTES_MAX, check_frontend, cstring, error_field, header};
pub use messages::{authentication_ok, backend_key_data, parameter_status, ready_for_query};
pub use options::{OptionSetting, OptionsError, parse_options};
pub use parameters::{How, Parameters, Touch, parameters_of, path};
pub use pending::{Answer, Fate, Owed, Pending, Refusal};
pub use proxy_header::{PROXY_HEADER_BYTES, ProxyHeader, ProxyHeaderError};
pub use report::{Report, Severity};
pub use schema::changes_schema;
pub use sqlstate::SqlState;
pub use startup::{
    Announced, CancelKey, Protocol, STARTUP_BYTES_MAX, STARTUP_HEADER_BYTES, Startup, StartupError, encode_negotiation,
    is_protocol_option, startup_length,
};
pub use statement::{StatementScan, effects_of};
pub use tokens::{deallocated, names_a_moment};
