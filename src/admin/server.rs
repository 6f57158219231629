//! The HTTP server, on a thread of its own: neither relaying nor logging in ever waits for it.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};

use super::config::Config;
use super::error::Error;
use super::guard::Guard;
use super::plane::Plane;
use super::routes::routes;
use crate::auth::Secret;

/// Most connections at one time; others wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// How long a caller may take over the head of a request; also how long a connection may be silent between two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one connection may last, whatever it does.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(600);
/// Longest head of a request.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most headers of a request.
const HEADERS_MAX: usize = 64;
/// Wait after a failure to accept, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A running HTTP server; it ends when dropped.
pub struct Server {
    address: SocketAddr,
    guard: Arc<Guard>,
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens and answers, if the configuration names an address.
    ///
    /// # Errors
    /// [`Error`]: the address or the thread.
    pub fn start(config: &Config, plane: Arc<impl Plane>) -> Result<Option<Self>, Error> {
        if config.address.is_empty() {
            return Ok(None);
        }
        let listen = |source| Error::Listen { address: config.address.clone(), source };
        let listener = std::net::TcpListener::bind(&config.address).map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let guard = Arc::new(Guard::default());
        guard.set(config.token.clone());
        let routes = routes(plane, &guard, config.tenant_labels);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Thread)?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("http".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    Err(error) = serve(listener, routes) => tracing::error!(%error, "HTTP is not served"),
                    // Its sender says nothing; it goes.
                    _ = stopped => {}
                }
            });
        });
        Ok(Some(Self { address, guard, stop: Some(stop), thread: Some(thread.map_err(Error::Thread)?) }))
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Asks for another token from now on.
    pub fn set_token(&self, token: Option<Secret>) {
        self.guard.set(token);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread for HTTP panicked");
        }
    }
}

async fn serve(listener: std::net::TcpListener, routes: Router) -> io::Result<Infallible> {
    let listener = TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?;
        match listener.accept().await {
            Ok((stream, _)) => {
                let connection = connection(stream, routes.clone());
                tokio::spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting an HTTP connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, routes: Router) {
    let service = TowerToHyperService::new(routes);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "HTTP connection"),
        Err(_) => tracing::debug!("HTTP connection lasted too long"),
    }
}
