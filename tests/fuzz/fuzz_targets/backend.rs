//! A hostile server: what it says while pgtenant logs in, looks for a schema and asks something, in any pieces.

#![no_main]

use std::os::unix::net::UnixListener as StdListener;
use std::sync::LazyLock;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use pgtenant::auth::scram::{Client, SCRAM_SHA_256, Server};
use pgtenant::auth::{Credential as Known, Keys, Secret, Verifier};
use pgtenant::backend::{Credential, Endpoint, ServerAddress, Target, connect, simple};
use pgtenant::net::Stream;
use pgtenant::tenant::SslMode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;

/// Nothing here waits for this: the server closes when it has said everything.
const LIMIT: Duration = Duration::from_secs(10);
const PORT: u16 = 5432;

struct Place {
    runtime: Runtime,
    directory: tempfile::TempDir,
    listener: UnixListener,
    keys: Keys,
}

static PLACE: LazyLock<Place> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let directory = tempfile::tempdir().expect("a directory");
    let listener = StdListener::bind(directory.path().join(format!(".s.PGSQL.{PORT}"))).expect("a socket");
    listener.set_nonblocking(true).expect("a socket that does not block");
    let entered = runtime.enter();
    let listener = UnixListener::from_std(listener).expect("a listener");
    drop(entered);
    Place { runtime, directory, listener, keys: keys() }
});

/// With keys there is no PBKDF2 to wait for.
fn keys() -> Keys {
    let verifier = Verifier::generate("a password", 4096);
    let mut client = Client::new(Known::Password(Secret::new("a password".to_owned())), None);
    let mechanism = client.mechanism(&[SCRAM_SHA_256]).expect("a mechanism");
    let (server, first) =
        Server::new(&verifier, true, None).start(mechanism, &client.first()).expect("a first message");
    server.finish(&client.update(&first).expect("a proof")).expect("the right password").1
}

fuzz_target!(|bytes: &[u8]| {
    let Some((mode, words)) = bytes.split_first() else { return };
    let place = &*PLACE;
    let piece = usize::from(mode >> 3).max(1) * 7;
    if mode & 1 == 0 {
        place.runtime.block_on(login(place, *mode, words, piece));
    } else {
        place.runtime.block_on(question(words, piece));
    }
});

async fn login(place: &Place, mode: u8, words: &[u8], piece: usize) {
    let address = ServerAddress {
        name: "one".parse().expect("a name"),
        host: place.directory.path().to_str().expect("a path of text").to_owned(),
        port: PORT,
        sslmode: SslMode::Disable,
        ca_file: None,
    };
    let credential = match mode >> 1 & 3 {
        0 => Credential::Nothing,
        1 => Credential::Password(Secret::new("a password".to_owned())),
        _ => Credential::Keys(place.keys.clone()),
    };
    let target = Target {
        endpoint: Endpoint::new(address, LIMIT),
        database: "d".to_owned(),
        user: "u".to_owned(),
        startup: vec![("search_path".to_owned(), "\"a\"".to_owned())],
        credential,
        require_schema: (mode & 8 != 0).then(|| "a".to_owned()),
    };
    let server = async {
        let (stream, _) = place.listener.accept().await.expect("a connection");
        speak(stream, words, piece).await;
    };
    let client = async {
        if let Ok(connected) = connect(&target).await {
            assert!(
                connected.secret.len() <= 256 && connected.parameters.len() <= 256 && connected.notices.len() <= 32
            );
        }
    };
    tokio::join!(client, server);
}

async fn question(words: &[u8], piece: usize) {
    let (near, far) = UnixStream::pair().expect("a pair of sockets");
    let client = async {
        let mut stream = Stream::from_unix(near);
        if let Ok(outcome) = simple(&mut stream, "SELECT 1", LIMIT).await {
            assert!(b"ITE".contains(&outcome.status));
        }
    };
    tokio::join!(client, speak(far, words, piece));
}

/// Says its words, then nothing more; what it is told goes nowhere.
async fn speak(mut stream: UnixStream, words: &[u8], piece: usize) {
    for piece in words.chunks(piece) {
        if stream.write_all(piece).await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
    if stream.shutdown().await.is_ok() {
        let mut heard = [0; 512];
        while stream.read(&mut heard).await.is_ok_and(|count| count > 0) {}
    }
}
