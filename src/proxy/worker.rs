//! A relay thread: one runtime, its sessions and its pools, and the commands it takes from the rest of the process.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle, LocalOptions};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::recall::Recall;
use crate::backend::{PoolBudget, PoolKey, PoolState, Pools, Quotas, Terms, check_idle};
use crate::frontend::allowed;
use crate::net::{Engine, EngineChoice};
use crate::pool::Bell;
use crate::protocol::{Report, SqlState};
use crate::session::{self, Begin, CancelKeys, ClientState, Control, Held, MakeRoom, Thread, ThreadState};
use crate::tenant::{SessionsEnd, Tenant, TenantId, TenantStatus};
use crate::{limits, pool, session::shutdown};

/// How often clocks move and time-outs are looked at.
const TICK: Duration = Duration::from_millis(200);
/// How often pools are swept, in ticks.
const SWEEP_TICKS: u32 = 5;

/// Sessions that may run between two looks for events: as many as may have become ready in one.
const EVENT_INTERVAL: u32 = 1024;

/// Something that others do on a relay thread.
pub(super) type Errand = Box<dyn FnOnce(&Rc<Begin>) + Send>;

/// What a relay thread can be told.
pub(super) enum Command {
    /// Something to be done on the thread, at once and not for long.
    Run(Errand),
    /// Cancel the running statement of a session.
    Cancel(u64),
    /// A tenant is not as it was; `None` when it is gone.
    TenantChanged(TenantId, Option<Arc<Tenant>>),
    /// Which tenants have sessions or pools here?
    Tenants(oneshot::Sender<Vec<TenantId>>),
    /// What are your sessions doing, and what do your pools hold?
    Snapshot(oneshot::Sender<(Vec<ClientState>, Vec<PoolState>)>),
    /// The same, in numbers.
    Measure(oneshot::Sender<ThreadState>),
    /// Give up an idle pool, for one of another thread; was there one?
    Evict(oneshot::Sender<bool>),
    /// The pools here have something to take or to give up.
    Heed,
    /// Hold up these sessions, and no others.
    Paused(Vec<Held>),
    /// Close the server connections of these as they become free.
    Renew(Held),
    /// End these sessions now.
    KillSome(Held),
    /// End this session now.
    KillOne(u64),
    /// New settings of pools and sessions.
    Configure(Box<Configuration>),
    /// End every session as soon as it is in no transaction.
    Drain,
    /// End every session now.
    Kill,
    /// Close everything and end the thread.
    Stop,
}

/// The settings that threads have in common and that may change.
#[derive(Clone)]
pub(super) struct Configuration {
    pub(super) pool: pool::Config,
    pub(super) limits: limits::Config,
    pub(super) timeouts: session::Config,
}

/// What all threads get.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) front: Handle,
    pub(super) engine: EngineChoice,
    pub(super) configuration: Configuration,
    pub(super) keys: CancelKeys,
    pub(super) budget: Arc<PoolBudget>,
    pub(super) quotas: Arc<Quotas>,
    /// The inboxes of all threads, in their order.
    pub(super) peers: Vec<UnboundedSender<Command>>,
}

/// The handle of a relay thread.
pub(super) struct Worker {
    commands: UnboundedSender<Command>,
    engine: Engine,
    thread: Option<JoinHandle<()>>,
    /// Who logged in there of late.
    pub(super) recall: Recall,
}

impl Worker {
    /// Starts thread number `index`, which is told things through its sender among `settings.peers`.
    pub(super) fn start(index: usize, settings: Settings, inbox: UnboundedReceiver<Command>) -> io::Result<Self> {
        let commands = settings.peers[index].clone();
        let (told, made) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name(format!("relay-{index}")).spawn(move || {
            let runtime = Builder::new_current_thread()
                .enable_all()
                .event_interval(EVENT_INTERVAL)
                .on_thread_park(Engine::turn)
                .on_thread_unpark(Engine::turn)
                .build_local(LocalOptions::default());
            let started = runtime.and_then(|runtime| {
                let engine = runtime.block_on(async { Engine::start(settings.engine) })?;
                Ok((runtime, engine))
            });
            // Whoever started the thread waits for this.
            match started {
                Ok((runtime, engine)) => {
                    let _ = told.send(Ok(engine));
                    // Not a task among the others: what the thread is told comes before what its sessions do.
                    runtime.block_on(run(index, settings, inbox));
                    drop(runtime);
                    Engine::stop();
                }
                Err(error) => _ = told.send(Err(error)),
            }
        })?;
        let engine = made.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended at once")))?;
        Ok(Self { commands, engine, thread: Some(thread), recall: Recall::default() })
    }

    /// What moves its sockets' bytes.
    pub(super) const fn engine(&self) -> Engine {
        self.engine
    }

    /// Tells the thread something; a thread that is gone hears nothing and has nothing left to do.
    pub(super) fn tell(&self, command: Command) {
        if self.commands.send(command).is_err() {
            tracing::debug!("relay thread has ended");
        }
    }

    /// Waits for the thread's end.
    pub(super) fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("relay thread panicked");
        }
    }
}

async fn run(index: usize, settings: Settings, mut inbox: UnboundedReceiver<Command>) {
    let Configuration { pool, limits, timeouts } = settings.configuration;
    let thread = Thread::new(settings.front, timeouts);
    let rung = Arc::new(AtomicBool::new(false));
    let bell = bell(Arc::clone(&rung), settings.peers[index].clone());
    let pools = Rc::new(Pools::new(settings.budget, settings.quotas, bell, Terms::new(&pool, limits)));
    let begin = Rc::new(Begin {
        thread: Rc::clone(&thread),
        thread_index: index,
        pools: Rc::clone(&pools),
        pool: RefCell::new(Rc::new(pool)),
        keys: settings.keys,
        make_room: make_room(index, settings.peers),
    });
    // A task: each time that the future is woken which the runtime waits for, this one, costs a system call.
    let mut upkeep = JoinSet::new();
    upkeep.spawn_local(keep_up(Rc::clone(&begin)));
    loop {
        tokio::select! {
            command = inbox.recv() => match command {
                Some(Command::Stop) | None => break,
                Some(Command::Heed) => {
                    // Before the look: what comes during it rings again.
                    rung.store(false, Ordering::Release);
                    pools.heed();
                }
                Some(command) => obey(command, &begin),
            },
            ended = upkeep.join_next() => {
                // Sessions go on without it, but none would end by a time-out.
                tracing::error!(?ended, index, "the clock of a relay thread stopped, and starts anew");
                upkeep.spawn_local(keep_up(Rc::clone(&begin)));
            }
        }
    }
    pools.drain();
}

/// Moves a thread's clock, and sees to what is due by it.
async fn keep_up(begin: Rc<Begin>) {
    let (thread, pools) = (&begin.thread, &begin.pools);
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + TICK, TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut until_sweep = SWEEP_TICKS;
    let mut health = JoinSet::new();
    let mut checked_at = Instant::now();
    loop {
        ticks.tick().await;
        thread.tick(Instant::now());
        Engine::turn();
        until_sweep -= 1;
        if until_sweep > 0 {
            continue;
        }
        until_sweep = SWEEP_TICKS;
        thread.sweep();
        pools.sweep(tokio::time::Instant::now());
        let health_interval = begin.pool.borrow().health_check_interval;
        let due = !health_interval.is_zero() && checked_at.elapsed() >= health_interval;
        if due && ended(&mut health) {
            checked_at = Instant::now();
            health.spawn_local(check_idle(Rc::clone(pools), health_interval));
        }
    }
}

/// Tells a thread to look at its pools' accounts, once until it does.
fn bell(rung: Arc<AtomicBool>, inbox: UnboundedSender<Command>) -> Bell {
    Arc::new(move || {
        // A thread that is gone has no pools any more.
        if !rung.swap(true, Ordering::AcqRel) && inbox.send(Command::Heed).is_err() {
            tracing::debug!("relay thread has ended");
        }
    })
}

/// Whether the last health check is over.
fn ended(health: &mut JoinSet<()>) -> bool {
    while let Some(ended) = health.try_join_next() {
        if let Err(error) = ended {
            tracing::error!(%error, "health check failed");
        }
    }
    health.is_empty()
}

/// Asks the other threads, one after the other, to give up an idle pool.
fn make_room(index: usize, peers: Vec<UnboundedSender<Command>>) -> MakeRoom {
    Rc::new(move || {
        let others: Vec<_> =
            peers.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, p)| p.clone()).collect();
        Box::pin(async move {
            for other in others {
                let (reply, evicted) = oneshot::channel();
                if other.send(Command::Evict(reply)).is_ok() && evicted.await.unwrap_or(false) {
                    return true;
                }
            }
            false
        })
    })
}

fn obey(command: Command, begin: &Rc<Begin>) {
    let thread = &begin.thread;
    match command {
        Command::Run(errand) => errand(begin),
        Command::Cancel(session) => {
            if let Some(control) = thread.session(session) {
                control.cancel();
            }
        }
        Command::TenantChanged(id, tenant) => tenant_changed(begin, id, tenant.as_ref()),
        Command::Tenants(reply) => {
            let mut tenants: Vec<_> = thread.sessions().iter().map(|control| control.tenant.id).collect();
            tenants.extend(begin.pools.list().into_iter().filter_map(|(key, _)| key.tenant));
            tenants.sort_unstable();
            tenants.dedup();
            // Whoever asked may have stopped waiting.
            let _ = reply.send(tenants);
        }
        Command::Snapshot(reply) => {
            // Whoever asked may have stopped waiting.
            let _ = reply.send((thread.clients(), begin.pools.states()));
        }
        Command::Measure(reply) => {
            let (sessions, times) = (thread.doings(), thread.times().histograms());
            let (pools, departed) = (begin.pools.states(), begin.pools.departed());
            // Whoever asked may have stopped waiting.
            let _ = reply.send(ThreadState { sessions, times, pools, departed });
        }
        Command::Evict(reply) => {
            // Whoever asked may have stopped waiting.
            let _ = reply.send(begin.pools.evict());
        }
        Command::Paused(held) => thread.set_paused(held),
        Command::Renew(held) => {
            let is_held = |key: &PoolKey| held.covers_pool(key.tenant, key.module.as_str());
            begin.pools.list().iter().filter(|(key, _)| is_held(key)).for_each(|(_, pool)| pool.reconnect());
        }
        Command::KillSome(held) => {
            let sessions = thread.sessions();
            let killed = sessions.iter().filter(|control| held.covers(control.tenant.id, &control.placement));
            killed.for_each(|control| control.kill(shutdown()));
        }
        Command::KillOne(id) => {
            if let Some(control) = thread.session(id) {
                control.kill(shutdown());
            }
        }
        Command::Configure(configuration) => {
            let Configuration { pool, limits, timeouts } = *configuration;
            thread.set_timeouts(timeouts);
            begin.pools.configure(Terms::new(&pool, limits));
            begin.pool.replace(Rc::new(pool));
        }
        Command::Drain => thread.drain(),
        Command::Kill => thread.sessions().iter().for_each(|control| control.kill(shutdown())),
        // The loop does these.
        Command::Heed | Command::Stop => {}
    }
}

/// Ends or drains sessions whose tenant is suspended, gone or elsewhere now.
fn tenant_changed(begin: &Rc<Begin>, id: TenantId, tenant: Option<&Arc<Tenant>>) {
    let concerned: Vec<Rc<Control>> =
        begin.thread.sessions().into_iter().filter(|control| control.tenant.id == id).collect();
    let serving = tenant.filter(|tenant| matches!(tenant.status, TenantStatus::Active | TenantStatus::Moving));
    let Some(tenant) = serving else {
        let end =
            tenant.and_then(|tenant| tenant.sessions_end.as_deref().copied()).filter(|end| end.by > Instant::now());
        if let Some(end) = end {
            concerned.iter().for_each(|control| control.set_end(Some(end)));
            tokio::task::spawn_local(end_after(Rc::clone(begin), id, concerned, end));
        } else {
            end_sessions(begin, id, &concerned);
        }
        return;
    };
    begin.pools.adjust(tenant);
    for control in &concerned {
        control.set_end(None);
        if allowed(tenant, control.visitor.peer).is_err() {
            let message = format!("(PT-SHUTDOWN) tenant \"{}\" has no clients at this address any more", tenant.slug);
            control.kill(Report::fatal(SqlState::ADMIN_SHUTDOWN, message));
            continue;
        }
        control.set_latest(tenant);
        let old = &control.placement;
        let same = tenant.placement(old.terms.module.as_str()).is_some_and(|new| new.is_same_place(old));
        if !same {
            control.drain();
        }
    }
    begin.pools.retire(|key| key.tenant == Some(id) && !tenant.placements.iter().any(|place| key.is_of(place)));
}

fn end_sessions(begin: &Rc<Begin>, id: TenantId, concerned: &[Rc<Control>]) {
    for control in concerned {
        control.kill(Report::fatal(
            SqlState::ADMIN_SHUTDOWN,
            format!("(PT-SHUTDOWN) tenant \"{}\" is not served any more", control.tenant.slug),
        ));
    }
    begin.pools.retire(|key| key.tenant == Some(id));
}

/// Ends a suspended tenant's sessions when its grace is over, unless it was activated meanwhile: sessions that began
/// after that hold the newer registry rows.
async fn end_after(begin: Rc<Begin>, id: TenantId, concerned: Vec<Rc<Control>>, end: SessionsEnd) {
    tokio::time::sleep_until(end.by.into()).await;
    // Another suspension since then has another end, and a timer of its own.
    let still: Vec<Rc<Control>> = concerned.into_iter().filter(|control| control.end() == Some(end)).collect();
    end_sessions(&begin, id, &still);
}
