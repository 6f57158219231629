//! A batch sent once more: the plan of a carried statement may no longer fit its tables when a connection has had it for long, of
//! which the client, who perhaps prepared it a moment ago, shall not hear.

use std::rc::Rc;

use bytes::BytesMut;

use super::names::Statement;
use super::prepared::put_message;
use super::relay::Relay;
use super::scan_down::is_stale_plan;
use crate::protocol::{Answer, Owed, WHOLE_BYTES_MAX, header};

/// Longest batch that is kept; a longer one brings its client the error.
const BATCH_BYTES_MAX: usize = 8 * 1024;
/// Room that is kept from batch to batch.
const ROOM_BYTES: usize = 512;

/// The client's last batch, as long as nothing in it can have been done twice.
#[derive(Default)]
pub(super) struct Replay(
    /// None before the client uses a prepared statement.
    Option<Box<Batch>>,
);

#[derive(Default)]
struct Batch {
    /// The statement that the first message of the batch uses; none: the batch is not kept.
    statement: Option<Rc<Statement>>,
    /// The messages as they went to the server.
    bytes: BytesMut,
    /// Those that will be answered.
    owed: usize,
    has_sync: bool,
    /// The client has not been told of the old plan's columns: it prepares the statement just now, or asks for them.
    is_news: bool,
    /// Its error was kept from the client; it goes again when the server is ready.
    waits: bool,
}

impl Replay {
    /// A batch begins with a message that uses a statement which its connection had already; in it the client prepares that, or not.
    pub(super) fn begin(&mut self, statement: &Rc<Statement>, message: &[u8], is_prepared: bool) {
        let batch = self.0.get_or_insert_default();
        batch.clear();
        batch.is_news = is_prepared || message.first() == Some(&b'D');
        if message.len() <= BATCH_BYTES_MAX {
            batch.statement = Some(Rc::clone(statement));
            batch.bytes.extend_from_slice(message);
            batch.owed = 1;
        }
    }

    /// Whether messages are to be added.
    pub(super) fn is_kept(&self) -> bool {
        self.0.as_ref().is_some_and(|batch| batch.statement.is_some())
    }

    /// Whether this is the statement that will be prepared again.
    pub(super) fn uses(&self, statement: &Rc<Statement>) -> bool {
        self.0.as_ref().and_then(|batch| batch.statement.as_ref()).is_some_and(|used| Rc::ptr_eq(used, statement))
    }

    /// A message goes to the server, whole or not.
    pub(super) fn add(&mut self, kind: u8, message: &[u8], is_whole: bool) {
        if let Some(batch) = &mut self.0 {
            batch.add(kind, message, is_whole);
        }
    }

    /// It cannot be sent again any more.
    pub(super) fn clear(&mut self) {
        if let Some(batch) = &mut self.0 {
            batch.clear();
        }
    }

    /// Nothing of the client's may go to the server now.
    pub(super) fn waits(&self) -> bool {
        self.0.as_ref().is_some_and(|batch| batch.waits)
    }
}

impl Batch {
    fn add(&mut self, kind: u8, message: &[u8], is_whole: bool) {
        let fits = is_whole && !self.has_sync && self.bytes.len() + message.len() <= BATCH_BYTES_MAX;
        if !fits || !matches!(kind, b'B' | b'D' | b'E' | b'H' | b'S') {
            return self.clear();
        }
        self.bytes.extend_from_slice(message);
        self.owed += usize::from(kind != b'H');
        self.has_sync |= kind == b'S';
        self.is_news |= kind == b'D';
    }

    fn clear(&mut self) {
        self.statement = None;
        self.bytes.clear();
        if self.bytes.capacity() > ROOM_BYTES {
            self.bytes = BytesMut::new();
        }
        (self.owed, self.has_sync, self.is_news, self.waits) = (0, false, false, false);
    }
}

impl Relay {
    /// An error of the server's that the client need not hear of: the statement is prepared again, and its batch goes again.
    pub(super) fn replays_instead(&mut self, count: usize) -> bool {
        let Some(link) = &mut self.link else { return false };
        let Some(batch) = self.replay.0.as_mut().filter(|batch| batch.statement.is_some()) else { return false };
        let is_first = batch.is_news && self.pending.owed_by_server() == batch.owed && link.status == b'I';
        let is_sent = !self.up.window.has_ready() && self.up.prefix.is_empty() && self.up.rest == 0;
        if !is_first || !is_sent || !is_stale_plan(&self.down.window.unscanned()[..count]) {
            return false;
        }
        link.server.prepared.expire();
        link.swallow = 1;
        batch.waits = true;
        if !batch.has_sync {
            // The server throws everything away up to one, and the client's may come much later.
            put_message(&mut self.up.prefix, b'S', &[], 0);
        }
        true
    }

    /// Whether the error that tells of a stale plan follows on ParameterDescription, which then is no answer yet; none if that
    /// has not come.
    pub(super) fn describes_stale(&mut self, count: usize) -> Option<bool> {
        let next = &self.down.window.unscanned()[count..];
        let head = match header(next) {
            Ok(head) => head?,
            Err(_) => return Some(false),
        };
        if head.kind != b'E' || head.frame_bytes > WHOLE_BYTES_MAX {
            return Some(false);
        }
        next.get(..head.frame_bytes).map(is_stale_plan)
    }

    /// The server is ready: the batch goes again, behind the statement.
    pub(super) fn replay(&mut self) {
        let (Some(link), Some(batch)) = (&mut self.link, &mut self.replay.0) else { return };
        let Some(statement) = batch.statement.take() else { return };
        link.server.prepared.use_statement(statement.id);
        let name = &statement.name;
        put_message(&mut self.up.prefix, b'C', &[b"S", name.as_bytes(), b"\0"], 0);
        put_message(&mut self.up.prefix, b'P', &[name.as_bytes(), b"\0", &statement.body], 0);
        self.up.prefix.extend_from_slice(&batch.bytes);
        self.pending
            .sent_before(&[Owed::Close(Answer::Hidden, statement.id), Owed::Parse(Answer::Hidden, statement.id)]);
        batch.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::names::Statements;

    #[test]
    fn a_batch_is_kept_from_its_statement_to_its_sync_and_only_whole() {
        let statement = Statements::default().statement(0, b"SELECT 1\0\0\0");
        let mut replay = Replay::default();
        let kept = |messages: &[(u8, &[u8], bool)], replay: &mut Replay| {
            replay.begin(&statement, b"bind", false);
            messages.iter().for_each(|(kind, message, is_whole)| replay.add(*kind, message, *is_whole));
            let batch = replay.0.as_ref().unwrap();
            (replay.is_kept(), batch.bytes.to_vec(), batch.owed)
        };
        assert_eq!(
            kept(&[(b'E', b"execute", true), (b'S', b"sync", true)], &mut replay),
            (true, b"bindexecutesync".to_vec(), 3)
        );
        assert_eq!(
            kept(&[(b'H', b"flush", true)], &mut replay),
            (true, b"bindflush".to_vec(), 1),
            "nothing of the last one"
        );
        for messages in [
            &[(b'E', &b"part"[..], false)][..],
            &[(b'P', b"parse", true)],
            &[(b'd', b"data", true)],
            &[(b'S', b"sync", true), (b'E', b"of the next batch", true)],
            &[(b'E', &[0; BATCH_BYTES_MAX], true)],
        ] {
            assert_eq!(kept(messages, &mut replay), (false, Vec::new(), 0));
        }
        assert!(replay.0.as_ref().unwrap().bytes.capacity() <= ROOM_BYTES);
        for (first, then, is_prepared, is_news) in [
            (&b"B"[..], b'E', false, false),
            (b"B", b'D', false, true),
            (b"D", b'S', false, true),
            (b"B", b'E', true, true),
        ] {
            replay.begin(&statement, first, is_prepared);
            replay.add(then, b"", true);
            assert_eq!(replay.0.as_ref().unwrap().is_news, is_news, "{first:?}");
        }
        replay.begin(&statement, &[0; BATCH_BYTES_MAX + 1], true);
        assert!(!replay.is_kept());
    }
}
