//! The steps by which a place is made, each told to the registry's log when it is done: what a run that broke off had come to.

use std::future::Future;

use super::error::Error;
use crate::registry::{Admin, LogEntry};

/// The record of the making of one place.
pub struct Steps<'a> {
    record: Option<(&'a Admin, LogEntry)>,
    at: Option<&'static str>,
}

impl<'a> Steps<'a> {
    /// Keeps no record.
    #[must_use]
    pub const fn unrecorded() -> Self {
        Self { record: None, at: None }
    }

    /// Records each step in the registry's log; `line` says whose place it is.
    #[must_use]
    pub const fn recorded(registry: &'a Admin, line: LogEntry) -> Self {
        Self { record: Some((registry, line)), at: None }
    }

    /// The step that was begun last.
    #[must_use]
    pub const fn at(&self) -> Option<&'static str> {
        self.at
    }

    /// Takes a step, and records it when it is done.
    pub(super) async fn take<T>(
        &mut self,
        step: &'static str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        self.at = Some(step);
        let done = work.await?;
        if let Some((registry, line)) = &self.record {
            let line = LogEntry { step: Some(step.to_owned()), status: "done".to_owned(), ..line.clone() };
            registry.write_log(&line).await?;
        }
        Ok(done)
    }
}
