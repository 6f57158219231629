//! A tap between the proxy and the server, which counts round trips.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use anyhow::Result;

use crate::client::HOST;

/// Its threads end with the connections, and with this process.
pub(crate) struct Tap {
    pub(crate) port: u16,
    turns: Arc<AtomicU64>,
}

impl Tap {
    /// Listens, and passes on to the server.
    pub(crate) fn open(server_port: u16) -> Result<Self> {
        let listener = TcpListener::bind((HOST, 0))?;
        let (port, turns) = (listener.local_addr()?.port(), Arc::<AtomicU64>::default());
        let counter = Arc::clone(&turns);
        thread::spawn(move || {
            for proxy in listener.incoming().map_while(Result::ok) {
                if let Err(error) = join(proxy, server_port, &counter) {
                    eprintln!("the tap could not connect to the server: {error}");
                }
            }
        });
        Ok(Self { port, turns })
    }

    /// How often somebody sent to the server after it had answered.
    pub(crate) fn turns(&self) -> u64 {
        self.turns.load(Ordering::SeqCst)
    }
}

fn join(proxy: TcpStream, server_port: u16, turns: &Arc<AtomicU64>) -> std::io::Result<()> {
    let server = TcpStream::connect((HOST, server_port))?;
    proxy.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let answered = Arc::new(AtomicBool::new(true));
    let (up, down) = ((proxy.try_clone()?, server.try_clone()?), (server, proxy));
    let (asked, turns) = (Arc::clone(&answered), Arc::clone(turns));
    thread::spawn(move || {
        pass(up.0, up.1, || {
            if asked.swap(false, Ordering::SeqCst) {
                turns.fetch_add(1, Ordering::SeqCst);
            }
        });
    });
    thread::spawn(move || pass(down.0, down.1, || answered.store(true, Ordering::SeqCst)));
    Ok(())
}

/// Passes on what comes; the end of either side is the other's.
fn pass(mut from: TcpStream, mut to: TcpStream, seen: impl Fn()) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        seen();
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    // One that is closed already cannot be closed.
    let _ = (to.shutdown(Shutdown::Write), from.shutdown(Shutdown::Read));
}
