//! The side that faces operators over HTTP: whether the process lives and serves, what it counts, how its tenants fare.

mod config;
mod error;
mod guard;
mod plane;
mod ready;
mod routes;
mod server;

pub use config::Config;
pub use error::Error;
pub use plane::{Phase, Plane};
pub use server::Server;
