//! What the tests stand on: a shared PostgreSQL server, databases, roles and tenants of a test's own, the proxy, a raw client.

mod child;
mod naive;
mod postgres;
mod proxy;
mod watch;
pub(crate) mod wire;
mod world;

pub(crate) use child::{Child, Start};
pub(crate) use naive::Naive;
pub(crate) use postgres::{Database, Role, client_program, cluster, database, role, unique};
pub(crate) use proxy::{Running, connect, one, proxy, proxy_over, refusal, settings};
pub(crate) use watch::{Watch, until};
pub(crate) use wire::{Message, Wire};
pub(crate) use world::{MODULES, Tenant, World, world};
