//! The registry on real PostgreSQL.

mod admin;
mod fixture;
