//! The admin console: a client of the database `pgtenant` asks what the proxy is doing, and tells it what to do.

mod command;
mod config;
mod rows;
mod session;
mod show;
mod tally;

pub use command::{Command, Which};
pub use config::{Config, Role, User};
pub use rows::{Rows, Value};
pub use session::{Operations, Setting, View, serve};
pub use show::{clients, pools};
pub use tally::Tally;

/// The database that is the console.
pub const DATABASE: &str = "pgtenant";
