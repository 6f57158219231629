//! Sockets and TLS: byte streams that the floors above read and write.

mod accept;
mod connect;
mod engine;
mod error;
mod legacy;
mod look;
mod pace;
mod record;
mod ring;
mod socket;
mod stream;
#[cfg(test)]
mod tests;
pub mod tls;
mod verify;

pub use accept::{accept_tcp, accept_unix};
pub use connect::{connect_tcp, server_name};
pub use engine::{Engine, EngineChoice};
pub use error::TlsError;
pub use record::TlsInfo;
pub use socket::{PeerState, defer_accept, prepare_listener};
pub use stream::{Detached, Peer, Stream};
pub use tls::ServerTls;
