//! The service manager: the sockets that it hands over (socket activation), and what it is told. Without one, nothing happens.

use std::time::Duration;

use anyhow::{Context as _, bail};
use listenfd::ListenFd;
use sd_notify::NotifyState;

use crate::proxy::Inherited;

/// What ending takes beyond the drain.
const END_MARGIN: Duration = Duration::from_secs(15);

/// The listening sockets that the process was started with. To be called before there are other threads, since it takes the variables that
/// tell of them out of the environment.
pub(super) fn inherited() -> anyhow::Result<Inherited> {
    let mut passed = ListenFd::from_env();
    let mut inherited = Inherited::default();
    for index in 0..passed.len() {
        if let Ok(Some(listener)) = passed.take_tcp_listener(index) {
            if inherited.tcp.replace(listener).is_some() {
                bail!("two TCP sockets were handed over (LISTEN_FDS); pgtenant listens on one");
            }
        } else if let Ok(Some(listener)) = passed.take_unix_listener(index) {
            if inherited.unix.replace(listener).is_some() {
                bail!("two Unix sockets were handed over (LISTEN_FDS); pgtenant listens on one");
            }
        } else {
            bail!("descriptor {index} of those handed over (LISTEN_FDS) is no listening TCP or Unix socket");
        }
    }
    Ok(inherited)
}

/// Clients can connect.
pub(super) fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// The configuration is being read again; [`ready`] says that this is over.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "the clock cannot be read"),
    }
}

/// No client can connect any more; those who are there have so long to end.
pub(super) fn stopping(drain: Duration) {
    let limit = u32::try_from(drain.saturating_add(END_MARGIN).as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Stopping, NotifyState::Status("draining"), NotifyState::ExtendTimeoutUsec(limit)]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states).context("tell the service manager") {
        tracing::warn!(error = format!("{error:#}"), "the service manager does not hear");
    }
}
