//! The known tenants on disk, for a restart while the registry is down: verifiers, but no keys; mode 0600, written whole.

use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::database::Database;
use super::error::RegistryError;
use super::record::TenantRecord;
use super::rows::epoch;
use crate::tenant::Tenant;

/// The layout of the file; another one is not read.
const VERSION: u32 = 1;
/// Changes that come this soon after each other are written together.
const GATHER: Duration = Duration::from_millis(200);
/// Of all time, writing takes at most one part in this many.
const DUTY: u32 = 10;
/// Without changes it is still written this often, so that its date says how old it is.
const REWRITE: Duration = Duration::from_secs(600);
/// A file larger than this is not ours.
const BYTES_MAX: u64 = 4 << 30;

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    /// The registry it is of.
    registry: String,
    tenants: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    /// When the tenant was last known to be so.
    #[serde(with = "epoch")]
    known_at: Option<SystemTime>,
    tenant: TenantRecord,
}

/// The tenants of a snapshot that are not older than `stale_max`, each with the time it may still serve. None, with a
/// warning, where there is no usable file: that it is damaged or another registry's must not keep the proxy from starting.
pub(super) fn read(path: &Path, registry: &str, stale_max: Duration) -> Vec<(Tenant, Duration)> {
    let file = match load(path) {
        Ok(file) => file,
        Err(RegistryError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            warn!(error = &error as &dyn std::error::Error, "the registry snapshot is not usable");
            return Vec::new();
        }
    };
    if file.version != VERSION || file.registry != registry {
        warn!(path = %path.display(), "the registry snapshot is of another registry or program and is not used");
        return Vec::new();
    }
    let now = SystemTime::now();
    let left = |entry: Entry| {
        // A date in the future is a clock that went back: as new as can be.
        let age = now.duration_since(entry.known_at?).unwrap_or_default();
        let left = stale_max.checked_sub(age).filter(|left| !left.is_zero())?;
        Some((Tenant::from(entry.tenant), left))
    };
    file.tenants.into_iter().filter_map(left).collect()
}

fn load(path: &Path) -> Result<File, RegistryError> {
    let doing = "read the registry snapshot";
    let failed = |source| RegistryError::File { doing, path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let limited = io::Read::take(file, BYTES_MAX);
    serde_json::from_reader(BufReader::new(limited)).map_err(|source| RegistryError::Malformed { doing, source })
}

/// What is known, with the time each tenant may still serve.
type Known = Vec<(Arc<Tenant>, Duration)>;

/// Writes the file anew, whole: into a temporary one beside it, then over it.
fn write(path: &Path, registry: String, stale_max: Duration, known: &Known) -> Result<(), RegistryError> {
    let doing = "write the registry snapshot";
    let failed = |source| RegistryError::File { doing, path: path.to_owned(), source };
    let now = SystemTime::now();
    let entry = |(tenant, left): &(Arc<Tenant>, Duration)| Entry {
        known_at: now.checked_sub(stale_max.saturating_sub(*left)),
        tenant: TenantRecord::from(&**tenant),
    };
    let file = File { version: VERSION, registry, tenants: known.iter().map(entry).collect() };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Made with mode 0600, whatever the umask.
    let mut temporary =
        tempfile::Builder::new().prefix(".registry-snapshot-").tempfile_in(directory).map_err(failed)?;
    let mut out = BufWriter::new(temporary.as_file_mut());
    serde_json::to_writer(&mut out, &file).map_err(|source| RegistryError::Malformed { doing, source })?;
    out.flush().map_err(failed)?;
    drop(out);
    temporary.as_file().sync_all().map_err(failed)?;
    temporary.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// Keeps the file up to date until it is aborted.
pub(super) async fn keep(database: Arc<Database>, path: PathBuf, registry: String, stale_max: Duration) {
    loop {
        // Either something changed, or it is time to say that nothing did.
        let _ = timeout(REWRITE, database.dirty.notified()).await;
        sleep(GATHER).await;
        let started = Instant::now();
        let Some(known) = database.cache().tenants() else {
            // What came before the first poll is to be written after it.
            database.dirty.notify_one();
            continue;
        };
        let known =
            known.into_iter().map(|(tenant, until)| (tenant, until.saturating_duration_since(started))).collect();
        let (to, of) = (path.clone(), registry.clone());
        let written = tokio::task::spawn_blocking(move || write(&to, of, stale_max, &known)).await;
        let problem: Box<dyn std::error::Error + Send> = match written {
            Ok(Ok(())) => {
                sleep(started.elapsed() * DUTY).await;
                continue;
            }
            Ok(Err(error)) => Box::new(error),
            Err(error) => Box::new(error),
        };
        warn!(error = &*problem as &dyn std::error::Error, "the registry snapshot was not written");
    }
}
