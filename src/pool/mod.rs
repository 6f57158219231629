//! Pools of anything: limits, waiting, idle and life times; knows no PostgreSQL.

mod config;

pub use config::Config;
