//! The side that faces clients: negotiation, startup, naming the tenant, authentication.

mod admit;
mod authenticate;
mod config;
mod error;
mod identify;
mod inbox;
mod introduce;
mod names;
mod open;
mod request;
mod settings;

pub use admit::{admit, allowed, module, served};
pub use authenticate::{Challenge, Proof, authenticate};
pub use config::{ClientTls, DefaultTenantPhase, IdentifyConfig, ListenConfig};
pub use error::Error;
pub use identify::{Claim, Directory, Identified, Request, Unknown, UnknownReason, default_tenant_notice, identify};
pub use introduce::introduced;
pub use names::Source;
pub use open::{Encryption, Opened, Opening, open, turn_away};
pub use settings::check_settings;

#[cfg(test)]
pub(crate) mod testing;
