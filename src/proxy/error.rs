//! Why the proxy could not start.

use std::io;
use std::path::PathBuf;

use crate::net::TlsError;

/// A failure of the proxy as a whole; those of single sessions never get here.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The TCP address cannot be listened on.
    #[error("listen on {address}")]
    Listen {
        /// As configured.
        address: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The Unix socket cannot be listened on.
    #[error("listen on {}", path.display())]
    ListenUnix {
        /// The socket.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A socket that the process was started with is of no use.
    #[error("listen on the socket that this process was started with")]
    Inherited(#[source] io::Error),
    /// Another process listens on the Unix socket.
    #[error("another server listens on {}", .0.display())]
    SocketInUse(PathBuf),
    /// The certificate or key is of no use.
    #[error("TLS for clients")]
    Tls(#[from] TlsError),
    /// A relay thread could not be started.
    #[error("start a relay thread")]
    Thread(#[source] io::Error),
}
