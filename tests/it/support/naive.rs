//! A pooler as one writes it in an afternoon: one login for all, a path set at the beginning of a session, nothing cleaned up at its end.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use pgtenant::tenant::quote_ident;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

use super::postgres::cluster;
use super::wire::{Wire, message, startup};

/// Terminate, as drivers send it last.
const TERMINATE: [u8; 5] = [b'X', 0, 0, 0, 4];

/// Serves users of these names, each in its own schema of a database, as the superuser.
pub(crate) struct Naive {
    database: String,
    schemas: HashMap<String, String>,
    /// The only connection to the server; one of its own for each client where there is none.
    common: Option<Mutex<Wire>>,
}

impl Naive {
    /// Starts one over a single connection, or over as many as there are clients.
    pub(crate) async fn start(database: &str, schemas: &[(&str, &str)], is_single: bool) -> SocketAddr {
        let mut naive = Self {
            database: database.to_owned(),
            schemas: schemas.iter().map(|(user, schema)| ((*user).to_owned(), (*schema).to_owned())).collect(),
            common: None,
        };
        if is_single {
            naive.common = Some(Mutex::new(naive.server().await));
        }
        let naive = Arc::new(naive);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&naive).serve(client));
            }
        });
        address
    }

    async fn server(&self) -> Wire {
        let cluster = cluster().await;
        let address = SocketAddr::new(cluster.host().parse().expect("an address"), cluster.port());
        let startup = startup(&[("user", cluster.superuser()), ("database", &self.database)]);
        Wire::login_with(address, &startup, cluster.password()).await.expect("log in")
    }

    async fn serve(self: Arc<Self>, mut client: TcpStream) {
        let Some(schema) = self.begin(&mut client).await else { return };
        match &self.common {
            Some(common) => relay(&mut client, &mut *common.lock().await, &schema).await,
            None => relay(&mut client, &mut self.server().await, &schema).await,
        }
    }

    /// Reads who the client is; nobody is asked for a password.
    async fn begin(&self, client: &mut TcpStream) -> Option<String> {
        let length = client.read_u32().await.ok()? as usize;
        let mut body = vec![0; length.checked_sub(4)?];
        client.read_exact(&mut body).await.ok()?;
        let mut words = body[4..].split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        words.find(|word| word == "user")?;
        self.schemas.get(&words.next()?).cloned()
    }
}

/// Passes on what both say until the client goes.
async fn relay(client: &mut TcpStream, server: &mut Wire, schema: &str) {
    let answer = server.query(&format!("SET search_path = {}", quote_ident(schema))).await;
    let status = answer.last().map_or(b'I', |ready| ready.body[0]);
    let hello = [message(b'R', &[0; 4]), message(b'K', &[0; 8]), message(b'Z', &[status])].concat();
    if client.write_all(&hello).await.is_err() {
        return;
    }
    let (mut up, mut down) = (vec![0; 16384], vec![0; 16384]);
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let Ok(length @ 1..) = read else { return };
                let bytes = &up[..length];
                server.send(bytes.strip_suffix(&TERMINATE).unwrap_or(bytes)).await;
            }
            read = server.stream.read(&mut down) => {
                let Ok(length @ 1..) = read else { return };
                if client.write_all(&down[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}
