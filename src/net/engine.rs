//! What moves the bytes of a relay thread's sockets: tokio's epoll, or a ring of the kernel's.

use std::io;

use serde::Deserialize;

use super::pace;
use super::ring::Ring;

/// Which engine is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineChoice {
    /// tokio's epoll, and where the kernel has and allows it a ring a thread, for its sockets while many of its sessions work at a time.
    Auto,
    /// tokio's own.
    Epoll,
    /// One ring a thread (Linux 6.0 and newer) for all of its sockets; a thread that gets none does not start.
    IoUring,
}

impl EngineChoice {
    /// As in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Epoll => "epoll",
            Self::IoUring => "io_uring",
        }
    }
}

/// The engine of one thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// tokio's epoll.
    Epoll,
    /// A ring of the thread's, all the time or at times.
    IoUring,
}

impl Engine {
    /// Makes this thread's engine ready, inside whose runtime it must be called: streams that [settle](super::Stream::settle) here from
    /// now on are its own. The runtime's hooks must call [`Engine::turn`], and the thread [`Engine::stop`] when the runtime is gone.
    ///
    /// # Errors
    /// [`EngineChoice::IoUring`] is asked for, and not to be had.
    pub fn start(choice: EngineChoice) -> io::Result<Self> {
        match choice {
            EngineChoice::Epoll => Ok(Self::Epoll),
            EngineChoice::IoUring => Ring::start().map(|()| Self::ring(true)),
            EngineChoice::Auto => Ok(match Ring::start() {
                Ok(()) => Self::ring(false),
                Err(error) => {
                    tracing::info!(%error, "no io_uring here");
                    Self::Epoll
                }
            }),
        }
    }

    fn ring(is_for_all: bool) -> Self {
        pace::begin(is_for_all);
        Self::IoUring
    }

    /// Its name, for log and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        }
    }

    /// What the runtime calls before it waits and after (`on_thread_park`, `on_thread_unpark`), and whoever never lets it wait
    /// should call now and then. Does nothing on a thread where epoll works.
    pub fn turn() {
        pace::turn();
        Ring::turn();
    }

    /// Ends what the thread has.
    pub fn stop() {
        pace::end();
        Ring::stop();
    }

    /// One of the thread's sessions does something in this turn.
    #[inline]
    pub fn worked() {
        pace::worked();
    }
}
