//! Fault points: places where a test kills the process, to see what the next run makes of it. Release builds have none of it.

/// Just before or after something that others can see, named by `step`. In a debug build whose environment has `PGTENANT_FAULT=N` the
/// process is gone at the N-th point that it passes, as by `kill -9`: nothing is cleaned up, nobody is told.
#[cfg(debug_assertions)]
pub(crate) fn point(when: &'static str, step: &'static str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static CHOSEN: OnceLock<Option<u32>> = OnceLock::new();
    static PASSED: AtomicU32 = AtomicU32::new(0);
    let chosen = CHOSEN.get_or_init(|| std::env::var("PGTENANT_FAULT").ok()?.parse().ok());
    let Some(chosen) = chosen else { return };
    if PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *chosen {
        eprintln!("fault point {chosen}: {when} \"{step}\"");
        // Nothing is left to do if that fails but to go on, which the test then sees.
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
}

/// Nothing, in a release build.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) const fn point(_when: &'static str, _step: &'static str) {}
