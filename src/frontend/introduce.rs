//! Who a connection is from where balancers stand in front: their PROXY protocol header, taken from listed peers and from nobody else.

use std::io;

use tokio::io::AsyncReadExt;

use super::error::Error;
use crate::address::Network;
use crate::net::{Peer, Stream};
use crate::protocol::{PROXY_HEADER_BYTES, ProxyHeader};

/// Reads the header that a listed peer must begin with, and gives the stream the address that it tells. The streams of all others stay
/// as they are: a header of theirs is then no startup packet, and is refused as such. None when there is nobody to serve. The
/// caller bounds the time.
///
/// # Errors
/// [`Error::ProxyHeader`] for anything else than a header from a listed peer; the socket's.
pub async fn introduced(mut stream: Stream, balancers: &[Network]) -> Result<Option<Stream>, Error> {
    let is_balancer = match stream.peer() {
        Peer::Tcp(address) => balancers.iter().any(|network| network.contains(address.ip())),
        Peer::Unix | Peer::Gone => false,
    };
    if !is_balancer {
        return Ok(Some(stream));
    }
    let mut first = [0; PROXY_HEADER_BYTES];
    // Checks whether the port answers say nothing at all.
    match stream.read(&mut first).await {
        Ok(0) => return Ok(None),
        Ok(read) => stream.read_exact(&mut first[read..]).await.map(drop).map_err(left)?,
        Err(error) => return Err(Error::Io(error)),
    }
    let header = ProxyHeader::parse(&first)?;
    let mut rest = vec![0; header.rest.into()];
    stream.read_exact(&mut rest).await.map_err(left)?;
    if let Some(address) = header.source(&rest)? {
        stream.set_peer(Peer::Tcp(address));
    }
    Ok(Some(stream))
}

fn left(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::Closed("PROXY protocol header"),
        _ => Error::Io(error),
    }
}
