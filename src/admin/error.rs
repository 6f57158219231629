//! Why the HTTP side could not start.

use std::io;

/// A failure at the start; those of single requests are answers.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error("listen for HTTP on {address} ([http] address; empty for none)")]
    Listen {
        /// As configured.
        address: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Its thread could not be started.
    #[error("start the thread for HTTP")]
    Thread(#[source] io::Error),
}
