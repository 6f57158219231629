//! What the tests stand on: a shared PostgreSQL server, and databases and roles of a test's own.

mod postgres;

pub(crate) use postgres::{Database, Role, cluster, database, role, unique};
