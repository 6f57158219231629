//! What one tenant tries on another: the checks of isolation, played by ordinary clients of a proxy.
//!
//! Nothing here makes or drops anything beyond what a tenant can. Who made the two tenants and the proxy is the caller's business; so is what becomes of the findings.

mod attempts;
mod catalogs;
mod check;
mod error;
mod identity;
mod leftovers;
mod places;
mod plans;
mod rows;
mod scene;
mod session;
mod settings;
mod signals;
mod startup;
mod turns;
mod verdict;

pub use check::{Check, all};
pub use error::Error;
pub use scene::{Ground, Probe, Scene};
pub use verdict::{Finding, Outcome, Verdict, Wall};
