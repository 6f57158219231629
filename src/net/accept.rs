//! Taking connections from a listening socket, for whichever runtime will serve them.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;

use rustix::net::{SocketFlags, accept_with, acceptfrom_with};

use super::socket::BareSocket;
use super::stream::{Detached, Peer};

/// As any runtime wants them.
const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// Takes the next connection of a listener that was [prepared](super::prepare_listener), at once or not at all.
///
/// # Errors
/// The system's; `WouldBlock` when there is none.
pub fn accept_tcp(listener: &TcpListener) -> io::Result<Detached> {
    let (socket, peer) = take_tcp(listener)?;
    Ok(Detached::new(BareSocket::Tcp(socket), peer))
}

fn take_tcp(listener: &TcpListener) -> io::Result<(TcpStream, Peer)> {
    let (socket, peer) = acceptfrom_with(listener, FLAGS)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    Ok((socket.into(), peer.map_or(Peer::Gone, Peer::Tcp)))
}

/// Takes the next connection of a Unix socket, at once or not at all.
///
/// # Errors
/// The system's; `WouldBlock` when there is none.
pub fn accept_unix(listener: &UnixListener) -> io::Result<Detached> {
    let socket = accept_with(listener, FLAGS)?;
    Ok(Detached::new(BareSocket::Unix(socket.into()), Peer::Unix))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use socket2::SockRef;

    use super::*;
    use crate::net::prepare_listener;
    use crate::net::socket::longest_rest;

    #[test]
    fn an_accepted_connection_has_the_options_of_its_listener_and_those_that_runtimes_need() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        prepare_listener(&listener).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, peer) = take_tcp(&listener).unwrap();
        let options = SockRef::from(&accepted);
        assert!(options.tcp_nodelay().unwrap() && options.keepalive().unwrap());
        assert_eq!(options.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
        assert_eq!(options.tcp_keepalive_interval().unwrap(), Duration::from_secs(10));
        assert_eq!(options.tcp_keepalive_retries().unwrap(), 6);
        // None of it on kernels that do not know it.
        assert!(longest_rest(&accepted).is_none_or(|rest| rest == Duration::from_secs(10)));
        assert!(options.nonblocking().unwrap());
        assert!(rustix::io::fcntl_getfd(&accepted).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        assert_eq!(peer, Peer::Tcp(client.local_addr().unwrap()));
        listener.set_nonblocking(true).unwrap();
        assert_eq!(accept_tcp(&listener).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_unix_peer_is_of_this_machine() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let _client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert_eq!(accept_unix(&listener).unwrap().peer(), &Peer::Unix);
    }
}
