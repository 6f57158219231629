//! The side that faces operators over HTTP: whether the process lives and serves, what it counts, how its tenants fare.

mod config;
mod error;
mod exposition;
mod guard;
mod ledger;
mod metrics;
mod page;
mod plane;
mod ready;
mod recent;
mod routes;
mod server;
mod state;
mod tenants;

pub use config::Config;
pub use error::Error;
pub use plane::{Moment, Phase, Plane};
pub use server::Server;
