//! pgtenant gives every tenant of a service its own place in PostgreSQL: a pooling proxy that learns the tenant from the
//! connection, and the control plane that makes, changes and suspends tenants. ARCHITECTURE.md is the map.

pub mod address;
pub mod admin;
pub mod auth;
pub mod backend;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod console;
pub mod control;
mod fault;
pub mod frontend;
pub mod limits;
pub mod metrics;
pub mod net;
pub mod pool;
pub mod protocol;
pub mod proxy;
pub mod registry;
pub mod session;
pub mod telemetry;
pub mod tenant;
pub mod times;
pub mod verify;
