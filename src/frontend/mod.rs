//! The side that faces clients: negotiation, startup, naming the tenant, authentication.

mod config;

pub use config::{ClientTls, DefaultTenantPhase, IdentifyConfig, ListenConfig};
