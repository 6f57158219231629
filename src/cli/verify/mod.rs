//! `pgtenant verify isolation`: two tenants made for it, a proxy of its own, and everything that one of them can try on the other.

mod audits;
mod plan;
mod report;
mod site;

use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use self::plan::Plan;
use self::site::Site;
use super::context::Context;
use super::output::{Failure, remark};
use super::progress::Progress;
use crate::tenant::{ModuleName, PoolMode, ServerName};
use crate::verify::{self, Finding, Scene};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Try every wall between two tenants that are made for it, on each server, at every isolation and pooling, and look whether
    /// rights and policies keep the tenants apart that are there. What is made is removed again; no registry is changed. Ends with
    /// 1 if a wall that is promised does not stand.
    Isolation(Isolation),
}

#[derive(Debug, Args)]
pub(super) struct Isolation {
    /// A server to make the two tenants on; may be repeated [default: all that have an admin secret].
    #[arg(long = "server", value_name = "NAME")]
    servers: Vec<ServerName>,
    /// A module of yours to make the two tenants in, its migrations included, instead of databases of their own; may be repeated.
    #[arg(long = "module", value_name = "M")]
    modules: Vec<ModuleName>,
    /// How long a client keeps its server connection, `session` or `transaction` [default: one after the other].
    #[arg(long, value_name = "MODE")]
    pool_mode: Option<PoolMode>,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    let Command::Isolation(wanted) = command;
    context.hush()?;
    // Before anything is made: from here on an interrupt takes everything away again.
    let mut interrupt = Interrupt::new()?;
    let inventory = context.source().await?.inventory().await?;
    let plan = Plan::new(&inventory, &wanted.servers, &wanted.modules)?;
    let mut site = Site::open(&plan).await?;
    for leftover in site.sweep_leftovers(&plan, &inventory).await {
        remark(leftover);
    }
    // Before the probes are made: making a tenant also mends some of what may be broken.
    let audited = audits::audit_all(&inventory, &plan, &wanted.modules).await;
    let played = play(&plan, &mut site, wanted.pool_mode, &mut interrupt).await;
    remark("Cleaning up …");
    let cleaned = site.close(&plan).await.context("take the probes away; the next run tries again");
    let mut findings = played?;
    findings.extend(audited);
    report::print(context, &findings)?;
    cleaned?;
    report::judge(&findings)
}

/// Makes what the checks need, and plays them.
async fn play(
    plan: &Plan,
    site: &mut Site,
    mode: Option<PoolMode>,
    interrupt: &mut Interrupt,
) -> anyhow::Result<Vec<Finding>> {
    let mut progress = Progress::new(plan.grounds.len() * 2, "places made");
    for ground in &plan.grounds {
        for letter in plan::LETTERS {
            // Not broken off half-way: what a statement makes after its client has gone would be missed.
            site.make(plan, ground, letter).await?;
            progress.advance(None);
            if interrupt.came() {
                return Err(interrupted());
            }
        }
    }
    progress.finish();
    let mut findings = Vec::new();
    for mode in mode.map_or(vec![PoolMode::Transaction, PoolMode::Session], |mode| vec![mode]) {
        let scenes = tokio::select! {
            scenes = site.serve(plan, mode) => scenes?,
            () = interrupt.comes() => return Err(interrupted()),
        };
        findings.extend(tokio::select! {
            found = check_all(plan, scenes, mode) => found?,
            () = interrupt.comes() => return Err(interrupted()),
        });
    }
    Ok(findings)
}

fn interrupted() -> anyhow::Error {
    anyhow!("interrupted")
}

/// All checks on all grounds in one mode: one after the other on each, the grounds side by side.
async fn check_all(plan: &Plan, scenes: Vec<Scene>, mode: PoolMode) -> anyhow::Result<Vec<Finding>> {
    let mut progress = Progress::new(scenes.len() * verify::all().count(), "checks");
    let (tell, mut told) = tokio::sync::mpsc::channel(64);
    let mut running = JoinSet::new();
    for (place, scene) in scenes.into_iter().enumerate() {
        let (scene, tell) = (Arc::new(scene), tell.clone());
        running.spawn(async move {
            for (turn, check) in verify::all().enumerate() {
                let finding = check.run(&scene).await;
                if tell.send((place, turn, finding)).await.is_err() {
                    break;
                }
            }
        });
    }
    drop(tell);
    let mut findings = Vec::new();
    while let Some(mut found) = told.recv().await {
        let finding = &mut found.2;
        if let Some(label) = plan.label(found.0) {
            finding.detail = format!("{label}: {}", finding.detail);
        }
        let words =
            format!("{} ({}, {}, {mode}): {}", finding.check, finding.isolation, finding.pooling, finding.detail);
        progress.advance(finding.is_broken.then_some(words));
        findings.push(found);
    }
    while let Some(ended) = running.join_next().await {
        ended.context("play the checks")?;
    }
    progress.finish();
    findings.sort_by_key(|(place, turn, _)| (*place, *turn));
    Ok(findings.into_iter().map(|(_, _, finding)| finding).collect())
}

/// Ctrl-C and SIGTERM.
struct Interrupt {
    signals: [Signal; 2],
    came: bool,
}

impl Interrupt {
    fn new() -> anyhow::Result<Self> {
        let of = |kind| signal(kind).context("listen for signals");
        Ok(Self { signals: [of(SignalKind::interrupt())?, of(SignalKind::terminate())?], came: false })
    }

    /// Waits for one. Cancel-safe.
    async fn comes(&mut self) {
        let [interrupt, terminate] = &mut self.signals;
        if !self.came {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        self.came = true;
    }

    /// Whether one has come.
    fn came(&mut self) -> bool {
        use std::task::{Context, Waker};
        let mut context = Context::from_waker(Waker::noop());
        self.came = self.came || self.signals.iter_mut().any(|signal| signal.poll_recv(&mut context).is_ready());
        self.came
    }
}
