//! The registry on real PostgreSQL.

mod admin;
mod changes;
mod fixture;
mod leases;
mod lookup;
mod outage;
mod scale;
