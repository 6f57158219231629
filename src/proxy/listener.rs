//! The sockets on which clients arrive.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::error::Error;
use crate::frontend::ListenConfig;
use crate::net::{Stream, prepare_listener};

/// Connections that the kernel may queue.
const BACKLOG: i32 = 4096;
/// How long to wait when the process has no file descriptor left: accepting again at once would only spin.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
/// The port in the Unix socket's name when there is no TCP.
const DEFAULT_PORT: u16 = 6432;

/// Where clients can connect.
pub(super) struct Listeners {
    tcp: Option<TcpListener>,
    unix: Option<(UnixListener, PathBuf)>,
}

impl Listeners {
    /// Binds what is configured.
    pub(super) async fn bind(config: &ListenConfig) -> Result<Self, Error> {
        let tcp = if config.address.is_empty() { None } else { Some(bind_tcp(&config.address).await?) };
        let port = tcp.as_ref().and_then(|tcp| tcp.local_addr().ok()).map_or(DEFAULT_PORT, |address| address.port());
        let unix = match &config.unix_socket_dir {
            Some(directory) => Some(bind_unix(&directory.join(format!(".s.PGSQL.{port}")))?),
            None => None,
        };
        Ok(Self { tcp, unix })
    }

    /// The TCP address, with the port that was taken if 0 was configured.
    pub(super) fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref()?.local_addr().ok()
    }

    /// The Unix socket.
    pub(super) fn unix_path(&self) -> Option<PathBuf> {
        self.unix.as_ref().map(|(_, path)| path.clone())
    }

    /// The next client.
    pub(super) async fn accept(&self) -> Stream {
        loop {
            let accepted = tokio::select! {
                accepted = accept_tcp(self.tcp.as_ref()) => accepted,
                accepted = accept_unix(self.unix.as_ref()) => accepted,
            };
            match accepted {
                Ok(stream) => return stream,
                Err(error) if is_exhausted(&error) => {
                    tracing::error!(%error, "no client can be accepted for now");
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
                Err(error) => tracing::debug!(%error, "client gone before it was accepted"),
            }
        }
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        if let Some((_, path)) = &self.unix
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::debug!(%error, "Unix socket was removed by somebody else");
        }
    }
}

async fn accept_tcp(listener: Option<&TcpListener>) -> io::Result<Stream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(socket, peer)| Stream::from_accepted(socket, peer)),
        None => std::future::pending().await,
    }
}

async fn accept_unix(listener: Option<&(UnixListener, PathBuf)>) -> io::Result<Stream> {
    match listener {
        Some((listener, _)) => listener.accept().await.map(|(socket, _)| Stream::from_unix(socket)),
        None => std::future::pending().await,
    }
}

fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

async fn bind_tcp(address: &str) -> Result<TcpListener, Error> {
    let failed = |source| Error::Listen { address: address.to_owned(), source };
    let resolved = tokio::net::lookup_host(address).await.map_err(failed)?.next();
    let resolved = resolved.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    let bind = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(resolved), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        prepare_listener(&socket)?;
        socket.set_nonblocking(true)?;
        socket.bind(&resolved.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    bind().map_err(failed)
}

fn bind_unix(path: &Path) -> Result<(UnixListener, PathBuf), Error> {
    let failed = |source| Error::ListenUnix { path: path.to_owned(), source };
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket {
        // Somebody answers: it is in use. Nobody does: a leftover of a process that was killed.
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(Error::SocketInUse(path.to_owned()));
        }
        std::fs::remove_file(path).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).map_err(failed)?;
    Ok((listener, path.to_owned()))
}
