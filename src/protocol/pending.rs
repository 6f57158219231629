//! What the server still owes: one entry for each message that gets an answer, in order.
//!
//! This is the model by which a backend is known to be free: every ReadyForQuery that must come has come. The rules are
//! those of the protocol chapter's message flow, the skipping after errors and the Syncs that COPY swallows included.

use std::collections::VecDeque;

/// A message that was sent and will be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owed {
    /// Query: any number of results, then ReadyForQuery.
    Query,
    /// FunctionCall: a result, then ReadyForQuery.
    FunctionCall,
    /// Sync: ReadyForQuery.
    Sync,
    /// Parse: ParseComplete.
    Parse,
    /// Bind: BindComplete.
    Bind,
    /// Describe: RowDescription or NoData.
    Describe,
    /// Execute: rows, then CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute,
    /// Close: CloseComplete.
    Close,
    /// CopyDone or CopyFail: no answer of its own, but it ends the stretch in which Syncs are swallowed.
    CopyEnd,
}

/// Room that the queue keeps when it runs empty.
const CAPACITY_KEPT: usize = 32;

/// The answers owed, and whether the server is skipping to a Sync.
#[derive(Debug, Default)]
pub struct Pending {
    owed: VecDeque<Owed>,
    skipping: bool,
    copy: Copy,
    /// A copy failed around a Sync: whether the Sync will be answered, or was read as part of the copy, cannot be known.
    uncertain: bool,
}

/// How far a COPY FROM STDIN is.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
enum Copy {
    /// There is none.
    #[default]
    None,
    /// The server reads rows. `swallowed`: Syncs were among them.
    Reading { swallowed: bool },
    /// The client has sent its end; the server has not said so yet.
    Ending { swallowed: bool },
}

impl Pending {
    /// Nothing is owed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    /// How many answers are owed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.owed.len()
    }

    /// Whether the server, after an error, throws everything away until a Sync.
    #[must_use]
    pub fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// Whether the server may owe more than is known here. Once so, always so: the connection must never serve another.
    #[must_use]
    pub fn is_uncertain(&self) -> bool {
        self.uncertain
    }

    /// Whether a ReadyForQuery will come if the client sends nothing more.
    #[must_use]
    pub fn awaits_ready(&self) -> bool {
        let ends = |owed: &Owed| matches!(owed, Owed::Query | Owed::FunctionCall | Owed::Sync);
        !matches!(self.copy, Copy::Reading { .. }) && self.owed.iter().any(ends)
    }

    /// Forgets everything: the messages were never sent.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// A message goes to the server.
    pub fn sent(&mut self, message: Owed) {
        if self.skipping {
            if message != Owed::Sync {
                return;
            }
            self.skipping = false;
        }
        if let Copy::Reading { swallowed } = &mut self.copy {
            match message {
                Owed::CopyEnd => self.copy = Copy::Ending { swallowed: *swallowed },
                // PostgreSQL reads Sync and Flush during COPY FROM STDIN and ignores them.
                Owed::Sync => {
                    *swallowed = true;
                    return;
                }
                _ => {}
            }
        }
        if message == Owed::CopyEnd && self.owed.is_empty() {
            return;
        }
        self.owed.push_back(message);
    }

    /// The server answered with a message of this type.
    pub fn answered(&mut self, kind: u8) {
        match kind {
            b'1' => self.complete(Owed::Parse),
            b'2' => self.complete(Owed::Bind),
            b'3' => self.complete(Owed::Close),
            b'T' | b'n' => self.complete(Owed::Describe),
            b'C' | b'I' | b's' => {
                self.copy = Copy::None;
                self.complete(Owed::Execute);
            }
            b'G' => self.copy_in_begins(),
            b'E' => self.error(),
            b'Z' => self.ready(),
            _ => {}
        }
    }

    fn front(&mut self) -> Option<Owed> {
        while self.owed.front() == Some(&Owed::CopyEnd) {
            self.owed.pop_front();
        }
        self.owed.front().copied()
    }

    fn complete(&mut self, message: Owed) {
        if self.front() == Some(message) {
            self.owed.pop_front();
        }
    }

    fn ready(&mut self) {
        self.copy = Copy::None;
        self.skipping = false;
        if matches!(self.front(), Some(Owed::Query | Owed::FunctionCall | Owed::Sync)) {
            self.owed.pop_front();
        }
        // Nothing but the ends of copies that were not wanted any more.
        self.front();
        if self.owed.is_empty() && self.owed.capacity() > CAPACITY_KEPT {
            self.owed.shrink_to(CAPACITY_KEPT);
        }
    }

    fn error(&mut self) {
        if let Copy::Reading { swallowed: true } | Copy::Ending { swallowed: true } = std::mem::take(&mut self.copy) {
            self.uncertain = true;
        }
        match self.front() {
            // A simple query's error, or one at commit: ReadyForQuery follows by itself.
            Some(Owed::Query | Owed::FunctionCall | Owed::Sync) | None => {}
            Some(_) => {
                while let Some(owed) = self.owed.front() {
                    if *owed == Owed::Sync {
                        return;
                    }
                    self.owed.pop_front();
                }
                self.skipping = true;
            }
        }
    }

    /// CopyInResponse: Syncs that were sent before the copy's end will be swallowed.
    fn copy_in_begins(&mut self) {
        self.front();
        let end = self.owed.iter().position(|owed| *owed == Owed::CopyEnd);
        let (until, before) = (end.unwrap_or(self.owed.len()), self.owed.len());
        let mut index = 0;
        self.owed.retain(|owed| {
            let swallowed = index > 0 && index < until && *owed == Owed::Sync;
            index += 1;
            !swallowed
        });
        let swallowed = self.owed.len() < before;
        self.copy = if end.is_none() { Copy::Reading { swallowed } } else { Copy::Ending { swallowed } };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(messages: &str) -> Pending {
        let mut pending = Pending::default();
        send(&mut pending, messages);
        pending
    }

    fn send(pending: &mut Pending, messages: &str) {
        for message in messages.chars() {
            pending.sent(match message {
                'Q' => Owed::Query,
                'F' => Owed::FunctionCall,
                'S' => Owed::Sync,
                'P' => Owed::Parse,
                'B' => Owed::Bind,
                'D' => Owed::Describe,
                'E' => Owed::Execute,
                'C' => Owed::Close,
                _ => Owed::CopyEnd,
            });
        }
    }

    fn after(sent_messages: &str, answers: &[u8]) -> usize {
        let mut pending = sent(sent_messages);
        for answer in answers {
            pending.answered(*answer);
        }
        pending.len()
    }

    #[test]
    fn every_message_is_answered_in_its_turn() {
        assert_eq!(after("Q", b"TDDCZ"), 0);
        assert_eq!(after("PBDES", b"12TDCZ"), 0);
        assert_eq!(after("PDS", b"1tTZ"), 0);
        assert_eq!(after("PBDES", b"12TDC"), 1);
        assert_eq!(after("SS", b"Z"), 1);
        assert_eq!(after("F", b"VZ"), 0);
    }

    #[test]
    fn a_multi_statement_query_is_one_query() {
        assert_eq!(after("QQ", b"TDCTDCZ"), 1);
    }

    #[test]
    fn an_error_skips_to_the_next_sync_only() {
        assert_eq!(after("PBESPBES", b"EZ"), 4);
        assert_eq!(after("PBEQS", b"12EZ"), 0);
    }

    #[test]
    fn messages_sent_while_the_server_skips_are_not_owed() {
        let mut pending = sent("PBE");
        pending.answered(b'E');
        send(&mut pending, "PQ");
        assert!(pending.is_empty() && pending.is_skipping());
        send(&mut pending, "S");
        pending.answered(b'Z');
        assert!(pending.is_empty() && !pending.is_skipping());
    }

    #[test]
    fn a_simple_query_after_unsynced_messages_keeps_its_own_error() {
        // Bind and Execute succeed, the query fails: two ReadyForQuery come.
        assert_eq!(after("BEQS", b"2CEZ"), 1);
    }

    #[test]
    fn syncs_sent_with_a_copy_are_swallowed_by_it() {
        let mut pending = sent("BES");
        pending.answered(b'2');
        pending.answered(b'G');
        assert_eq!(pending.len(), 1);
        send(&mut pending, "cS");
        pending.answered(b'C');
        pending.answered(b'Z');
        assert!(pending.is_empty());
    }

    #[test]
    fn a_copy_sent_whole_before_its_answer_keeps_its_last_sync() {
        assert_eq!(after("BEScS", b"2GCZ"), 0);
        assert_eq!(after("Qc", b"GCZ"), 0);
    }

    #[test]
    fn a_copy_that_fails_before_it_begins_answers_its_sync() {
        assert_eq!(after("BES", b"EZ"), 0);
    }

    #[test]
    fn a_copy_that_fails_around_a_sync_leaves_doubt() {
        for messages in ["BES", "BEScS", "QS", "QScS"] {
            let mut pending = sent(messages);
            pending.answered(b'2');
            pending.answered(b'G');
            assert!(!pending.is_uncertain());
            pending.answered(b'E');
            assert!(pending.is_uncertain(), "{messages}");
        }
        let mut later = sent("Q");
        later.answered(b'G');
        send(&mut later, "S");
        later.answered(b'E');
        assert!(later.is_uncertain());
    }

    #[test]
    fn a_copy_that_fails_without_a_sync_or_ends_well_leaves_none() {
        for (messages, answers) in
            [("BEcS", &b"2GEZ"[..]), ("BES", b"2EZ"), ("BEScS", b"2GCZ"), ("BEScSBES", b"2GCZ2EZ")]
        {
            let mut pending = sent(messages);
            answers.iter().for_each(|answer| pending.answered(*answer));
            assert!(!pending.is_uncertain() && pending.is_empty(), "{messages}");
        }
    }

    #[test]
    fn a_server_that_is_ready_skips_nothing() {
        let mut pending = sent("BES");
        for answer in b"2GEZ" {
            pending.answered(*answer);
        }
        send(&mut pending, "Q");
        assert_eq!(pending.len(), 1);
    }

    #[test]
    fn a_stray_ready_for_query_does_no_harm() {
        assert_eq!(after("", b"Z"), 0);
    }
}
