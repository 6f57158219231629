//! SCRAM-SHA-256 and -PLUS (RFC 5802, 7677, 5929) as PostgreSQL speaks them, both sides; messages in, messages out.

mod client;
mod error;
mod message;
mod server;
#[cfg(test)]
mod tests;

pub use client::Client;
pub use error::ScramError;
pub use server::{Server, ServerContinue};

/// The mechanism without channel binding.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// The mechanism with channel binding, offered under TLS only.
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";
