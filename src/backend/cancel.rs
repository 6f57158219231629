//! Cancel requests to servers.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::endpoint::{Encryption, Endpoint};
use super::error::ConnectError;
use crate::net::Peer;

/// The code of a CancelRequest.
const CANCEL_REQUEST: u32 = (1234 << 16) | 5678;

/// Where a cancel request for one session goes. May be sent from any thread.
#[derive(Debug, Clone)]
pub struct CancelTarget {
    /// The server.
    pub endpoint: Arc<Endpoint>,
    /// The very address the session is connected to: a host name may have several.
    pub peer: Peer,
    /// Whether the session is encrypted; the key then is too.
    pub encrypted: bool,
}

/// Asks a server to cancel what a session is doing, and waits until it has closed the connection: from then on the request
/// can hit no later statement. Bounded by the endpoint's time-out. Needs a runtime, any one.
///
/// # Errors
/// [`ConnectError`]. Whether anything was cancelled the server never says.
pub async fn cancel(target: &CancelTarget, process_id: i32, secret: &[u8]) -> Result<(), ConnectError> {
    if secret.is_empty() {
        return Err(ConnectError::NoCancelKey);
    }
    let limit = target.endpoint.timeout();
    timeout(limit, send(target, process_id, secret)).await.unwrap_or(Err(ConnectError::Timeout(limit)))
}

async fn send(target: &CancelTarget, process_id: i32, secret: &[u8]) -> Result<(), ConnectError> {
    let CancelTarget { endpoint, peer, encrypted } = target;
    let host = match peer {
        Peer::Tcp(address) => address.ip().to_string(),
        Peer::Unix | Peer::Gone => endpoint.address().host.clone(),
    };
    let encryption = if *encrypted { Encryption::AsConfigured } else { Encryption::Plain };
    let mut stream = endpoint.open(&host, encryption).await?;
    if *encrypted && stream.tls().is_none() {
        return Err(ConnectError::TlsRefused);
    }
    let request = request(process_id, secret);
    stream.write_all(&request).await.map_err(ConnectError::io("send a cancel request"))?;
    stream.flush().await.map_err(ConnectError::io("send a cancel request"))?;
    // The server answers nothing, or with an error that says no more than the close does. However it closes, it is done.
    let mut rest = [0; 256];
    while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
    Ok(())
}

/// A CancelRequest: the secret may have any length that a protocol version gives it.
fn request(process_id: i32, secret: &[u8]) -> BytesMut {
    let length = u32::try_from(12 + secret.len()).unwrap_or(u32::MAX);
    let mut request = BytesMut::with_capacity(12 + secret.len());
    request.put_u32(length);
    request.put_u32(CANCEL_REQUEST);
    request.put_i32(process_id);
    request.put_slice(secret);
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancel_request_carries_keys_of_any_length() {
        assert_eq!(&request(7, &[1, 2, 3, 4])[..], b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x07\x01\x02\x03\x04");
        assert_eq!(request(7, &[9; 32]).len(), 44);
        assert_eq!(request(7, &[9; 32])[3], 44);
    }
}
