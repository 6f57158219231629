//! What the tests stand on: a shared PostgreSQL server, databases, roles and tenants of a test's own, the proxy, a raw client.

mod postgres;
mod proxy;
pub(crate) mod wire;
mod world;

pub(crate) use postgres::{Database, Role, cluster, database, role, unique};
pub(crate) use proxy::{Running, connect, one, proxy, refusal};
pub(crate) use wire::Wire;
pub(crate) use world::{MODULES, Tenant, world};
