//! A conservative look at statement text: which session state might it leave behind? One pass, no allocation, any pieces.
//!
//! The lexical rules are those of PostgreSQL's scanner (documentation, 4.1 Lexical Structure) with
//! `standard_conforming_strings = on`. A false alarm costs sharing; a miss would lose a client's state, so whatever is
//! unclear counts.

use super::effects::Effects;

/// Longest word that matters; longer ones are no keyword.
const WORD_BYTES_MAX: usize = 32;
/// Longest tag of a dollar quote that is followed; a longer one cannot be told apart and counts as unreadable.
const TAG_BYTES_MAX: usize = 64;

/// Where in the text the scan is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Plain,
    Word,
    Number,
    Dash,
    LineComment,
    Slash,
    BlockComment {
        depth: u32,
        last: u8,
    },
    Quoted {
        escapes: bool,
        backslash: bool,
    },
    /// After an escape string, which a quote on a later line continues; or in a comment there.
    AfterEscapes {
        comment: bool,
    },
    /// After an escape string and a dash.
    DashAfterEscapes,
    Identifier,
    DollarTag,
    DollarBody {
        matched: u8,
    },
}

/// The words before this one that decide what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    /// The statement begins here.
    Start,
    /// `SET` began the statement; what follows decides.
    Set,
    /// `CREATE`, `CREATE OR REPLACE`, `INTO`, `LOCAL`, `GLOBAL`: a `TEMP` here is a temporary object.
    Makes,
    /// `WITH`: a `HOLD` here is a cursor's.
    With,
    /// `PREPARE` began the statement: `TRANSACTION` would make it harmless.
    Prepare,
    /// Anything else.
    Other,
}

/// The scan of one statement text, fed in pieces.
#[derive(Debug, Clone)]
pub struct StatementScan {
    place: Place,
    before: Before,
    word: [u8; WORD_BYTES_MAX],
    word_len: usize,
    tag: [u8; TAG_BYTES_MAX],
    tag_len: usize,
    effects: Effects,
}

impl Default for StatementScan {
    fn default() -> Self {
        Self::new()
    }
}

/// Scans a whole text.
#[must_use]
pub fn effects_of(text: &[u8]) -> Effects {
    let mut scan = StatementScan::new();
    scan.feed(text);
    scan.ends()
}

impl StatementScan {
    /// A scan at the start of a text.
    #[must_use]
    pub fn new() -> Self {
        Self {
            place: Place::Plain,
            before: Before::Start,
            word: [0; WORD_BYTES_MAX],
            word_len: 0,
            tag: [0; TAG_BYTES_MAX],
            tag_len: 0,
            effects: Effects::NONE,
        }
    }

    /// What the text might leave behind, at its end.
    #[must_use]
    pub fn finish(mut self) -> Effects {
        self.ends()
    }

    fn ends(&mut self) -> Effects {
        if self.place == Place::Word {
            self.word_ends();
        }
        if self.before == Before::Set || self.before == Before::Prepare {
            self.resolve_open_keyword();
        }
        self.effects
    }

    /// Reads a piece of the text.
    pub fn feed(&mut self, text: &[u8]) {
        let mut at = 0;
        while at < text.len() {
            at = match self.place {
                Place::Plain => self.plain(text, at),
                Place::Word => self.in_word(text, at),
                Place::Number => self.in_number(text, at),
                Place::Dash => self.after(text, at, b'-', Place::LineComment),
                Place::Slash => self.after(text, at, b'*', Place::BlockComment { depth: 1, last: 0 }),
                Place::LineComment => match memchr::memchr2(b'\n', b'\r', &text[at..]) {
                    Some(end) => self.go(Place::Plain, at + end + 1),
                    None => text.len(),
                },
                Place::BlockComment { depth, last } => self.in_block_comment(text[at], depth, last, at),
                Place::Quoted { escapes, backslash } => self.in_quotes(text, at, escapes, backslash),
                Place::AfterEscapes { comment: false } => self.after_escapes(text[at], at),
                Place::AfterEscapes { comment: true } => match memchr::memchr2(b'\n', b'\r', &text[at..]) {
                    Some(end) => self.go(Place::AfterEscapes { comment: false }, at + end + 1),
                    None => text.len(),
                },
                Place::DashAfterEscapes => self.after(text, at, b'-', Place::AfterEscapes { comment: true }),
                Place::Identifier => self.in_identifier(text, at),
                Place::DollarTag => self.in_dollar_tag(text[at], at),
                Place::DollarBody { matched } => self.in_dollar_body(text, at, matched),
            };
        }
    }

    fn go(&mut self, place: Place, at: usize) -> usize {
        self.place = place;
        at
    }

    /// Words, numbers and what stands between them, up to where something else begins. Ordinary statements are hardly anything
    /// else, so their words are looked at where they stand.
    fn plain(&mut self, text: &[u8], mut at: usize) -> usize {
        while let Some(&byte) = text.get(at) {
            let class = CLASSES[usize::from(byte)];
            if class == Class::Space {
                at += 1;
            } else if class == Class::Letter {
                let end = end_of(&IN_WORD, text, at + 1);
                if matches!(text.get(end), None | Some(b'\'' | b'&')) {
                    self.word_len = 0;
                    return self.go(Place::Word, at);
                }
                self.whole_word(&text[at..end]);
                at = end;
            } else if class == Class::Special {
                at = self.special(text, byte, at);
                if self.place != Place::Plain {
                    return at;
                }
            } else if class == Class::Digit {
                at = self.number(text, at);
            } else {
                self.other_token();
                at += 1;
            }
        }
        at
    }

    /// A number, from its first digit on.
    fn number(&mut self, text: &[u8], at: usize) -> usize {
        self.other_token();
        let end = end_of(&IN_NUMBER, text, at + 1);
        if end == text.len() {
            self.place = Place::Number;
        }
        end
    }

    fn special(&mut self, text: &[u8], byte: u8, at: usize) -> usize {
        match byte {
            b'\'' => {
                self.other_token();
                self.go(Place::Quoted { escapes: false, backslash: false }, at + 1)
            }
            b'"' => {
                // A quoted name ends whatever keyword was open, and may itself name state (`"pg_temp"`, `"set_config"`).
                self.other_token();
                self.word_len = 0;
                self.go(Place::Identifier, at + 1)
            }
            // `$1` and the like.
            b'$' if text.get(at + 1).is_some_and(u8::is_ascii_digit) => self.number(text, at + 1),
            b'$' => {
                self.other_token();
                self.tag_len = 0;
                self.go(Place::DollarTag, at + 1)
            }
            b'-' => self.go(Place::Dash, at + 1),
            b'/' => self.go(Place::Slash, at + 1),
            _ => {
                self.resolve_open_keyword();
                self.before = Before::Start;
                at + 1
            }
        }
    }

    /// A word that stands whole in a piece of the text.
    fn whole_word(&mut self, word: &[u8]) {
        let matters = match self.before {
            Before::Start => may_begin(word),
            Before::Set | Before::Prepare => true,
            Before::Makes | Before::With | Before::Other => may_matter(word),
        };
        if word.len() > WORD_BYTES_MAX {
            self.other_token();
        } else if matters {
            self.word[..word.len()].copy_from_slice(word);
            self.word[..word.len()].make_ascii_lowercase();
            self.word_len = word.len();
            self.word_ends();
        } else {
            self.before = Before::Other;
        }
    }

    /// The byte after a `-` or `/`: a comment begins, or it was an operator.
    fn after(&mut self, text: &[u8], at: usize, opens: u8, comment: Place) -> usize {
        if text[at] == opens {
            return self.go(comment, at + 1);
        }
        self.other_token();
        self.go(Place::Plain, at)
    }

    fn in_word(&mut self, text: &[u8], mut at: usize) -> usize {
        let end = end_of(&IN_WORD, text, at);
        for byte in &text[at..end] {
            if self.word_len < WORD_BYTES_MAX {
                self.word[self.word_len] = byte.to_ascii_lowercase();
            }
            self.word_len = self.word_len.saturating_add(1);
        }
        at = end;
        if at == text.len() {
            return at;
        }
        if text[at] == b'&' && self.word_len == 1 && self.word[0] == b'u' {
            // `U&"…"` may be any name, written in code points.
            self.effects.insert(Effects::UNREADABLE);
        }
        if text[at] == b'\'' {
            let escapes = self.word_len == 1 && self.word[0] == b'e';
            self.other_token();
            return self.go(Place::Quoted { escapes, backslash: false }, at + 1);
        }
        self.word_ends();
        self.go(Place::Plain, at)
    }

    /// Inside `"…"`. A name keeps its case; one with a doubled quote in it is none that matters.
    fn in_identifier(&mut self, text: &[u8], at: usize) -> usize {
        let end = memchr::memchr(b'"', &text[at..]).map(|end| at + end);
        for byte in &text[at..end.unwrap_or(text.len())] {
            if self.word_len < WORD_BYTES_MAX {
                self.word[self.word_len] = *byte;
            }
            self.word_len = self.word_len.saturating_add(1);
        }
        let Some(end) = end else { return text.len() };
        if self.word_len <= WORD_BYTES_MAX {
            let (word, length) = (self.word, self.word_len);
            self.named(&word[..length]);
        }
        self.go(Place::Plain, end + 1)
    }

    fn in_number(&mut self, text: &[u8], at: usize) -> usize {
        let end = end_of(&IN_NUMBER, text, at);
        if end < text.len() {
            self.place = Place::Plain;
        }
        end
    }

    fn in_block_comment(&mut self, byte: u8, depth: u32, last: u8, at: usize) -> usize {
        let place = match (last, byte) {
            (b'/', b'*') => Place::BlockComment { depth: depth.saturating_add(1), last: 0 },
            (b'*', b'/') if depth == 1 => Place::Plain,
            (b'*', b'/') => Place::BlockComment { depth: depth - 1, last: 0 },
            _ => Place::BlockComment { depth, last: byte },
        };
        self.go(place, at + 1)
    }

    /// Inside `'…'`. A doubled quote closes and opens again, which comes to the same.
    fn in_quotes(&mut self, text: &[u8], at: usize, escapes: bool, backslash: bool) -> usize {
        if backslash {
            return self.go(Place::Quoted { escapes, backslash: false }, at + 1);
        }
        let rest = &text[at..];
        let found = if escapes { memchr::memchr2(b'\'', b'\\', rest) } else { memchr::memchr(b'\'', rest) };
        match found {
            None => text.len(),
            Some(end) if rest[end] == b'\\' => self.go(Place::Quoted { escapes, backslash: true }, at + end + 1),
            Some(end) if escapes => self.go(Place::AfterEscapes { comment: false }, at + end + 1),
            Some(end) => self.go(Place::Plain, at + end + 1),
        }
    }

    /// After an escape string: one more quote, doubled or on a later line, goes on with it, and with its escapes.
    fn after_escapes(&mut self, byte: u8, at: usize) -> usize {
        match byte {
            b'\'' => self.go(Place::Quoted { escapes: true, backslash: false }, at + 1),
            b'-' => self.go(Place::DashAfterEscapes, at + 1),
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => at + 1,
            _ => self.go(Place::Plain, at),
        }
    }

    fn in_dollar_tag(&mut self, byte: u8, at: usize) -> usize {
        if byte == b'$' {
            return self.go(Place::DollarBody { matched: 0 }, at + 1);
        }
        let legal =
            byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80 || (byte.is_ascii_digit() && self.tag_len > 0);
        if !legal {
            // `$1` and the like: a parameter, not a quote.
            return self.go(if byte.is_ascii_digit() { Place::Number } else { Place::Plain }, at);
        }
        if self.tag_len == TAG_BYTES_MAX {
            self.effects.insert(Effects::UNREADABLE);
            return self.go(Place::Plain, at);
        }
        self.tag[self.tag_len] = byte;
        self.tag_len += 1;
        at + 1
    }

    /// Inside `$tag$…`: `matched` counts the bytes of the closing tag seen so far, the first `$` included.
    fn in_dollar_body(&mut self, text: &[u8], at: usize, matched: u8) -> usize {
        let seen = usize::from(matched);
        if seen == 0 {
            return match memchr::memchr(b'$', &text[at..]) {
                Some(found) => self.go(Place::DollarBody { matched: 1 }, at + found + 1),
                None => text.len(),
            };
        }
        let byte = text[at];
        if seen <= self.tag_len && self.tag[seen - 1] == byte {
            return self.go(Place::DollarBody { matched: matched + 1 }, at + 1);
        }
        if byte == b'$' {
            let closed = seen == self.tag_len + 1;
            return self.go(if closed { Place::Plain } else { Place::DollarBody { matched: 1 } }, at + 1);
        }
        self.go(Place::DollarBody { matched: 0 }, at + 1)
    }

    /// A token that is no word stands where a deciding word could have stood.
    fn other_token(&mut self) {
        self.resolve_open_keyword();
        self.before = Before::Other;
    }

    /// `SET` or `PREPARE` whose next word did not make it harmless.
    fn resolve_open_keyword(&mut self) {
        match self.before {
            Before::Set => self.effects.insert(Effects::PARAMETER),
            Before::Prepare => self.effects.insert(Effects::PREPARE),
            Before::Start | Before::Makes | Before::With | Before::Other => {}
        }
    }

    fn word_ends(&mut self) {
        if self.word_len > WORD_BYTES_MAX {
            self.other_token();
            return;
        }
        let (word, length) = (self.word, self.word_len);
        let word = &word[..length];
        match self.before {
            Before::Start => return self.first_word(word),
            Before::Set => {
                self.before = Before::Other;
                match word {
                    // These end with the transaction.
                    b"local" => self.effects.insert(Effects::LOCAL_PARAMETER),
                    b"transaction" | b"constraints" => {}
                    _ => self.effects.insert(Effects::PARAMETER),
                }
                return;
            }
            Before::Prepare => {
                self.before = Before::Other;
                if word != b"transaction" {
                    self.effects.insert(Effects::PREPARE);
                }
                return;
            }
            Before::Makes if matches!(word, b"temp" | b"temporary") => self.effects.insert(Effects::TEMPORARY),
            Before::With if word == b"hold" => self.effects.insert(Effects::HOLD_CURSOR),
            Before::Makes | Before::With | Before::Other => {}
        }
        self.any_word(word);
    }

    fn first_word(&mut self, word: &[u8]) {
        self.before = Before::Other;
        match word {
            b"set" => self.before = Before::Set,
            b"prepare" => self.before = Before::Prepare,
            b"create" => self.before = Before::Makes,
            b"with" => self.before = Before::With,
            b"listen" => self.effects.insert(Effects::LISTEN),
            b"load" => self.effects.insert(Effects::LOAD),
            b"do" => self.effects.insert(Effects::CODE),
            // What drivers' pools send when a connection comes back to them.
            b"reset" => self.effects.insert(Effects::PARAMETER),
            b"unlisten" | b"close" | b"deallocate" | b"discard" | b"drop" => self.effects.insert(Effects::RELEASE),
            // EXPLAIN ANALYZE runs what follows, which may be anything but a SET.
            _ => {}
        }
    }

    fn any_word(&mut self, word: &[u8]) {
        self.before = match word {
            b"create" | b"or" | b"replace" | b"into" | b"local" | b"global" => Before::Makes,
            b"with" => Before::With,
            _ => Before::Other,
        };
        self.named(word);
    }

    /// A name, quoted or not.
    fn named(&mut self, word: &[u8]) {
        let advisory = word.starts_with(b"pg_advisory_") || word.starts_with(b"pg_try_advisory_");
        if advisory && word.starts_with(b"pg_advisory_unlock") {
            self.effects.insert(Effects::RELEASE);
        } else if advisory && memchr::memmem::find(word, b"xact").is_none() {
            self.effects.insert(Effects::ADVISORY_LOCK);
        } else if word == b"set_config" {
            self.effects.insert(Effects::PARAMETER);
        } else if word.starts_with(b"pg_temp") {
            self.effects.insert(Effects::TEMPORARY);
        } else if matches!(word, b"lastval" | b"currval" | b"setseed") {
            self.effects.insert(Effects::SEQUENCE);
        }
    }
}

/// What a byte is, outside of quotes and comments.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Space,
    Letter,
    Digit,
    /// Something begins or ends here.
    Special,
    Other,
}

const CLASSES: [Class; 256] = classes();

const fn classes() -> [Class; 256] {
    let mut classes = [Class::Other; 256];
    let mut byte = 0;
    while byte < classes.len() {
        classes[byte] = match byte as u8 {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c | b'(' => Class::Space,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => Class::Letter,
            b'0'..=b'9' => Class::Digit,
            b'\'' | b'"' | b'$' | b'-' | b'/' | b';' => Class::Special,
            _ => Class::Other,
        };
        byte += 1;
    }
    classes
}

/// Bytes that go on with a word, and with a number.
const IN_WORD: [bool; 256] = in_words();
const IN_NUMBER: [bool; 256] = in_numbers();

const fn in_words() -> [bool; 256] {
    let mut goes_on = [false; 256];
    let mut byte = 0;
    while byte < goes_on.len() {
        goes_on[byte] = matches!(CLASSES[byte], Class::Letter | Class::Digit) || byte as u8 == b'$';
        byte += 1;
    }
    goes_on
}

const fn in_numbers() -> [bool; 256] {
    let mut goes_on = [false; 256];
    let mut byte = 0;
    while byte < goes_on.len() {
        goes_on[byte] = (byte as u8).is_ascii_alphanumeric() || matches!(byte as u8, b'.' | b'_');
        byte += 1;
    }
    goes_on
}

/// Where bytes that go on end, from here on.
#[inline]
fn end_of(goes_on: &[bool; 256], text: &[u8], mut at: usize) -> usize {
    while at < text.len() && goes_on[usize::from(text[at])] {
        at += 1;
    }
    at
}

/// Whether a word could be one that matters at the start of a statement, likewise.
fn may_begin(word: &[u8]) -> bool {
    match (word[0].to_ascii_lowercase(), word.len()) {
        // set; prepare; create, close; with
        (b's', 3) | (b'p', 7) | (b'c', 5 | 6) | (b'w', 4) => true,
        // listen, load; do, deallocate, discard, drop; reset; unlisten
        (b'l', 4 | 6) | (b'd', 2 | 4 | 7 | 10) | (b'r', 5) | (b'u', 8) => true,
        _ => false,
    }
}

/// Whether a word could be one that matters where no keyword is open: by its first letter and its length. That spares most words
/// the comparisons with all of them.
fn may_matter(word: &[u8]) -> bool {
    match (word[0].to_ascii_lowercase(), word.len()) {
        // create, currval; or; replace; into; local, lastval; global; with
        (b'c', 6 | 7) | (b'o', 2) | (b'r', 7) | (b'i', 4) | (b'l', 5 | 7) | (b'g', 6) | (b'w', 4) => true,
        // set_config, setseed; temp, temporary; hold
        (b's', 7 | 10) | (b't', 4 | 9) | (b'h', 4) => true,
        // pg_advisory_…, pg_try_advisory_…, pg_temp…
        (b'p', 7..) => word[2] == b'_',
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(text: &str) -> Effects {
        effects_of(text.as_bytes())
    }

    #[test]
    fn ordinary_statements_leave_nothing() {
        for text in [
            "",
            "select abalance from pgbench_accounts where aid = 1234",
            "UPDATE t SET temp = 1, hold = 2 WHERE a = 'x; SET y'",
            "INSERT INTO t (load, listen) VALUES ('''; LISTEN x', $1, $$; SET a$$, E'\\'; RESET ALL')",
            "BEGIN; SELECT 1; COMMIT",
            "set transaction isolation level serializable",
            "SET CONSTRAINTS ALL DEFERRED",
            "PREPARE TRANSACTION 'x'",
            "select pg_advisory_xact_lock(1)",
            "-- SET x\nSELECT 1 /* ; LISTEN /* ; x */ ; RESET ALL */",
            "DECLARE c CURSOR FOR SELECT 1",
            "select 1 from t where a = $1 and b = $2",
            "WITH x AS (SELECT 1) SELECT * FROM x",
            "update weather set temp = temp + 1",
            "SELECT \"temp\" FROM \"SET\" AS \"LISTEN\"",
            "SELECT E'a'\n'; SET x = 1' -- '\n'\\'; SET y = 1'",
        ] {
            assert_eq!(of(text), Effects::NONE, "{text}");
        }
    }

    #[test]
    fn statements_that_leave_state_are_seen_wherever_they_stand() {
        for (text, effect) in [
            ("SET search_path = a", Effects::PARAMETER),
            ("  /* hi */ set\tsession x to y", Effects::PARAMETER),
            ("select 1; SET", Effects::PARAMETER),
            ("SET \"a.b\" = 1", Effects::PARAMETER),
            ("SELECT set_config('a.b', 'c', false)", Effects::PARAMETER),
            ("SELECT pg_catalog.set_config('a.b', 'c', false)", Effects::PARAMETER),
            ("SELECT '--'; SET x = 1", Effects::PARAMETER),
            ("SELECT $a$ '$b$ $a$; SET x = 1", Effects::PARAMETER),
            ("SELECT $$ $ $$; SET x = 1", Effects::PARAMETER),
            ("SELECT $a$ $a $a$; SET x = 1", Effects::PARAMETER),
            ("SELECT E'a''\\''; SET x = 1", Effects::PARAMETER),
            ("SELECT E'a'\n '\\''; SET x = 1; --'", Effects::PARAMETER),
            ("SELECT E'a' -- it's\n\t'\\''; SET x = 1; --'", Effects::PARAMETER),
            ("SELECT E'a' - 1; SET x = 1", Effects::PARAMETER),
            ("SELECT E'a'; SET x = 1", Effects::PARAMETER),
            ("SET LOCAL search_path = a", Effects::LOCAL_PARAMETER),
            ("LISTEN x", Effects::LISTEN),
            ("SELECT pg_try_advisory_lock(1)", Effects::ADVISORY_LOCK),
            ("SELECT pg_advisory_lock(1)", Effects::ADVISORY_LOCK),
            ("RESET ALL; SET a = b", Effects::PARAMETER),
            ("CREATE TEMP TABLE t (a int)", Effects::TEMPORARY),
            ("CREATE OR REPLACE TEMPORARY VIEW v AS SELECT 1", Effects::TEMPORARY),
            ("create /* x */ local -- y\n temp table t ()", Effects::TEMPORARY),
            ("SELECT 1 INTO TEMP t", Effects::TEMPORARY),
            ("CREATE TABLE pg_temp.t ()", Effects::TEMPORARY),
            ("CREATE TABLE \"pg_temp\".t ()", Effects::TEMPORARY),
            ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", Effects::HOLD_CURSOR),
            ("PREPARE a AS SELECT 1", Effects::PREPARE),
            ("DEALLOCATE ALL", Effects::RELEASE),
            ("SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *", Effects::RELEASE),
            ("RESET ALL", Effects::PARAMETER),
            ("SELECT \"set_config\"('a.b', 'c', false)", Effects::PARAMETER),
            ("SELECT pg_catalog.\"lastval\"()", Effects::SEQUENCE),
            ("SELECT U&\"\\0073et_config\"('a.b', 'c', false)", Effects::UNREADABLE),
            ("LOAD 'auto_explain'", Effects::LOAD),
            ("DISCARD ALL", Effects::RELEASE),
            ("select lastval()", Effects::SEQUENCE),
            ("DO $$ begin set x = 1; end $$", Effects::CODE),
            ("(SELECT 1); listen a", Effects::LISTEN),
        ] {
            assert_eq!(of(text), effect, "{text}");
        }
    }

    /// Texts of all the words that matter, and of some that do not.
    fn of_words() -> impl Strategy<Value = String> {
        let words = vec![
            "SET",
            "local",
            "Transaction",
            "constraints",
            "PREPARE",
            "create",
            "OR",
            "Replace",
            "INTO",
            "global",
            "WITH",
            "hold",
            "Temp",
            "TEMPORARY",
            "listen",
            "LOAD",
            "do",
            "RESET",
            "discard",
            "pg_temp_3",
            "PG_ADVISORY_LOCK",
            "pg_try_advisory_lock",
            "pg_advisory_xact_lock",
            "pg_advisory_unlock",
            "set_config",
            "LastVal",
            "currval",
            "setseed",
            "SELECT",
            "x",
            "a1$",
            "ünï",
            "1.5e3",
            "42",
            "$1",
            "$$;set$$",
            "'q'",
            "\"n\"",
            ";",
            ",",
            "(",
            ")",
            "--c\n",
            "/*c*/",
            "pgbench_accounts",
            "a_word_of_more_than_thirty_two_bytes",
        ];
        let separators = vec![" ", "", "\n", " = "];
        let part = (proptest::sample::select(words), proptest::sample::select(separators));
        proptest::collection::vec(part, 0..12)
            .prop_map(|parts| parts.into_iter().map(|(word, separator)| format!("{word}{separator}")).collect())
    }

    proptest! {
        #[test]
        fn words_are_the_same_whole_and_byte_by_byte(text in of_words()) {
            let mut scan = StatementScan::new();
            text.as_bytes().chunks(1).for_each(|byte| scan.feed(byte));
            prop_assert_eq!(scan.finish(), of(&text), "{}", text);
        }

        #[test]
        fn pieces_never_hide_what_the_whole_shows(text in "[a-zSETLI '$;*/\\\\\"-]{0,60}", cut in 0usize..60) {
            let bytes = text.as_bytes();
            let cut = cut.min(bytes.len());
            let mut scan = StatementScan::new();
            scan.feed(&bytes[..cut]);
            scan.feed(&bytes[cut..]);
            let pieces = scan.finish();
            let whole = effects_of(bytes);
            prop_assert!(pieces.has_all(whole) || pieces.has(Effects::UNREADABLE), "{pieces} for {whole}");
        }

        #[test]
        fn any_bytes_are_read_to_the_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = effects_of(&bytes).names().count();
        }
    }
}
