//! The sockets on which clients arrive.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::error::Error;
use crate::frontend::ListenConfig;
use crate::net::{Detached, accept_tcp, accept_unix, defer_accept, prepare_listener};

/// Connections that the kernel may queue.
const BACKLOG: i32 = 4096;
/// How long to wait when the process has no file descriptor left: accepting again at once would only spin.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
/// The port in the Unix socket's name when there is no TCP.
const DEFAULT_PORT: u16 = 6432;

/// Listening sockets that the process was started with (systemd's socket activation). They stay open when it ends.
#[derive(Debug, Default)]
pub struct Inherited {
    /// A TCP socket.
    pub tcp: Option<TcpListener>,
    /// A Unix socket.
    pub unix: Option<UnixListener>,
}

/// Where clients can connect.
pub(super) struct Listeners {
    tcp: Option<Arc<TcpListener>>,
    unix: Option<UnixSocket>,
}

/// The same, watched by the runtime of one thread.
pub(super) struct Watched {
    tcp: Option<AsyncFd<Arc<TcpListener>>>,
    unix: Option<AsyncFd<Arc<UnixListener>>>,
}

struct UnixSocket {
    listener: Arc<UnixListener>,
    path: PathBuf,
    /// Device and inode of the socket that was bound here; none where somebody else looks after it.
    bound: Option<(u64, u64)>,
}

impl Listeners {
    /// Takes what there is already, or else binds what is configured.
    pub(super) async fn take(inherited: Inherited, config: &ListenConfig) -> Result<Self, Error> {
        if inherited.tcp.is_none() && inherited.unix.is_none() {
            return Self::bind(config).await;
        }
        let tcp = inherited.tcp.map(adopt_tcp).transpose().map_err(Error::Inherited)?;
        let unix = inherited.unix.map(adopt_unix).transpose().map_err(Error::Inherited)?;
        Ok(Self { tcp, unix })
    }

    async fn bind(config: &ListenConfig) -> Result<Self, Error> {
        let reuse = config.reuse_port;
        let tcp = if config.address.is_empty() { None } else { Some(bind_tcp(&config.address, reuse).await?) };
        let taken = tcp.as_ref().and_then(|tcp| tcp.local_addr().ok());
        let port = taken.map_or(DEFAULT_PORT, |address| address.port());
        let unix = match &config.unix_socket_dir {
            Some(directory) => Some(bind_unix(directory.join(format!(".s.PGSQL.{port}")), reuse)?),
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
        self.unix.as_ref().map(|unix| unix.path.clone())
    }

    /// Has the runtime that this is called in watch for clients.
    ///
    /// # Errors
    /// The runtime's, when the kernel is short of memory.
    pub(super) fn watch(&self) -> io::Result<Watched> {
        let tcp = self.tcp.as_ref().map(watched).transpose()?;
        let unix = self.unix.as_ref().map(|unix| watched(&unix.listener)).transpose()?;
        Ok(Watched { tcp, unix })
    }
}

impl Watched {
    /// Those who have said nothing yet are to be let in, too, from now on.
    pub(super) fn hurry(&self) {
        if let Some(Err(error)) = self.tcp.as_ref().map(|tcp| defer_accept(tcp.get_ref().as_fd(), false)) {
            tracing::debug!(%error, "silent clients are not let in sooner");
        }
    }

    /// The next client, which belongs to no runtime yet. Cancel-safe.
    pub(super) async fn accept(&self) -> Detached {
        loop {
            let accepted = tokio::select! {
                accepted = next(self.tcp.as_ref(), |listener| accept_tcp(listener)) => accepted,
                accepted = next(self.unix.as_ref(), |listener| accept_unix(listener)) => accepted,
            };
            match accepted {
                Ok(client) => return client,
                Err(error) if is_exhausted(&error) => {
                    tracing::error!(%error, "no client can be accepted for now");
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
                Err(error) => tracing::debug!(%error, "client gone before it was accepted"),
            }
        }
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        // A successor may have put its own in the place.
        let Some(bound) = self.bound.filter(|bound| socket_at(&self.path) == Some(*bound)) else { return };
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, ?bound, "Unix socket was removed by somebody else");
        }
    }
}

async fn next<L: AsRawFd>(
    listener: Option<&AsyncFd<L>>,
    accept: impl FnMut(&L) -> io::Result<Detached>,
) -> io::Result<Detached> {
    match listener {
        Some(listener) => listener.async_io(Interest::READABLE, accept).await,
        None => std::future::pending().await,
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe because of values that change or close their descriptor; a listener does neither"
)]
fn watched<L: AsRawFd>(listener: &Arc<L>) -> io::Result<AsyncFd<Arc<L>>>
where
    Arc<L>: AsRawFd,
{
    AsyncFd::with_interest(Arc::clone(listener), Interest::READABLE)
}

fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

fn adopt_tcp(listener: TcpListener) -> io::Result<Arc<TcpListener>> {
    prepare_listener(&listener)?;
    defer_accept(listener.as_fd(), true)?;
    listener.set_nonblocking(true)?;
    Ok(Arc::new(listener))
}

fn adopt_unix(listener: UnixListener) -> io::Result<UnixSocket> {
    listener.set_nonblocking(true)?;
    let path = listener.local_addr()?.as_pathname().map(Path::to_path_buf).unwrap_or_default();
    Ok(UnixSocket { listener: Arc::new(listener), path, bound: None })
}

async fn bind_tcp(address: &str, reuse_port: bool) -> Result<Arc<TcpListener>, Error> {
    let failed = |source| Error::Listen { address: address.to_owned(), source };
    let resolved = tokio::net::lookup_host(address).await.map_err(failed)?.next();
    let resolved = resolved.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    let bind = || -> io::Result<Arc<TcpListener>> {
        let socket = Socket::new(Domain::for_address(resolved), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(reuse_port)?;
        prepare_listener(&socket)?;
        defer_accept(socket.as_fd(), true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&resolved.into())?;
        socket.listen(BACKLOG)?;
        Ok(Arc::new(socket.into()))
    };
    bind().map_err(failed)
}

/// A socket at this path. One that somebody listens on is left alone, or with `replace` put out of the way in one step: its
/// listener goes on with the clients that it has.
fn bind_unix(path: PathBuf, replace: bool) -> Result<UnixSocket, Error> {
    let failed = |source| Error::ListenUnix { path: path.clone(), source };
    // Somebody answers: it is in use. Nobody does: a leftover of a process that was killed.
    if !replace && socket_at(&path).is_some() && UnixStream::connect(&path).is_ok() {
        return Err(Error::SocketInUse(path));
    }
    let mut new = path.clone().into_os_string();
    new.push(format!(".{}", std::process::id()));
    let new = PathBuf::from(new);
    if socket_at(&new).is_some() {
        std::fs::remove_file(&new).map_err(failed)?;
    }
    let listener = UnixListener::bind(&new).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o777)).map_err(failed)?;
    std::fs::rename(&new, &path).map_err(failed)?;
    let bound = socket_at(&path);
    Ok(UnixSocket { listener: Arc::new(listener), path, bound })
}

/// Device and inode of the socket at this path, if there is one.
fn socket_at(path: &Path) -> Option<(u64, u64)> {
    let found = std::fs::symlink_metadata(path).ok().filter(|found| found.file_type().is_socket())?;
    Some((found.dev(), found.ino()))
}
