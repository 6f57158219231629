//! The whole proxy between a hostile client and a hostile server: whatever both say, in whatever order, nothing panics, the session ends
//! when its client has left, and the next client is served.

#![no_main]

use std::collections::VecDeque;
use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use pgtenant::auth::scram::{Client, SCRAM_SHA_256, Server};
use pgtenant::auth::{Credential, Keys, Secret, Verifier};
use pgtenant::net::EngineChoice;
use pgtenant::proxy::{self, Proxy};
use pgtenant::registry::{self, Registry};
use pgtenant::{console, frontend, limits, pool, session};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::time::timeout;

const PORT: u16 = 5432;
const PROXY_PORT: u16 = 6432;
/// A client that nobody answers waits this long, since a server may well keep silent.
const PATIENCE: Duration = Duration::from_millis(3);
/// How often it is looked whether the session has ended after its client; counted, not timed, so that a run may be stopped and go on.
const LOOKS_MAX: u32 = 50_000;
/// A login is answered long before; a run may be stopped for a while and go on.
const END: Duration = Duration::from_secs(3600);
const SAID_MAX: usize = 64;
const CANCEL_REQUEST: u32 = 80_877_102;
/// Kinds of messages that sides like to send.
const CLIENT_KINDS: &[u8] = b"QPBEDCSHFdcfX";
const SERVER_KINDS: &[u8] = b"123ACDEGHINSTVWZcdnst";
const TEXTS: &[&str] = &[
    "SELECT 1",
    "BEGIN",
    "COMMIT",
    "SET search_path = a",
    "PREPARE p AS SELECT 1",
    "DEALLOCATE ALL",
    "DISCARD ALL",
    "LISTEN a",
    "COPY t FROM STDIN",
    "SET LOCAL timezone = 'UTC'; SELECT pg_advisory_lock(1)",
    "CREATE TEMP TABLE t ()",
    "SELECT set_config('a.b', 'c', false)",
];

/// What the server of this run says, one entry for each time it is told something.
type Script = Arc<Mutex<VecDeque<Vec<u8>>>>;

struct Place {
    runtime: Runtime,
    proxy: Proxy,
    socket: std::path::PathBuf,
    keys: Keys,
    script: Script,
    _directory: tempfile::TempDir,
}

static PLACE: LazyLock<Place> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let directory = tempfile::tempdir().expect("a directory");
    let verifier = Verifier::generate("a password", 4096);
    let keys = keys(&verifier);
    let script = Script::default();
    let proxy = runtime.block_on(start(directory.path(), &verifier, &script));
    let socket = directory.path().join(format!(".s.PGSQL.{PROXY_PORT}"));
    Place { runtime, proxy, socket, keys, script, _directory: directory }
});

async fn start(directory: &Path, verifier: &Verifier, script: &Script) -> Proxy {
    let listener = StdListener::bind(directory.join(format!(".s.PGSQL.{PORT}"))).expect("a socket");
    listener.set_nonblocking(true).expect("a socket that does not block");
    tokio::spawn(serve(UnixListener::from_std(listener).expect("a listener"), Arc::clone(script)));
    let file = directory.join("tenants.toml");
    std::fs::write(directory.join("secret"), "postgres://service:secret@localhost/common").expect("a file");
    std::fs::write(&file, registry_of(directory, verifier)).expect("a file");
    let registry = registry::Config { file: Some(file), ..Default::default() };
    let registry = Registry::open(&registry).await.expect("a registry");
    let listen = frontend::ListenConfig {
        address: String::new(),
        unix_socket_dir: Some(directory.to_owned()),
        threads: 1,
        engine: if std::env::var_os("FUZZ_EPOLL").is_some() { EngineChoice::Epoll } else { EngineChoice::Auto },
        ..Default::default()
    };
    let config = proxy::Config {
        listen,
        identify: frontend::IdentifyConfig::default(),
        pool: pool::Config { size: 2, keep_unnamed_statements: vec!["main".to_owned()], ..Default::default() },
        limits: limits::Config::default(),
        timeouts: session::Config::default(),
        console: console::Config::default(),
    };
    Proxy::start(config, registry).await.expect("a proxy")
}

/// One tenant with a place of its own, in transaction and in session mode, and one in a shared pool.
fn registry_of(directory: &Path, verifier: &Verifier) -> String {
    let host = directory.to_str().expect("a path of text");
    format!(
        r#"
        [[server]]
        name = "one"
        host = "{host}"
        port = {PORT}
        app_secret = "file:{host}/secret"
        [[module]]
        name = "pooled"
        isolation = "schema"
        server = "one"
        database = "common"
        pooling = "shared"
        [[module]]
        name = "main"
        isolation = "database"
        server = "one"
        [[module]]
        name = "long"
        isolation = "database"
        server = "one"
        pool_mode = "session"
        [[tenant]]
        id = "6f9a2a6e-3f5e-4d0e-9c53-0d1f5a9f0001"
        slug = "acme"
        [[tenant.placement]]
        module = "main"
        database = "acme"
        role = "app"
        [[tenant.placement]]
        module = "long"
        database = "acme_long"
        role = "app"
        [[tenant.placement]]
        module = "pooled"
        schema = "acme"
        [[tenant.login]]
        login = "app"
        role = "app"
        verifier = "{verifier}"
        [[tenant]]
        id = "6f9a2a6e-3f5e-4d0e-9c53-0d1f5a9f0002"
        slug = "globex"
        [[tenant.placement]]
        module = "pooled"
        schema = "globex"
        [[tenant.login]]
        login = "app"
        role = "globex"
        verifier = "{verifier}"
        "#
    )
}

fn keys(verifier: &Verifier) -> Keys {
    let mut client = Client::new(Credential::Password(Secret::new("a password".to_owned())), None);
    let mechanism = client.mechanism(&[SCRAM_SHA_256]).expect("a mechanism");
    let (server, first) = Server::new(verifier, true, None).start(mechanism, &client.first()).expect("a first message");
    server.finish(&client.update(&first).expect("a proof")).expect("the right password").1
}

fuzz_target!(|bytes: &[u8]| {
    let Some((mode, rest)) = bytes.split_first() else { return };
    let (client, server) = script(rest);
    let place = &*PLACE;
    place.runtime.block_on(async {
        // A server that is silent while a session begins is waited for so long that not many inputs may have that.
        let is_early = mode & 0x78 == 0x78;
        if is_early {
            place.script.lock().expect("a script").clone_from(&server);
        }
        let (tenant, module) = match mode & 3 {
            0 => ("acme", "main"),
            1 => ("acme", "long"),
            2 => ("acme", "pooled"),
            _ => ("globex", "pooled"),
        };
        let Some(mut stream) = log_in(place, tenant, module).await else { return };
        if !is_early {
            *place.script.lock().expect("a script") = server;
        }
        talk(&mut stream, client, mode & 4 != 0).await;
        drop(stream);
        place.script.lock().expect("a script").clear();
        let mut looks = 0;
        while place.proxy.clients() > 0 {
            looks += 1;
            if looks > LOOKS_MAX {
                panic!("a session stays behind its client: {:?}", place.proxy.snapshot().await);
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    });
});

/// What both sides say: each entry begins with a byte for who says it and how, and one for the length of what follows.
fn script(mut bytes: &[u8]) -> (VecDeque<Vec<u8>>, VecDeque<Vec<u8>>) {
    let (mut client, mut server) = (VecDeque::<Vec<u8>>::new(), VecDeque::<Vec<u8>>::new());
    while let Some((&[how, length], rest)) = bytes.split_first_chunk::<2>() {
        let (body, rest) = rest.split_at(rest.len().min(usize::from(length)));
        bytes = rest;
        let (side, kinds) = if how & 1 == 0 { (&mut client, CLIENT_KINDS) } else { (&mut server, SERVER_KINDS) };
        let kind = kinds[usize::from(how >> 3) % kinds.len()];
        let said = match how >> 1 & 3 {
            0 => body.to_vec(),
            1 if how & 1 == 0 => {
                let text = TEXTS[usize::from(length) % TEXTS.len()];
                if kind == b'P' {
                    message(b'P', &[b"s\0", text.as_bytes(), b"\0\0\0"].concat())
                } else {
                    message(b'Q', &[text.as_bytes(), b"\0"].concat())
                }
            }
            // An answer in order, made when it is asked for.
            1 => Vec::new(),
            _ => message(kind, body),
        };
        // Several in one write.
        let joined = how & 6 == 6 && !side.is_empty();
        if let Some(last) = side.back_mut().filter(|_| joined) {
            last.extend_from_slice(&said);
        } else if side.len() < SAID_MAX {
            side.push_back(said);
        }
    }
    (client, server)
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a short message");
    [&[kind], &length.to_be_bytes()[..], body].concat()
}

async fn log_in(place: &Place, tenant: &str, module: &str) -> Option<UnixStream> {
    let mut stream = UnixStream::connect(&place.socket).await.expect("a connection to the proxy");
    let startup = format!("user\0app\0tenant\0{tenant}\0database\0{module}\0\0");
    let length = u32::try_from(startup.len() + 8).expect("a short packet");
    let packet = [&length.to_be_bytes()[..], &(3_u32 << 16).to_be_bytes(), startup.as_bytes()].concat();
    stream.write_all(&packet).await.ok()?;
    let mut client = Client::new(Credential::Keys(place.keys.clone()), None);
    let _ = client.mechanism(&[SCRAM_SHA_256]);
    expect(&mut stream, b'R').await?;
    let first = client.first();
    let length = u32::try_from(first.len()).expect("a short message");
    let body = [SCRAM_SHA_256.as_bytes(), b"\0", &length.to_be_bytes(), &first].concat();
    stream.write_all(&message(b'p', &body)).await.ok()?;
    let answer = expect(&mut stream, b'R').await?;
    let proof = client.update(&answer[4..]).expect("a proof");
    stream.write_all(&message(b'p', &proof)).await.ok()?;
    while expect(&mut stream, 0).await?.as_slice() != b"I" {}
    Some(stream)
}

/// The body of the next message, of this kind unless zero; none when the session was refused, as it is without a server.
async fn expect(stream: &mut UnixStream, kind: u8) -> Option<Vec<u8>> {
    let mut head = [0; 5];
    timeout(END, stream.read_exact(&mut head)).await.expect("the proxy answers a login").ok()?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    let mut body = vec![0; length - 4];
    stream.read_exact(&mut body).await.ok()?;
    (head[0] != b'E' && (kind == 0 || head[0] == kind)).then_some(body)
}

async fn talk(stream: &mut UnixStream, said: VecDeque<Vec<u8>>, waits: bool) {
    let (mut read, mut write) = stream.split();
    let speak = async {
        for words in said {
            if write.write_all(&words).await.is_err() {
                return;
            }
            if waits {
                tokio::time::sleep(Duration::from_micros(300)).await;
            }
        }
        _ = write.shutdown().await;
    };
    let listen = async {
        let mut heard = [0; 4096];
        while let Ok(Ok(1..)) = timeout(PATIENCE, read.read(&mut heard)).await {}
    };
    tokio::join!(speak, listen);
}

async fn serve(listener: UnixListener, script: Script) {
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        tokio::spawn(session(stream, Arc::clone(&script)));
    }
}

/// Logs anyone in, then says what the script has; in order where it has nothing more.
async fn session(mut stream: UnixStream, script: Script) -> Option<()> {
    let mut heard = vec![0; 16 * 1024];
    let count = stream.read(&mut heard).await.ok()?;
    if heard[..count].get(4..8) == Some(&CANCEL_REQUEST.to_be_bytes()) {
        return None;
    }
    let start = [
        message(b'R', &[0; 4]),
        message(b'S', b"server_version\x0015.1\0"),
        message(b'S', b"client_encoding\0UTF8\0"),
        message(b'K', &[0, 0, 0, 9, 1, 2, 3, 4]),
        message(b'Z', b"I"),
    ];
    stream.write_all(&start.concat()).await.ok()?;
    loop {
        let count = stream.read(&mut heard).await.ok().filter(|count| *count > 0)?;
        let next = script.lock().expect("a script").pop_front().unwrap_or_default();
        let answer = if next.is_empty() { in_order(&heard[..count]) } else { next };
        stream.write_all(&answer).await.ok()?;
    }
}

/// The answers that messages have when nothing is wrong with them.
fn in_order(mut heard: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    while let Some((head, rest)) = heard.split_first_chunk::<5>() {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        match head[0] {
            // There is any schema.
            b'Q' if heard.windows(12).any(|text| text == b"pg_namespace") => {
                answer.extend(
                    [message(b'D', &[0, 1, 0, 0, 0, 1, b'1']), message(b'C', b"SELECT 1\0"), message(b'Z', b"I")]
                        .concat(),
                );
            }
            b'Q' => answer.extend([message(b'C', b"SELECT 0\0"), message(b'Z', b"I")].concat()),
            b'S' => answer.extend(message(b'Z', b"I")),
            b'P' => answer.extend(message(b'1', b"")),
            b'B' => answer.extend(message(b'2', b"")),
            b'C' => answer.extend(message(b'3', b"")),
            b'D' => answer.extend(message(b'n', b"")),
            b'E' => answer.extend(message(b'C', b"SELECT 0\0")),
            _ => {}
        }
        heard = rest.get(length.saturating_sub(4)..).unwrap_or_default();
    }
    answer
}
