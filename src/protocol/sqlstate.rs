//! The SQLSTATE codes that pgtenant itself sends or looks for (PostgreSQL, appendix A).

/// A five-character error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState(pub &'static str);

impl SqlState {
    /// All is well: notices.
    pub const SUCCESSFUL_COMPLETION: Self = Self("00000");
    /// Wrong password, unknown login, unknown tenant.
    pub const INVALID_PASSWORD: Self = Self("28P01");
    /// No tenant, conflicting tenants, suspended, address, TLS.
    pub const INVALID_AUTHORIZATION: Self = Self("28000");
    /// No such module.
    pub const INVALID_CATALOG_NAME: Self = Self("3D000");
    /// No such schema.
    pub const INVALID_SCHEMA_NAME: Self = Self("3F000");
    /// Not now, try again.
    pub const CANNOT_CONNECT_NOW: Self = Self("57P03");
    /// A limit was reached.
    pub const TOO_MANY_CONNECTIONS: Self = Self("53300");
    /// The backend cannot be reached or went away.
    pub const CONNECTION_FAILURE: Self = Self("08006");
    /// The peer broke the protocol.
    pub const PROTOCOL_VIOLATION: Self = Self("08P01");
    /// Shutdown, drain, kill.
    pub const ADMIN_SHUTDOWN: Self = Self("57P01");
    /// Not possible in this pool mode.
    pub const FEATURE_NOT_SUPPORTED: Self = Self("0A000");
    /// A client that left a transaction open too long.
    pub const IDLE_IN_TRANSACTION_TIMEOUT: Self = Self("25P03");
    /// A client that was idle too long.
    pub const IDLE_SESSION_TIMEOUT: Self = Self("57P05");
    /// A statement that took too long, or was cancelled.
    pub const QUERY_CANCELED: Self = Self("57014");
    /// No such prepared statement.
    pub const INVALID_SQL_STATEMENT_NAME: Self = Self("26000");
    /// The server refused a setting of the startup packet.
    pub const INVALID_PARAMETER_VALUE: Self = Self("22023");
    /// Text that is not in the encoding it should be in.
    pub const CHARACTER_NOT_IN_REPERTOIRE: Self = Self("22021");
    /// A setting or switch that clients may not use.
    pub const INSUFFICIENT_PRIVILEGE: Self = Self("42501");
    /// Text that cannot be read.
    pub const SYNTAX_ERROR: Self = Self("42601");
    /// A setting that does not exist.
    pub const UNDEFINED_OBJECT: Self = Self("42704");
    /// Something that should not happen.
    pub const INTERNAL_ERROR: Self = Self("XX000");
}
