//! A run over a fleet: stage by stage, servers side by side, a number of places at a time on each.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::super::apply::ApplyConfig;
use super::super::error::Error;
use super::super::order::Inventory;
use super::crew::{Crew, Task};
use super::fleet::{Fleet, Target};
use super::outcome::Outcome;
use crate::registry::{Admin, PlacementVersion};
use crate::tenant::{Server, ServerName, Slug};

/// Outcomes written to the registry at a time.
const RECORDED_AT_ONCE: usize = 200;
/// Places at a time on each server, unless said otherwise.
const JOBS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(3);

/// How a fleet is migrated.
#[derive(Debug, Clone)]
pub struct RunConfig {
    /// Places at a time on each server.
    pub jobs: NonZeroUsize,
    /// How files are applied.
    pub apply: ApplyConfig,
    /// The tenant whose places go first; when one of them fails, nothing else is tried.
    pub canary: Option<Slug>,
    /// How many tenants are migrated before the next begin; a wave with failures is the last.
    pub wave: Option<NonZeroUsize>,
    /// How many places may fail; with one more, no further place is begun. Without it the places of a stage are all tried.
    pub failures_max: Option<usize>,
    /// Take the places as being on this version, instead of applying what they have not had.
    pub baseline: Option<i64>,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self { jobs: JOBS, apply: ApplyConfig::default(), canary: None, wave: None, failures_max: None, baseline: None }
    }
}

/// Asks a run to begin no further place.
#[derive(Debug, Clone, Default)]
pub struct Halt(Arc<AtomicBool>);

impl Halt {
    /// Asks.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why a run ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// The canary failed.
    Canary,
    /// A wave had failures.
    Wave,
    /// More places failed than may.
    Failures,
    /// It was asked to.
    Asked,
}

/// What a run came to.
#[derive(Debug)]
pub struct Report {
    /// What became of each place that was tried.
    pub outcomes: Vec<Outcome>,
    /// Places that were not tried.
    pub untried: usize,
    /// Why not.
    pub stopped: Option<Stopped>,
    /// The registry could not be told of it all; the next run tells it.
    pub unrecorded: Option<Error>,
}

impl Report {
    /// Places that failed.
    #[must_use]
    pub fn failures(&self) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.problem.is_some()).count()
    }
}

/// Looks at a fleet and changes nothing.
pub async fn examine(
    inventory: &Inventory,
    fleet: Fleet,
    config: &RunConfig,
    observe: &mut (dyn FnMut(&Outcome) + Send),
) -> Vec<Outcome> {
    let mut run = Run::new(inventory, config, Task::Look, Halt::default(), observe);
    for stage in fleet.stages(None, None) {
        run.stage(stage).await;
    }
    run.outcomes
}

/// Migrates a fleet, and tells the registry who is on which version now.
pub async fn run(
    inventory: &Inventory,
    fleet: Fleet,
    config: &RunConfig,
    registry: Option<&Admin>,
    halt: &Halt,
    observe: &mut (dyn FnMut(&Outcome) + Send),
) -> Report {
    let stages = fleet.stages(config.canary.as_ref(), config.wave);
    let task = config.baseline.map_or(Task::Apply, Task::Baseline);
    let mut run = Run::new(inventory, config, task, halt.clone(), observe);
    let (mut stopped, mut untried, mut unrecorded) = (None, 0, None);
    for (n, stage) in stages.into_iter().enumerate() {
        if stopped.is_some() {
            untried += stage.len();
            continue;
        }
        untried += run.stage(stage).await;
        if let Err(error) = run.record(registry).await {
            unrecorded.get_or_insert(error);
        }
        stopped = run.verdict(n == 0 && config.canary.is_some(), config);
    }
    // Whoever was stopped at the very end was not stopped.
    let stopped = stopped.filter(|_| untried > 0);
    Report { outcomes: run.outcomes, untried, stopped, unrecorded }
}

struct Run<'a> {
    crews: HashMap<ServerName, Arc<Crew>>,
    jobs: usize,
    task: Task,
    bounds: Bounds,
    observe: &'a mut (dyn FnMut(&Outcome) + Send),
    outcomes: Vec<Outcome>,
    recorded: usize,
}

impl<'a> Run<'a> {
    fn new(
        inventory: &Inventory,
        config: &RunConfig,
        task: Task,
        halt: Halt,
        observe: &'a mut (dyn FnMut(&Outcome) + Send),
    ) -> Self {
        let crew = |server: &Server| (server.name.clone(), Arc::new(Crew::new(server.clone(), config.apply.clone())));
        Self {
            crews: inventory.servers.iter().map(crew).collect(),
            jobs: config.jobs.get(),
            task,
            bounds: Bounds { halt, failures: Arc::default(), failures_max: config.failures_max },
            observe,
            outcomes: Vec::new(),
            recorded: 0,
        }
    }

    /// Goes to the places of a stage; how many it did not come to.
    async fn stage(&mut self, targets: Vec<Target>) -> usize {
        let mut queues: HashMap<ServerName, Vec<Target>> = HashMap::new();
        for target in targets {
            queues.entry(target.server.clone()).or_default().push(target);
        }
        let (sender, mut outcomes) = mpsc::unbounded_channel();
        let mut workers = JoinSet::new();
        let mut waiting = Vec::new();
        for (server, mut targets) in queues {
            let Some(crew) = self.crews.get(&server) else { continue };
            // A connection goes from place to place within its database.
            targets.sort_by(|a, b| a.database.as_str().cmp(b.database.as_str()));
            let jobs = self.jobs.min(targets.len()).min(crew.connections_max());
            let queue = Arc::new(Queue { targets: Mutex::new(targets.into()), bounds: self.bounds.clone() });
            for _ in 0..jobs {
                let (crew, queue, task) = (Arc::clone(crew), Arc::clone(&queue), self.task);
                let sender = sender.clone();
                workers.spawn(async move { work(&crew, &queue, task, &sender).await });
            }
            waiting.push(queue);
        }
        drop(sender);
        while let Some(outcome) = outcomes.recv().await {
            (self.observe)(&outcome);
            self.outcomes.push(outcome);
        }
        // They have ended, as nobody sends any more; a panic of one is ours.
        workers.join_all().await;
        waiting.iter().map(|queue| queue.left()).sum()
    }

    /// Whether to go on after a stage.
    fn verdict(&self, canary: bool, config: &RunConfig) -> Option<Stopped> {
        let failed = self.bounds.failed() > 0;
        match config.failures_max {
            _ if self.bounds.halt.is_asked() => Some(Stopped::Asked),
            _ if canary && failed => Some(Stopped::Canary),
            Some(_) if self.bounds.are_reached() => Some(Stopped::Failures),
            None if config.wave.is_some() && failed => Some(Stopped::Wave),
            Some(_) | None => None,
        }
    }

    /// Tells the registry what it has not been told.
    async fn record(&mut self, registry: Option<&Admin>) -> Result<(), Error> {
        let Some(registry) = registry else { return Ok(()) };
        for outcomes in self.outcomes[self.recorded..].chunks(RECORDED_AT_ONCE) {
            let rows: Vec<_> = outcomes.iter().flat_map(versions).collect();
            let transaction = registry.begin().await?;
            transaction.record_versions(&rows).await?;
            transaction.commit().await?;
        }
        self.recorded = self.outcomes.len();
        Ok(())
    }
}

/// What the registry is told of a place, for each of its tenants.
fn versions(outcome: &Outcome) -> impl Iterator<Item = PlacementVersion> {
    outcome.tenants.iter().map(|whose| PlacementVersion {
        tenant_id: whose.id,
        module: outcome.module.clone(),
        version: outcome.version,
        applied: outcome.applied,
        error: outcome.problem.as_ref().map(|problem| problem.text().to_owned()),
    })
}

/// What ends a run before its time.
#[derive(Debug, Clone)]
struct Bounds {
    halt: Halt,
    failures: Arc<AtomicUsize>,
    failures_max: Option<usize>,
}

impl Bounds {
    fn failed(&self) -> usize {
        self.failures.load(Ordering::Relaxed)
    }

    /// Whether no further place is to be begun.
    fn are_reached(&self) -> bool {
        self.halt.is_asked() || self.failures_max.is_some_and(|max| self.failed() > max)
    }
}

/// The places of one server that nobody has begun yet.
struct Queue {
    targets: Mutex<VecDeque<Target>>,
    bounds: Bounds,
}

impl Queue {
    fn next(&self) -> Option<Target> {
        if self.bounds.are_reached() {
            return None;
        }
        self.targets.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn left(&self) -> usize {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

async fn work(crew: &Crew, queue: &Queue, task: Task, sender: &mpsc::UnboundedSender<Outcome>) {
    let mut session = crew.idle();
    while let Some(target) = queue.next() {
        let outcome = crew.attend(&mut session, &target, task).await;
        // At once, so that this worker begins no other place.
        if outcome.problem.is_some() {
            queue.bounds.failures.fetch_add(1, Ordering::Relaxed);
        }
        // Who receives ends after all who send.
        let _ = sender.send(outcome);
    }
    if let Some(session) = session {
        crew.keep(session);
    }
}
