//! Opening connections: host names to addresses, addresses to streams.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;

use super::stream::Stream;

/// Longest wait for one address while the host has others to try; the last one may use all the time the caller gives.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(3);

/// Connects to a host by name or address, trying all its addresses in turn. A host that begins with `/` is the directory
/// of a Unix socket `.s.PGSQL.<port>`. The caller bounds the whole by a time-out of its own.
///
/// # Errors
/// The name has no address, or the error of the last address tried.
pub async fn connect_tcp(host: &str, port: u16) -> io::Result<Stream> {
    if host.starts_with('/') {
        let path = Path::new(host).join(format!(".s.PGSQL.{port}"));
        return Ok(Stream::from_unix(UnixStream::connect(path).await?));
    }
    let addresses: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    for (index, address) in addresses.iter().enumerate() {
        let attempt = TcpStream::connect(address);
        let result = if index + 1 == addresses.len() {
            attempt.await
        } else {
            timeout(ADDRESS_TIMEOUT, attempt).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        };
        match result {
            Ok(socket) => return Ok(Stream::from_tcp(socket)),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// The name under which a host shows itself in TLS. `None` for a Unix socket's directory and for what is no legal name.
#[must_use]
pub fn server_name(host: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(host.to_owned()).ok()
}
