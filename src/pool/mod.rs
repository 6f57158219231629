//! Pools of anything: limits, waiting, idle and life times; knows no PostgreSQL.

mod backoff;
mod config;
mod error;
mod lender;
mod manage;
mod state;

#[cfg(test)]
mod tests;

pub use config::{Config, Limits, Pinning};
pub use error::CheckoutError;
pub use lender::{Checkout, Pool};
pub use manage::Manage;
pub use state::Stats;
