//! Log lines on their way to their destination: whoever writes one never waits, whatever becomes of the destination.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

use crate::metrics::LOG_DROPPED_LINES;

/// Lines that may wait.
const LINES_MAX: usize = 8192;
/// Bytes of them.
const BYTES_MAX: usize = 4 << 20;

/// The queue before a destination, and the thread that empties it.
#[derive(Debug, Clone)]
pub(super) struct Lines {
    queue: Arc<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    /// A line came, or the last one went.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Vec<u8>>,
    bytes: usize,
    is_writing: bool,
    /// Lines that are lost, since the beginning.
    dropped: u64,
}

impl Lines {
    /// Starts the thread that writes to this destination.
    ///
    /// # Errors
    /// No thread can be started.
    pub(super) fn to(destination: impl Write + Send + 'static) -> io::Result<Self> {
        let queue = Arc::<Queue>::default();
        let emptied = Arc::clone(&queue);
        thread::Builder::new().name("log".to_owned()).spawn(move || emptied.write_out(destination))?;
        Ok(Self { queue })
    }

    /// Waits until all lines are written, but no longer than this; whether they are.
    pub(super) fn flush(&self, patience: Duration) -> bool {
        let unwritten = |state: &mut State| state.is_writing || !state.waiting.is_empty();
        let state = self.queue.state();
        let waited = self.queue.changed.wait_timeout_while(state, patience, unwritten);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a line in, if there is room.
    fn push(&self, line: &[u8]) {
        let mut state = self.state();
        if state.waiting.len() >= LINES_MAX || state.bytes + line.len() > BYTES_MAX {
            state.dropped += 1;
            drop(state);
            return metrics::counter!(LOG_DROPPED_LINES).increment(1);
        }
        state.bytes += line.len();
        state.waiting.push_back(line.to_vec());
        drop(state);
        self.changed.notify_all();
    }

    fn write_out(&self, mut destination: impl Write) {
        let mut told = 0;
        loop {
            let line = self.next();
            let written = destination.write_all(&line).and_then(|()| destination.flush());
            let dropped = self.written(written.is_ok());
            // Only a destination that takes lines again can be told how many are missing.
            if written.is_ok() && dropped > told {
                told = dropped;
                tracing::warn!(lines_dropped = dropped, "log lines are lost: the log's destination did not take them");
            }
        }
    }

    fn next(&self) -> Vec<u8> {
        let empty = |state: &mut State| state.waiting.is_empty();
        let waited = self.changed.wait_while(self.state(), empty);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        let line = state.waiting.pop_front().unwrap_or_default();
        state.bytes -= line.len();
        state.is_writing = true;
        line
    }

    /// A line is done with; how many are lost by now.
    fn written(&self, is_out: bool) -> u64 {
        let mut state = self.state();
        state.is_writing = false;
        state.dropped += u64::from(!is_out);
        let dropped = state.dropped;
        drop(state);
        self.changed.notify_all();
        if !is_out {
            metrics::counter!(LOG_DROPPED_LINES).increment(1);
        }
        dropped
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.queue)
    }
}

/// Takes one line, which comes in one piece.
pub(super) struct Line<'a>(&'a Queue);

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Says that it was given a line, and keeps it until it is told what becomes of it.
    struct Slow {
        given: Sender<Vec<u8>>,
        outcome: Receiver<io::Result<()>>,
    }

    impl Write for Slow {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.given.send(line.to_vec()).unwrap();
            self.outcome.recv().unwrap().map(|()| line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn slow() -> (Lines, Receiver<Vec<u8>>, Sender<io::Result<()>>) {
        let (given, lines) = channel();
        let (outcomes, outcome) = channel();
        (Lines::to(Slow { given, outcome }).unwrap(), lines, outcomes)
    }

    #[test]
    fn lines_that_nobody_takes_are_counted_and_those_that_waited_still_come_in_order() {
        let (lines, given, outcomes) = slow();
        let write = |text: String| lines.make_writer().write_all(text.as_bytes()).unwrap();
        write("first".to_owned());
        assert_eq!(given.recv().unwrap(), b"first");
        for number in 0..LINES_MAX + 3 {
            write(number.to_string());
        }
        assert_eq!(lines.queue.state().dropped, 3);
        assert!(!lines.flush(Duration::ZERO), "the first is not written yet");
        for number in 0..LINES_MAX {
            outcomes.send(Ok(())).unwrap();
            assert_eq!(given.recv().unwrap(), number.to_string().as_bytes());
        }
        outcomes.send(Ok(())).unwrap();
        assert!(lines.flush(Duration::from_secs(60)));
        assert_eq!(lines.queue.state().bytes, 0);
    }

    #[test]
    fn bytes_are_bounded_as_well() {
        let (lines, given, outcomes) = slow();
        lines.make_writer().write_all(b"first").unwrap();
        given.recv().unwrap();
        for _ in 0..5 {
            lines.make_writer().write_all(&vec![b'x'; 1 << 20]).unwrap();
        }
        assert_eq!(lines.queue.state().dropped, 1);
        drop(outcomes);
    }

    #[test]
    fn a_destination_that_fails_loses_its_line_and_is_tried_again() {
        let (lines, given, outcomes) = slow();
        outcomes.send(Err(io::Error::from_raw_os_error(libc::ENOSPC))).unwrap();
        outcomes.send(Ok(())).unwrap();
        lines.make_writer().write_all(b"lost").unwrap();
        lines.make_writer().write_all(b"written").unwrap();
        assert!(lines.flush(Duration::from_secs(60)));
        assert_eq!([given.recv().unwrap(), given.recv().unwrap()], [&b"lost"[..], b"written"]);
        assert_eq!(lines.queue.state().dropped, 1);
    }
}
