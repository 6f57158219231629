//! Which tenant lives where: the stores, the cache in front of them, and word of changes.

mod config;

pub use config::Config;
