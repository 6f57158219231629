//! The registry on real PostgreSQL.

mod admin;
mod changes;
mod fixture;
mod lookup;
mod outage;
mod scale;
