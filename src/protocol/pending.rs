//! What the server still owes: one entry for each message that gets an answer, in order.
//!
//! This is the model by which a backend is known to be free: every ReadyForQuery that must come has come. The rules are
//! those of the protocol chapter's message flow, the skipping after errors and the Syncs that COPY swallows included.

use std::collections::VecDeque;

use super::effects::Effects;

/// Who answers a message, and who gets the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The server answers the client.
    Server,
    /// The server answers pgtenant; the client did not send the message.
    Hidden,
    /// pgtenant answers the client; the server never saw the message.
    Own,
}

/// Why a statement of the client's did not go to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It would keep the connection for this client, by this.
    Pin(Effects),
    /// It leads to a schema that is not the tenant's.
    OtherSchema,
    /// It sets what says whose the connection is.
    TenantParameter,
}

/// What becomes of an answer of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It goes to the client.
    Pass,
    /// It goes to the client, and a statement that has a number is prepared now.
    Confirm,
    /// It goes to the client, and the unnamed statement is the one that was sent.
    ConfirmUnnamed,
    /// It does not go to the client.
    Hide,
    /// The client gets an error of pgtenant's in its place.
    Refuse(Refusal),
}

/// A message that was sent and will be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owed {
    /// Query: any number of results, then ReadyForQuery.
    Query,
    /// FunctionCall: a result, then ReadyForQuery.
    FunctionCall,
    /// Sync: ReadyForQuery.
    Sync,
    /// Parse: ParseComplete. With the number of the statement, 0 for those that have none.
    Parse(Answer, u32),
    /// Parse of the unnamed statement: ParseComplete.
    ParseUnnamed,
    /// Bind: BindComplete.
    Bind,
    /// Describe: RowDescription or NoData.
    Describe,
    /// Execute: rows, then CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute,
    /// Close: CloseComplete. With the number of the statement, 0 for those that have none.
    Close(Answer, u32),
    /// Query of two statements, of which the client sent the second, in a way: one's answer, another's, then ReadyForQuery.
    Deallocate(Answer),
    /// Query with a text that fails, in place of one that is refused: an error, then ReadyForQuery.
    RefusedQuery(Refusal),
    /// Parse of a text that fails, in place of one that is refused: an error.
    RefusedParse(Refusal),
    /// CopyDone or CopyFail: no answer of its own, but it ends the stretch in which Syncs are swallowed.
    CopyEnd,
}

impl Owed {
    /// Whether its answer ends with ReadyForQuery.
    fn ends_with_ready(&self) -> bool {
        matches!(self, Self::Query | Self::Deallocate(_) | Self::RefusedQuery(_) | Self::FunctionCall | Self::Sync)
    }

    /// Whether pgtenant answers it.
    fn is_own(&self) -> bool {
        matches!(self, Self::Parse(Answer::Own, _) | Self::Close(Answer::Own, _))
    }
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
        !matches!(self.copy, Copy::Reading { .. }) && self.owed.iter().any(Owed::ends_with_ready)
    }

    /// Whether a Parse of the unnamed statement is still to be answered.
    #[must_use]
    pub fn parses_unnamed(&self) -> bool {
        self.owed.contains(&Owed::ParseUnnamed)
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

    /// How many answers the server owes, those that pgtenant itself gives not counted.
    #[must_use]
    pub fn owed_by_server(&self) -> usize {
        self.owed.iter().filter(|owed| !owed.is_own()).count()
    }

    /// Whether pgtenant itself is to answer a Parse of the statement with this number.
    #[must_use]
    pub fn owes_own_parse(&self, id: u32) -> bool {
        self.owed.contains(&Owed::Parse(Answer::Own, id))
    }

    /// Nothing is owed but what pgtenant itself answers.
    #[must_use]
    pub fn owes_own_only(&self) -> bool {
        !self.skipping && self.owed.iter().all(Owed::is_own)
    }

    /// These messages go to the server before what is owed: nothing of that is on its way any more.
    pub fn sent_before(&mut self, messages: &[Owed]) {
        self.skipping = false;
        messages.iter().rev().for_each(|message| self.owed.push_front(*message));
    }

    /// The statement sent last will fail, its text having been spoiled, and its error will be exchanged for this.
    pub fn refuse_last(&mut self, refusal: Refusal) {
        match self.owed.back_mut() {
            Some(owed @ Owed::Query) => *owed = Owed::RefusedQuery(refusal),
            Some(owed @ (Owed::Parse(..) | Owed::ParseUnnamed)) => *owed = Owed::RefusedParse(refusal),
            _ => {}
        }
    }

    /// The server answered with a message of this type. After an error, `lost` is given each message that will get no answer
    /// any more, the failed one first.
    pub fn answered(&mut self, kind: u8, lost: impl FnMut(Owed)) -> Fate {
        match kind {
            b'1' => return self.complete_parse_or_close(|owed| matches!(owed, Owed::Parse(..) | Owed::ParseUnnamed)),
            b'3' => return self.complete_parse_or_close(|owed| matches!(owed, Owed::Close(..))),
            b'2' => self.complete(Owed::Bind),
            b'T' | b'n' => self.complete(Owed::Describe),
            b'C' | b'I' | b's' => {
                self.copy_ends();
                return self.command_complete();
            }
            b'G' => self.copy_in_begins(),
            b'E' => return self.error(lost),
            b'Z' => self.ready(),
            _ => {}
        }
        Fate::Pass
    }

    /// Takes an answer that goes to the client and means nothing but that what is owed first is complete, or goes on; false, and
    /// nothing done, if it may mean more. Most answers are such.
    #[inline]
    pub fn is_plain_answer(&mut self, kind: u8) -> bool {
        match (kind, self.owed.front()) {
            (b'T', Some(Owed::Query)) => return true,
            (b'C', Some(Owed::Query)) => return self.copy == Copy::None,
            (b'C', Some(Owed::Execute)) if self.copy == Copy::None => {}
            (b'1', Some(Owed::ParseUnnamed)) | (b'2', Some(Owed::Bind)) | (b'T' | b'n', Some(Owed::Describe)) => {}
            _ => return false,
        }
        self.owed.pop_front();
        true
    }

    /// The next message if it is pgtenant's turn to answer it: everything before it has been answered.
    #[must_use]
    #[inline]
    pub fn own_turn(&mut self) -> Option<Owed> {
        match self.front() {
            Some(owed) if owed.is_own() => Some(owed),
            _ => None,
        }
    }

    /// pgtenant has answered the message of [`Pending::own_turn`].
    pub fn own_answered(&mut self) {
        if self.own_turn().is_some() {
            self.owed.pop_front();
        }
    }

    fn complete_parse_or_close(&mut self, is_kind: impl Fn(&Owed) -> bool) -> Fate {
        let front = self.front();
        if front.as_ref().is_some_and(is_kind) {
            self.owed.pop_front();
        }
        match front {
            Some(Owed::Parse(Answer::Hidden, _) | Owed::Close(Answer::Hidden, _)) => Fate::Hide,
            Some(Owed::Parse(_, 1..)) => Fate::Confirm,
            Some(Owed::ParseUnnamed) => Fate::ConfirmUnnamed,
            _ => Fate::Pass,
        }
    }

    fn command_complete(&mut self) -> Fate {
        match self.front() {
            Some(Owed::Execute) => _ = self.owed.pop_front(),
            Some(Owed::Deallocate(Answer::Hidden)) => {
                self.owed[0] = Owed::Deallocate(Answer::Server);
                return Fate::Hide;
            }
            Some(Owed::Deallocate(_)) => {
                self.owed[0] = Owed::Query;
                return Fate::Confirm;
            }
            _ => {}
        }
        Fate::Pass
    }

    #[inline]
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
        if self.front().is_some_and(|owed| owed.ends_with_ready()) {
            self.owed.pop_front();
        }
        // Nothing but the ends of copies that were not wanted any more.
        self.front();
        if self.owed.is_empty() && self.owed.capacity() > CAPACITY_KEPT {
            self.owed.shrink_to(CAPACITY_KEPT);
        }
    }

    fn error(&mut self, mut lost: impl FnMut(Owed)) -> Fate {
        if let Copy::Reading { swallowed: true } | Copy::Ending { swallowed: true } = std::mem::take(&mut self.copy) {
            self.uncertain = true;
        }
        let front = self.front();
        let fate = match front {
            Some(Owed::RefusedQuery(refusal) | Owed::RefusedParse(refusal)) => Fate::Refuse(refusal),
            _ => Fate::Pass,
        };
        match front {
            Some(owed @ Owed::Deallocate(_)) => {
                lost(owed);
                self.owed[0] = Owed::Query;
            }
            // A simple query's error, or one at commit: ReadyForQuery follows by itself.
            Some(owed) if owed.ends_with_ready() => {}
            // Everything was answered but the Sync is not sent yet, as when a statement's time is over between two messages.
            None => self.skipping = true,
            Some(_) => {
                while let Some(owed) = self.owed.front() {
                    if *owed == Owed::Sync {
                        return fate;
                    }
                    lost(*owed);
                    self.owed.pop_front();
                }
                self.skipping = true;
            }
        }
        fate
    }

    /// A result is complete: the end of a copy was read, and is not that of the query's next one.
    fn copy_ends(&mut self) {
        if matches!(std::mem::take(&mut self.copy), Copy::Ending { .. })
            && let Some(end) = self.owed.iter().position(|owed| *owed == Owed::CopyEnd)
        {
            self.owed.remove(end);
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
                'X' => Owed::Deallocate(Answer::Hidden),
                'F' => Owed::FunctionCall,
                'S' => Owed::Sync,
                'P' => Owed::Parse(Answer::Server, 0),
                'U' => Owed::ParseUnnamed,
                'p' => Owed::Parse(Answer::Own, 1),
                'h' => Owed::Parse(Answer::Hidden, 2),
                'B' => Owed::Bind,
                'D' => Owed::Describe,
                'E' => Owed::Execute,
                'C' => Owed::Close(Answer::Server, 0),
                _ => Owed::CopyEnd,
            });
        }
    }

    fn after(sent_messages: &str, answers: &[u8]) -> usize {
        let mut pending = sent(sent_messages);
        for answer in answers {
            pending.answered(*answer, |_| {});
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
        pending.answered(b'E', |_| {});
        send(&mut pending, "PQ");
        assert!(pending.is_empty() && pending.is_skipping());
        send(&mut pending, "S");
        pending.answered(b'Z', |_| {});
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
        pending.answered(b'2', |_| {});
        pending.answered(b'G', |_| {});
        assert_eq!(pending.len(), 1);
        send(&mut pending, "cS");
        pending.answered(b'C', |_| {});
        pending.answered(b'Z', |_| {});
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
            pending.answered(b'2', |_| {});
            pending.answered(b'G', |_| {});
            assert!(!pending.is_uncertain());
            pending.answered(b'E', |_| {});
            assert!(pending.is_uncertain(), "{messages}");
        }
        let mut later = sent("Q");
        later.answered(b'G', |_| {});
        send(&mut later, "S");
        later.answered(b'E', |_| {});
        assert!(later.is_uncertain());
    }

    #[test]
    fn a_copy_that_fails_without_a_sync_or_ends_well_leaves_none() {
        for (messages, answers) in
            [("BEcS", &b"2GEZ"[..]), ("BES", b"2EZ"), ("BEScS", b"2GCZ"), ("BEScSBES", b"2GCZ2EZ")]
        {
            let mut pending = sent(messages);
            for answer in answers {
                pending.answered(*answer, |_| {});
            }
            assert!(!pending.is_uncertain() && pending.is_empty(), "{messages}");
        }
    }

    #[test]
    fn a_server_that_is_ready_skips_nothing() {
        let mut pending = sent("BES");
        for answer in b"2GEZ" {
            pending.answered(*answer, |_| {});
        }
        send(&mut pending, "Q");
        assert_eq!(pending.len(), 1);
    }

    #[test]
    fn hidden_answers_are_hidden_and_own_ones_come_in_their_turn() {
        let mut pending = sent("PhpBS");
        assert_eq!(pending.own_turn(), None, "two answers of the server come first");
        assert_eq!(pending.answered(b'1', |_| {}), Fate::Pass);
        assert_eq!(pending.answered(b'1', |_| {}), Fate::Hide);
        assert_eq!(pending.own_turn(), Some(Owed::Parse(Answer::Own, 1)));
        pending.own_answered();
        assert_eq!(pending.own_turn(), None);
        assert_eq!(pending.answered(b'2', |_| {}), Fate::Pass);
    }

    #[test]
    fn an_error_tells_which_messages_are_lost() {
        let mut pending = sent("hBpSP");
        let mut lost = Vec::new();
        pending.answered(b'E', |owed| lost.push(owed));
        assert_eq!(lost, [Owed::Parse(Answer::Hidden, 2), Owed::Bind, Owed::Parse(Answer::Own, 1)]);
        assert_eq!(pending.len(), 2);
    }

    #[test]
    fn of_two_statements_in_one_query_the_client_sees_the_second() {
        let mut pending = sent("X");
        assert_eq!(pending.answered(b'C', |_| {}), Fate::Hide);
        assert_eq!(pending.answered(b'C', |_| {}), Fate::Confirm);
        assert_eq!(pending.answered(b'Z', |_| {}), Fate::Pass);
        assert!(pending.is_empty());
        for answers in [&b"EZ"[..], b"CEZ"] {
            let (mut pending, mut lost) = (sent("X"), 0);
            for answer in answers {
                pending.answered(*answer, |_| lost += 1);
            }
            assert!(pending.is_empty() && lost == 1);
        }
    }

    #[test]
    fn a_refused_statement_has_its_error_exchanged() {
        let refused = Refusal::OtherSchema;
        let mut pending = Pending::default();
        pending.sent(Owed::RefusedQuery(refused));
        assert_eq!(pending.answered(b'E', |_| {}), Fate::Refuse(refused));
        pending.answered(b'Z', |_| {});
        pending.sent(Owed::RefusedParse(refused));
        send(&mut pending, "BES");
        assert_eq!(pending.answered(b'E', |_| {}), Fate::Refuse(refused));
        pending.answered(b'Z', |_| {});
        assert!(pending.is_empty());
    }

    #[test]
    fn the_unnamed_statement_is_told_apart() {
        let mut pending = sent("UBESBUS");
        assert!(pending.parses_unnamed());
        assert_eq!(pending.answered(b'1', |_| {}), Fate::ConfirmUnnamed);
        for answer in b"2CZ" {
            assert_eq!(pending.answered(*answer, |_| {}), Fate::Pass);
        }
        let mut lost = Vec::new();
        pending.answered(b'E', |owed| lost.push(owed));
        assert_eq!(lost, [Owed::Bind, Owed::ParseUnnamed]);
        assert!(!pending.parses_unnamed());
    }

    #[test]
    fn the_second_copy_of_a_query_has_an_end_of_its_own() {
        let mut pending = sent("Qc");
        pending.answered(b'G', |_| {});
        pending.answered(b'C', |_| {});
        pending.answered(b'G', |_| {});
        assert!(!pending.awaits_ready(), "it waits for the client");
        send(&mut pending, "Sc");
        assert!(pending.awaits_ready());
        for answer in b"CZ" {
            pending.answered(*answer, |_| {});
        }
        assert!(pending.is_empty() && !pending.is_uncertain());
        assert_eq!(after("QcSc", b"GCGCZ"), 0);
    }

    #[test]
    fn an_error_between_two_messages_skips_to_the_sync() {
        let mut pending = sent("PB");
        for answer in b"12E" {
            pending.answered(*answer, |_| {});
        }
        send(&mut pending, "DES");
        pending.answered(b'Z', |_| {});
        assert!(pending.is_empty() && !pending.is_skipping());
    }

    #[test]
    fn a_stray_ready_for_query_does_no_harm() {
        assert_eq!(after("", b"Z"), 0);
    }
}
