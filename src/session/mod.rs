//! One client session: checkout, relay, transaction state, pinning, checkin.

mod config;

pub use config::Config;
