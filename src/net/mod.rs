//! Sockets and TLS: byte streams that the floors above read and write.
