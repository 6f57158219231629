//! The side that faces PostgreSQL: connecting, server connections, cancel, and the pools of them.

mod cancel;
mod conn;
mod connect;
mod departure;
mod endpoint;
mod error;
mod fields;
mod frames;
mod health;
mod key;
mod login;
mod pools;
mod prepared;
mod query;
mod quotas;
mod servers;
mod target;
mod traffic;
mod want;

pub use cancel::{CancelTarget, cancel};
pub use conn::{Asserted, Context, ServerConn};
pub use connect::{Connected, connect};
pub use departure::Departure;
pub use endpoint::{Endpoint, ServerAddress};
pub use error::{Broken, ConnectError, QueryError};
pub use health::check_idle;
pub use key::PoolKey;
pub use pools::{Claims, PoolBudget, PoolState, Pools, PoolsFull, ServerState, Terms};
pub use prepared::{Preparation, PreparedSet, StatementId};
pub use query::{SimpleOutcome, has_schema, simple};
pub use quotas::{Quotas, ServerUse};
pub use servers::{ServerCheckout, ServerPool, Servers};
pub use target::{Credential, Target};
pub use traffic::{Totals, Traffic};
pub use want::{Want, digest};
