//! Clients of every kind, by TLS and in clear, of two proxies over one registry, and one fault after the other, for half an hour:
//! whether memory, file descriptors or counters grow, and whether everybody always sees only what is theirs: `make soak`.

#[path = "../compare/cpu.rs"]
#[expect(dead_code, reason = "time is not what is measured here")]
mod cpu;
#[path = "../compare/owner.rs"]
mod owner;
#[path = "../compare/supervised.rs"]
#[expect(dead_code, reason = "time is not what is measured here")]
mod supervised;

mod clients;
mod faults;
mod place;
mod proxy;
mod report;
mod tally;
mod weather;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use clap::Parser;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use clients::Kind;
use place::{MODULES, Module, Place, Tenant};
use proxy::Proxy;
use report::{Report, Round};
use tally::Tally;
use weather::{AWAY, SLOW_READING, Weather};
use wire::{Door, Trouble};

/// Memory, file descriptors and counters of two proxies under load and faults.
#[derive(Debug, Parser)]
#[command(name = "soak")]
struct Options {
    /// No round begins after this time. Three rounds are the least that growth can be seen in.
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// Clients of each kind; half as many of those that mostly wait.
    #[arg(long, default_value_t = 4)]
    clients: usize,
    /// Calm before and after each fault.
    #[arg(long, default_value_t = 5)]
    calm_seconds: u64,
    /// The program, for another than the one built with this.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_pgtenant"))]
    pgtenant: PathBuf,
    /// What cargo passes to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// How long the last session of a round may take to end.
const SESSIONS_TIMEOUT: Duration = Duration::from_secs(90);
/// Until what was given back is given back to the kernel, too.
const SETTLE: Duration = Duration::from_secs(3);

/// Everything that clients and faults have in common.
pub(crate) struct Soak {
    place: Place,
    /// The one that stays, so that growth can be seen, and the one that is started again in each round.
    proxies: [Proxy; 2],
    tally: Tally,
    weather: Weather,
    ending: watch::Sender<bool>,
    began: Instant,
}

/// A tenant at one of its places, through one of the proxies.
#[derive(Clone, Copy)]
pub(crate) struct Visit<'a> {
    soak: &'a Soak,
    proxy: &'a Proxy,
    tenant: &'a Tenant,
    module: &'static Module,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<ExitCode> {
    let options = Options::parse();
    pgtenant::net::tls::install_provider();
    let place = Place::make(&options.pgtenant).await?;
    let proxies = [Proxy::start(&place, "first").await?, Proxy::start(&place, "second").await?];
    let soak = Arc::new(Soak {
        place,
        proxies,
        tally: Tally::new(),
        weather: Weather::default(),
        ending: watch::Sender::new(false),
        began: Instant::now(),
    });
    let mut report = Report::default();
    let ended = rounds(&soak, &options, &mut report).await;
    println!("{report}");
    let mut wrong = soak.tally.complaints();
    wrong.extend(report.wrong());
    wrong.extend(ended.err().map(|error| format!("{error:#}")));
    let Some(first) = wrong.first() else {
        let grew = if report.shows_growth() { "Nothing grew" } else { "Too few rounds to see growth" };
        println!("{grew}; every counter returned to zero, every tenant saw only its own.");
        return Ok(ExitCode::SUCCESS);
    };
    let more = wrong.len() - 1;
    eprintln!("soak: {first}{}", if more > 0 { format!(" (and {more} more, see above)") } else { String::new() });
    Ok(ExitCode::FAILURE)
}

async fn rounds(soak: &Arc<Soak>, options: &Options, report: &mut Report) -> Result<()> {
    while soak.began.elapsed() < Duration::from_secs(options.minutes * 60) {
        soak.say(&format!("round {}", report.0.len() + 1));
        let round = soak.round(options).await?;
        report.0.push(round);
        eprintln!("{report}");
    }
    Ok(())
}

impl Soak {
    /// All faults once, among clients; then nobody is there, and what is left is looked at.
    async fn round(self: &Arc<Self>, options: &Options) -> Result<Round> {
        let began = Instant::now();
        self.ending.send_replace(false);
        let mut crowd = JoinSet::new();
        for kind in Kind::ALL {
            let number = if kind.is_slow() { options.clients.div_ceil(2) } else { options.clients };
            for _ in 0..number {
                let soak = Arc::clone(self);
                crowd.spawn(async move { soak.client(kind).await });
            }
        }
        let calm = Duration::from_secs(options.calm_seconds);
        sleep(calm).await;
        let broken = self.faults(calm).await;
        self.ending.send_replace(true);
        let gone = async {
            while let Some(client) = crowd.join_next().await {
                client.context("a client panicked")?;
            }
            anyhow::Ok(())
        };
        timeout(SESSIONS_TIMEOUT, gone).await.context("a client's session does not end")??;
        broken?;
        self.say("clients have left");
        let left = Proxy::all_at_rest(&self.proxies, &self.place).await?;
        sleep(SETTLE).await;
        let (answers, errors) = self.tally.take();
        let [first, second] = &self.proxies;
        let holdings = [first.holdings(&self.place).await?, second.holdings(&self.place).await?];
        Ok(Round { length: began.elapsed(), answers, errors, holdings, left })
    }

    /// A client's sessions, one after the other, until the end of the round.
    async fn client(&self, kind: Kind) {
        while !*self.ending.borrow() {
            let visits: Vec<_> = self.visits().filter(|visit| visit.suits(kind)).collect();
            let visit = visits[rand::random_range(0..visits.len())];
            match visit.session(kind).await {
                Ok(()) => self.tally.served(kind),
                Err(trouble) => self.judge(visit, Some(kind), &trouble),
            }
            sleep(Duration::from_millis(rand::random_range(10..200))).await;
        }
    }

    /// One session of no kind.
    async fn probe(&self, visit: Visit<'_>) -> Result<(), Trouble> {
        let outcome = visit.once().await;
        if let Err(trouble) = &outcome {
            self.judge(visit, None, trouble);
        }
        outcome
    }

    /// Whether what a client met is explained by a fault.
    fn judge(&self, visit: Visit<'_>, kind: Option<Kind>, trouble: &Trouble) {
        let (slug, module, proxy) = (visit.tenant.slug, visit.module, visit.proxy.name);
        let late = if kind == Some(Kind::SlowReader) { SLOW_READING } else { Duration::ZERO };
        let explains = |error| self.weather.explains(error, proxy, slug, module.server, late);
        let explained = match trouble {
            Trouble::Refused { sqlstate, .. } => {
                self.tally.error(sqlstate);
                explains(sqlstate)
            }
            Trouble::Closed => {
                self.tally.error("closed");
                // In the middle of a row, or where the client takes nothing, no last word can be said.
                kind == Some(Kind::SlowReader) && (explains("57P01") || explains("08006"))
            }
            Trouble::Away => {
                self.tally.error(AWAY);
                explains(AWAY)
            }
            Trouble::Silent | Trouble::Foreign { .. } | Trouble::Wrong(_) => false,
        };
        if !explained {
            let who = kind.map_or_else(|| "probe".to_owned(), |kind| format!("{kind:?}"));
            let place = format!("{} (server {}, {proxy} proxy)", module.name, module.server);
            self.tally.complain(format!("{who} of {slug} at {place}: {trouble}"));
        }
    }

    fn visits(&self) -> impl Iterator<Item = Visit<'_>> {
        let of = move |(proxy, tenant)| MODULES.iter().map(move |module| Visit { soak: self, proxy, tenant, module });
        let through = move |proxy| self.place.tenants.iter().map(move |tenant| (proxy, tenant));
        self.proxies.iter().flat_map(through).flat_map(of)
    }

    /// Waits until clients are to leave.
    async fn end_of_round(&self) {
        // The sender is ours.
        let _ = self.ending.subscribe().wait_for(|ending| *ending).await;
    }

    fn say(&self, what: &str) {
        let seconds = self.began.elapsed().as_secs();
        eprintln!("{} {:>4} s  {what}", humantime::format_rfc3339_seconds(SystemTime::now()), seconds);
    }
}

impl Visit<'_> {
    /// Where the client knocks: every other one wants TLS.
    fn door(self) -> Door {
        self.proxy.door(rand::random_bool(0.5).then(|| Arc::clone(&self.soak.place.tls)))
    }

    fn suits(self, kind: Kind) -> bool {
        !kind.needs_session_mode() || self.module.mode == "session"
    }
}
