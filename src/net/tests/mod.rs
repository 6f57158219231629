//! Real sockets on the loopback, certificates made on the spot, and what the tests of streams and of TLS share.

mod certificates;
mod streams;

use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use super::tls::{client_config, server_config, server_end_point};
use super::{Peer, ServerTls, Stream, TlsError, connect_tcp, server_name};
use crate::tenant::SslMode;

/// No test waits longer than this for anything.
const PATIENCE: Duration = Duration::from_secs(30);

struct Pki {
    directory: tempfile::TempDir,
}

impl Pki {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A certificate that signs itself, with its key, under two file names.
    fn self_signed(&self, name: &str, params: CertificateParams) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let (certificate_path, key_path) = (self.path(&format!("{name}.crt")), self.path(&format!("{name}.key")));
        std::fs::write(&certificate_path, certificate.pem()).unwrap();
        std::fs::write(&key_path, key.serialize_pem()).unwrap();
        (certificate_path, key_path)
    }

    fn localhost(&self) -> (PathBuf, PathBuf) {
        self.self_signed("localhost", CertificateParams::new(vec!["localhost".to_owned()]).unwrap())
    }

    fn server(&self) -> (Arc<ServerTls>, PathBuf) {
        let (certificate, key) = self.localhost();
        (server_config(&certificate, &key, None).unwrap(), certificate)
    }
}

async fn tcp_pair() -> (Stream, Stream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (Stream::from_tcp(client.unwrap()), Stream::from_tcp(accepted.unwrap().0))
}

/// Both ends of a TLS session: client, server.
async fn tls_pair(pki: &Pki) -> (Stream, Stream) {
    let (server, ca) = pki.server();
    let (client, accepted) = handshake(&server, SslMode::VerifyFull, Some(&ca), "localhost").await;
    (client.unwrap(), accepted.unwrap())
}

async fn handshake(
    server: &ServerTls,
    mode: SslMode,
    ca: Option<&Path>,
    host: &str,
) -> (std::io::Result<Stream>, std::io::Result<Stream>) {
    let (client, accepted) = tcp_pair().await;
    let config = client_config(mode, ca).unwrap().unwrap();
    let both = async {
        tokio::join!(client.connect_tls(server_name(host).unwrap(), config), accepted.accept_tls(&[], server))
    };
    tokio::time::timeout(PATIENCE, both).await.unwrap()
}

/// Bytes that no two places share.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i ^ (i >> 8) ^ (i >> 16)).to_le_bytes()[0]).collect()
}

async fn send(stream: &mut Stream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
}

async fn receive(stream: &mut Stream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut bytes)).await.unwrap().unwrap();
    bytes
}
