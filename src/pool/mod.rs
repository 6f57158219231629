//! Pools of anything: limits, waiting, idle and life times, and what several have in common; knows no PostgreSQL.

mod account;
mod backoff;
mod config;
mod error;
mod lender;
mod manage;
mod partition;
mod parts;
mod quota;
mod share;
mod state;

#[cfg(test)]
mod quota_tests;
#[cfg(test)]
mod tests;

pub use account::{Account, Permits};
pub use config::{Config, Limits, Pinning};
pub use error::CheckoutError;
pub use lender::{Checkout, Pool};
pub use manage::Manage;
pub use partition::{Claim, partition};
pub use parts::Stats;
pub use quota::{Bell, Holding, Quota, Standing};
pub use share::{Lane, Share};
