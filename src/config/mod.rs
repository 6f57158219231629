//! The configuration file and the environment: composes each module's own Config and checks it once.

mod changes;
mod check;
mod environment;
mod error;
mod file;
mod known;

pub use changes::Change;
pub use check::Problem;
pub use environment::environment;
pub use error::{ConfigError, UnknownKey};
pub use file::{Config, ReloadConfig};
