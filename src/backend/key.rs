//! What tells one pool from another.

use super::endpoint::ServerAddress;
use crate::tenant::{ModuleName, Placement, TenantId};

/// What connections may be common to: two clients with the same key may be served by the same connections. Names and ids
/// only; nothing in it is text of a client's choice.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// The tenant; none where the connections are all tenants'.
    pub tenant: Option<TenantId>,
    /// The module.
    pub module: ModuleName,
    /// The server.
    pub address: ServerAddress,
    /// The database.
    pub database: String,
    /// The role.
    pub user: String,
}

impl PoolKey {
    /// Whether a placement is still where this pool's connections go, whichever role they open.
    #[must_use]
    pub fn is_of(&self, placement: &Placement) -> bool {
        self.module == placement.terms.module
            && self.database == placement.database.as_str()
            && self.address == ServerAddress::new(&placement.server)
    }
}
