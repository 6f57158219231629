//! Allocations of the relay thread for a transaction: the proxy runs in this process, and only threads that are not left out count.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use pgtenant::net::EngineChoice;
use pgtenant::proxy::{self, Proxy};
use pgtenant::registry::{self, Registry};
use pgtenant::{console, frontend, limits, pool, session};

use crate::client::{self, Client, Login};
use crate::crowd::{Crowd, QUESTION};
use crate::load;
use crate::place::{DATABASE, Place};
use crate::report::{Found, Row};
use crate::target::{self, ENGINES};

const CLIENTS: usize = 4;
/// Transactions of each client, after a tenth as many.
const TIMES: usize = 1_500;
const SELECT: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = 7";

/// The system's allocator, counted.
pub(crate) struct Counting;

static CALLS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static LEFT_OUT: Cell<bool> = const { Cell::new(false) };
}

/// What this thread allocates from now on does not count.
pub(crate) fn leave_out() {
    LEFT_OUT.set(true);
}

fn count(bytes: usize) {
    if !LEFT_OUT.get() {
        CALLS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

#[expect(unsafe_code, reason = "an allocator cannot be counted without; each call is passed on as it came")]
// SAFETY: the system's allocator keeps the contract, and counting neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as asked of us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as asked of us.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: as asked of us.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as asked of us.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Counts for each engine, each protocol, and the common pool.
pub(crate) async fn measure(place: &Place) -> Result<Found> {
    let crowd = Crowd::make(place, CLIENTS).await?;
    let own = place.write("allocations.toml", &target::one_tenant(place))?;
    let common = place.write("allocations_common.toml", &crowd.registry(place, place.cluster.port())?)?;
    let mut found = Found::default();
    for engine in ENGINES {
        let running = Running::start(engine, &own).await?;
        let login = running.login("app@acme".to_owned());
        let kinds =
            [("simple", client::query(SELECT)), ("extended", client::extended(SELECT)), ("prepared", client::run("s"))];
        for (kind, messages) in kinds {
            let mut clients = load::log_in(&login, CLIENTS, CLIENTS, &client::prepare("s", SELECT))?;
            let what = format!("allocations of a transaction, {kind}, {}", engine.name());
            found.rows.push(counted(what, &mut clients, CLIENTS, &messages)?);
        }
        running.stop().await;
        let running = Running::start(engine, &common).await?;
        for (kind, tenants) in [("of one tenant", 1), ("each of another tenant", CLIENTS)] {
            // One is asked at a time, so that one connection serves them all.
            let mut clients = Vec::new();
            for tenant in (0..tenants).cycle().take(CLIENTS) {
                clients.push(Client::login(&running.login(crowd.user(tenant)), None)?);
            }
            let what = format!("allocations of a transaction on a common pool, {kind}, {}", engine.name());
            found.rows.push(counted(what, &mut clients, 1, &client::query(QUESTION))?);
        }
        running.stop().await;
    }
    found.notes.push(
        "Allocations (and reallocations) are those of the relay thread: the bench's clients and the front runtime are left out."
            .to_owned(),
    );
    Ok(found)
}

fn counted(what: String, clients: &mut [Client], threads: usize, messages: &[u8]) -> Result<Row> {
    load::ask(clients, threads, TIMES / 10, messages)?;
    let before = (CALLS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed));
    let asked = load::ask(clients, threads, TIMES, messages)? as f64;
    let calls = (CALLS.load(Ordering::Relaxed) - before.0) as f64 / asked;
    let bytes = (BYTES.load(Ordering::Relaxed) - before.1) as f64 / asked;
    Ok(Row::alone(what, calls, 3, "–").saying(&format!("{bytes:.1} bytes")))
}

/// The proxy in this process, with one relay thread.
struct Running {
    proxy: Proxy,
    port: u16,
}

impl Running {
    async fn start(engine: EngineChoice, file: &Path) -> Result<Self> {
        let registry = registry::Config { file: Some(file.to_owned()), ..Default::default() };
        let registry = Registry::open(&registry).await.context("open the registry")?;
        let listen =
            frontend::ListenConfig { address: format!("{}:0", client::HOST), threads: 1, engine, ..Default::default() };
        let config = proxy::Config {
            listen,
            identify: frontend::IdentifyConfig::default(),
            pool: pool::Config { size: u32::try_from(CLIENTS)?, ..Default::default() },
            limits: limits::Config::default(),
            timeouts: session::Config::default(),
            console: console::Config::default(),
        };
        let proxy = Proxy::start(config, registry).await.context("start the proxy")?;
        let port = proxy.tcp_address().context("no TCP address")?.port();
        Ok(Self { proxy, port })
    }

    fn login(&self, user: String) -> Login {
        Login { port: self.port, user, database: DATABASE }
    }

    async fn stop(self) {
        self.proxy.shutdown(Duration::from_secs(1)).await;
    }
}
