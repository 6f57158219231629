//! The end of a server connection: its permits are given back when the server has let go of it, not before, so that a server
//! never has more sessions than it is to have.

use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use crate::net::Stream;
use crate::pool::Permits;

/// How long a server may take to end a session, which it does after the statement that runs there. Beyond that it is past counting.
const DEPARTURE_MAX: Duration = Duration::from_secs(600);
/// What a server still says is thrown away in pieces of this size.
const PIECE_BYTES: usize = 4 * 1024;

/// What a connection leaves behind.
#[derive(Debug)]
pub struct Departure {
    /// Taken by the first end.
    permits: Option<Permits>,
    /// Where it is waited for.
    front: Handle,
}

impl Departure {
    /// Of a connection with these permits, waited for on this runtime.
    #[must_use]
    pub const fn new(permits: Permits, front: Handle) -> Self {
        Self { permits: Some(permits), front }
    }

    /// The connection ends: gives the permits back when the server has ended it, too.
    pub(super) fn begin(&mut self, stream: &Stream) {
        let Some(permits) = self.permits.take() else { return };
        match stream.duplicate() {
            Ok(socket) => drop(self.front.spawn(async move {
                if tokio::time::timeout(DEPARTURE_MAX, gone(socket)).await.is_err() {
                    tracing::warn!("a server has not ended a session that was left");
                }
                drop(permits);
            })),
            Err(error) => tracing::debug!(%error, "end of a server connection is not waited for"),
        }
    }
}

/// Says goodbye, and waits until the server has done so. What is read and shut down is any stream's, a Unix socket's as well.
async fn gone(socket: OwnedFd) {
    let socket = std::net::TcpStream::from(socket);
    // A server that is gone already is as good as told.
    let Ok(Ok(mut socket)) = socket.shutdown(Shutdown::Write).map(|()| TcpStream::from_std(socket)) else { return };
    let mut piece = [0; PIECE_BYTES];
    while socket.read(&mut piece).await.is_ok_and(|read| read > 0) {}
}
