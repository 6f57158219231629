//! What operators see from outside: the log on stderr, and the recorder that metrics are rendered from.

mod lines;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal};
use std::time::Duration;

use metrics::SetRecorderError;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use serde::Deserialize;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, fmt, reload};

use lines::Lines;

use crate::times::SECONDS;

/// Longest wait at the end for a destination that takes no lines.
const LAST_LINES_PATIENCE: Duration = Duration::from_secs(1);

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[log]` of the configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How lines look.
    pub format: Format,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter by room such as `info,pgtenant::pool=debug`.
    pub level: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { format: Format::Text, level: "info".to_owned() }
    }
}

/// Why logging or metrics could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The level is no filter.
    #[error("log level")]
    Level(#[from] ParseError),
    /// Something else in this process logs already.
    #[error("set up logging")]
    Log(#[from] TryInitError),
    /// There is no thread for it.
    #[error("start the log's thread")]
    Thread(#[source] io::Error),
    /// The log is gone.
    #[error("change the log level")]
    Reload(#[from] reload::Error),
    /// The recorder refuses its buckets.
    #[error("set up metrics")]
    Metrics(#[from] BuildError),
    /// Something else in this process records metrics already.
    #[error("set up metrics")]
    Recorder(#[from] Box<SetRecorderError<PrometheusRecorder>>),
}

/// The log of this process, once set up. What still waits to be written when it is dropped gets a second for that.
#[derive(Debug)]
pub struct Log {
    filter: reload::Handle<EnvFilter, tracing_subscriber::Registry>,
    lines: Option<Lines>,
}

impl Log {
    /// Sends the log of this process to stderr from now on, each line before whoever wrote it goes on: for a command, which has
    /// more to say there. Once per process.
    ///
    /// # Errors
    /// The level is no filter, or the process logs already.
    pub fn start(config: &Config) -> Result<Self, Error> {
        Ok(Self { filter: subscribe(config, io::stderr)?, lines: None })
    }

    /// The same for a process that serves: nobody waits for stderr, be it a full disk or a pipe that is not read. Lines for which
    /// there is no room are dropped and counted. Panics are logged, too.
    ///
    /// # Errors
    /// The level is no filter, the process logs already, or there is no thread to be had.
    pub fn start_behind(config: &Config) -> Result<Self, Error> {
        let lines = Lines::to(io::stderr()).map_err(Error::Thread)?;
        let log = Self { filter: subscribe(config, lines.clone())?, lines: Some(lines) };
        std::panic::set_hook(Box::new(|panic| {
            let trace = Backtrace::capture();
            let trace = (trace.status() == BacktraceStatus::Captured).then(|| trace.to_string());
            tracing::error!(trace, "{panic}");
        }));
        Ok(log)
    }

    /// Changes the level of the running log.
    ///
    /// # Errors
    /// The level is no filter.
    pub fn set_level(&self, level: &str) -> Result<(), Error> {
        Ok(self.filter.reload(filter(level)?)?)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Some(lines) = &self.lines {
            // There is nowhere to say that it was in vain.
            lines.flush(LAST_LINES_PATIENCE);
        }
    }
}

fn subscribe<W>(config: &Config, writer: W) -> Result<reload::Handle<EnvFilter, tracing_subscriber::Registry>, Error>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(filter(&config.level)?);
    // A failed write would be told on stderr, which has just failed, by a macro that panics then.
    let lines = fmt::layer().log_internal_errors(false).with_writer(writer);
    let lines = match config.format {
        Format::Text => lines.with_ansi(io::stderr().is_terminal()).with_target(false).boxed(),
        Format::Json => lines.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init()?;
    Ok(handle)
}

/// What is logged. Whatever the level says, not what drivers make of statements: those of the control plane hold verifiers.
fn filter(level: &str) -> Result<EnvFilter, ParseError> {
    Ok(EnvFilter::try_new(level)?.add_directive("tokio_postgres=warn".parse()?))
}

/// Whether a text can be a log level.
#[must_use]
pub fn is_level(text: &str) -> bool {
    !text.trim().is_empty() && EnvFilter::try_new(text).is_ok()
}

/// Makes this process record its metrics. Once per process. The handle renders them, and its `run_upkeep` must be called
/// every few seconds, lest unread histograms grow.
///
/// # Errors
/// Something else in this process records metrics already.
pub fn record_metrics() -> Result<PrometheusHandle, Error> {
    let recorder = recorder()?;
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(Box::new)?;
    Ok(handle)
}

fn recorder() -> Result<PrometheusRecorder, BuildError> {
    let seconds = Matcher::Suffix("_seconds".to_owned());
    Ok(PrometheusBuilder::new().set_buckets_for_metric(seconds, &SECONDS)?.build_recorder())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_a_word_or_a_filter() {
        assert!(is_level("info") && is_level("warn,pgtenant::pool=trace"));
        assert!(!is_level("") && !is_level("info,=,") && !is_level("pgtenant=loud"));
    }

    #[test]
    fn seconds_are_rendered_as_histograms() {
        let recorder = recorder().unwrap();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || metrics::histogram!("pgtenant_checkout_seconds").record(0.003));
        let text = handle.render();
        assert!(text.contains("pgtenant_checkout_seconds_bucket{le=\"0.005\"} 1"), "{text}");
    }
}
