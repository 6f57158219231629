//! Which session parameters a statement text sets or resets, read closely: only for texts in which a first scan saw that it may.
//!
//! The grammar is that of `SET`, `RESET` and `set_config` (documentation, SQL Commands; 9.28.1). What is not understood is opaque.

use super::tokens::{Token, Tokens, word_at};

/// What a text does to session parameters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parameters {
    /// Each parameter that is named, in order.
    pub touched: Vec<Touch>,
    /// `RESET ALL` or `DISCARD ALL`, the last of them behind so many of those.
    pub resets_all: Option<usize>,
    /// `DISCARD ALL` or `DEALLOCATE ALL`: prepared statements go.
    pub forgets_statements: bool,
    /// Something is set that cannot be told.
    pub is_opaque: bool,
    /// Nothing but what returns the session to what it was: what the pools of drivers send.
    pub only_resets: bool,
}

/// A parameter that a text names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touch {
    /// Its name in lower case.
    pub name: String,
    /// What is done to it.
    pub how: How,
}

/// What is done to a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// It is set for the session; to these values, where the text says so plainly.
    Set(Option<Vec<String>>),
    /// It is set until the transaction ends.
    Local(Option<Vec<String>>),
    /// It returns to what it was when the session began.
    Reset,
}

/// Longest name of a parameter that is carried.
const NAME_BYTES_MAX: usize = 128;

/// Reads a whole text.
#[must_use]
pub fn parameters_of(text: &[u8]) -> Parameters {
    let mut found = Parameters { only_resets: true, ..Parameters::default() };
    let tokens = Tokens::of(text).collect::<Vec<_>>();
    for statement in tokens.split(|token| *token == Token::Symbol(b';')) {
        found.only_resets &= is_reset(statement);
        match statement.split_first() {
            Some((Token::Word(word), rest)) if word == "set" => found.set(rest),
            Some((Token::Word(word), rest)) if word == "reset" => found.reset(rest),
            Some((Token::Word(word), _)) if word == "discard" || word == "deallocate" => found.discard(statement),
            _ => found.calls(statement),
        }
    }
    found
}

impl Parameters {
    fn touch(&mut self, name: &str, how: How) {
        let name = name.to_ascii_lowercase();
        let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'$');
        match name.as_str() {
            // These are the transaction's.
            "transaction_isolation" | "transaction_read_only" | "transaction_deferrable" => {}
            // It cannot be read; who a session is cannot be carried.
            "seed" | "" => self.is_opaque = true,
            "session_authorization" => {
                self.is_opaque = true;
                self.touched.push(Touch { name, how });
            }
            _ if name.len() > NAME_BYTES_MAX || !name.bytes().all(known) => self.is_opaque = true,
            _ => self.touched.push(Touch { name, how }),
        }
    }

    /// The tokens after `SET`.
    fn set(&mut self, tokens: &[Token]) {
        let words = [word_at(tokens, 0), word_at(tokens, 1)];
        match words {
            ["transaction" | "constraints", _] => {}
            ["session", "characteristics"] => {
                for what in ["isolation", "read_only", "deferrable"] {
                    self.touch(&format!("default_transaction_{what}"), How::Set(None));
                }
            }
            ["session", "authorization"] if word_at(tokens, 2) == "default" => self.touch("role", How::Reset),
            ["session", "authorization"] => self.touch("session_authorization", How::Set(None)),
            ["session", _] => self.assignment(&tokens[1..], How::Set),
            ["local", _] => self.assignment(&tokens[1..], How::Local),
            _ => self.assignment(tokens, How::Set),
        }
    }

    fn assignment(&mut self, tokens: &[Token], how: fn(Option<Vec<String>>) -> How) {
        let (name, value) = match [word_at(tokens, 0), word_at(tokens, 1)] {
            ["time", "zone"] => ("timezone".to_owned(), &tokens[2..]),
            ["xml", "option"] => ("xmloption".to_owned(), &tokens[2..]),
            ["names", _] => ("client_encoding".to_owned(), &tokens[1..]),
            ["schema", _] => ("search_path".to_owned(), &tokens[1..]),
            ["role", next] if next != "to" && tokens.get(1) != Some(&Token::Symbol(b'=')) => {
                ("role".to_owned(), &tokens[1..])
            }
            _ => match assigned(tokens) {
                Some(assigned) => assigned,
                None => return self.is_opaque = true,
            },
        };
        let is_default = value.is_empty() || (value.len() == 1 && matches!(word_at(value, 0), "default" | "local"));
        if is_default {
            // A reset inside a transaction that ends with it is no lasting one, but no harm either.
            self.touch(&name, How::Reset);
        } else {
            self.touch(&name, how(values(value)));
        }
    }

    /// The tokens after `RESET`.
    fn reset(&mut self, tokens: &[Token]) {
        match [word_at(tokens, 0), word_at(tokens, 1)] {
            ["all", ""] => self.resets_all = Some(self.touched.len()),
            ["time", "zone"] => self.touch("timezone", How::Reset),
            ["transaction", "isolation"] => {}
            // The role goes with it.
            ["session", "authorization"] => self.touch("role", How::Reset),
            _ => match name(tokens) {
                Some((name, [])) => self.touch(&name, How::Reset),
                // Not a statement at all.
                _ => self.is_opaque = true,
            },
        }
    }

    /// `DISCARD …` and `DEALLOCATE …`.
    fn discard(&mut self, statement: &[Token]) {
        let words = [word_at(statement, 0), word_at(statement, 1), word_at(statement, 2)];
        if words[0] == "discard" && words[1] == "all" {
            self.resets_all = Some(self.touched.len());
        }
        self.forgets_statements |= words[1] == "all" || words[1..] == ["prepare", "all"];
    }

    /// `set_config` anywhere in a statement.
    fn calls(&mut self, tokens: &[Token]) {
        for (at, token) in tokens.iter().enumerate() {
            let (Token::Word(word) | Token::Name(word)) = token else { continue };
            if word == "set_config" {
                self.call(&tokens[at + 1..]);
            }
        }
    }

    /// The tokens after `set_config`.
    fn call(&mut self, tokens: &[Token]) {
        let Some(arguments) = arguments(tokens) else {
            return self.is_opaque = true;
        };
        let [name, value, local] = arguments[..] else {
            return self.is_opaque = true;
        };
        let is_local = match local {
            [Token::Word(word)] => word == "true",
            [Token::Literal(text)] => matches!(text.as_str(), "t" | "true" | "on" | "yes" | "1"),
            _ => false,
        };
        let value = match value {
            // The only list of names there is that is given as one text.
            [Token::Literal(text)] if is_path(name) => path(text),
            [Token::Literal(text)] => Some(vec![text.clone()]),
            _ => None,
        };
        let how = if is_local { How::Local(value) } else { How::Set(value) };
        match without_cast(name) {
            [Token::Literal(name)] => self.touch(name, how),
            _ if is_local => {}
            _ => self.is_opaque = true,
        }
    }
}

/// Whether a statement only takes state of the session away.
fn is_reset(statement: &[Token]) -> bool {
    match [word_at(statement, 0), word_at(statement, 1), word_at(statement, 2), word_at(statement, 3)] {
        ["reset" | "discard" | "close" | "unlisten" | "deallocate", ..] => true,
        ["set", "session", "authorization", "default"] => true,
        ["select", "pg_advisory_unlock_all", "", ""] => statement.len() == 4,
        _ => statement.is_empty(),
    }
}

fn is_path(name: &[Token]) -> bool {
    matches!(without_cast(name), [Token::Literal(name)] if name.eq_ignore_ascii_case("search_path"))
}

/// The schemas of a `search_path` in one text.
#[must_use]
pub fn path(text: &str) -> Option<Vec<String>> {
    let tokens = Tokens::of(text.as_bytes()).collect::<Vec<_>>();
    let plain = |token: &Token| matches!(token, Token::Word(_) | Token::Name(_) | Token::Symbol(b','));
    // `$user` is no word, but a name that is always quoted where it is shown.
    if tokens.is_empty() { Some(Vec::new()) } else { tokens.iter().all(plain).then(|| values(&tokens)).flatten() }
}

/// A literal before its `::text`.
fn without_cast(tokens: &[Token]) -> &[Token] {
    match tokens {
        [Token::Literal(_), Token::Symbol(b':'), Token::Symbol(b':'), Token::Word(_)] => &tokens[..1],
        _ => tokens,
    }
}

/// The arguments of a call, the tokens after the function's name given.
fn arguments(tokens: &[Token]) -> Option<Vec<&[Token]>> {
    let [Token::Symbol(b'('), tokens @ ..] = tokens else { return None };
    let (mut arguments, mut from, mut depth) = (Vec::new(), 0, 0);
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Symbol(b'(' | b'[') => depth += 1,
            Token::Symbol(b')') if depth == 0 => {
                arguments.push(&tokens[from..at]);
                return Some(arguments);
            }
            Token::Symbol(b')' | b']') => depth -= 1,
            Token::Symbol(b',') if depth == 0 => {
                arguments.push(&tokens[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    None
}

/// A parameter's name and what follows it.
fn name(tokens: &[Token]) -> Option<(String, &[Token])> {
    let (Token::Word(first) | Token::Name(first)) = tokens.first()? else { return None };
    let (mut name, mut rest) = (first.clone(), &tokens[1..]);
    while let [Token::Symbol(b'.'), Token::Word(part) | Token::Name(part), after @ ..] = rest {
        name = format!("{name}.{part}");
        rest = after;
    }
    Some((name, rest))
}

/// `name = …` or `name TO …`.
fn assigned(tokens: &[Token]) -> Option<(String, &[Token])> {
    let (name, rest) = name(tokens)?;
    match rest {
        [Token::Symbol(b'='), value @ ..] if !value.is_empty() => Some((name, value)),
        [Token::Word(to), value @ ..] if to == "to" && !value.is_empty() => Some((name, value)),
        _ => None,
    }
}

/// A list of plain values.
fn values(tokens: &[Token]) -> Option<Vec<String>> {
    let value = |tokens: &[Token]| match tokens {
        [Token::Word(text) | Token::Name(text) | Token::Literal(text) | Token::Number(text)] => Some(text.clone()),
        [Token::Symbol(b'-'), Token::Number(text)] => Some(format!("-{text}")),
        _ => None,
    };
    tokens.split(|token| *token == Token::Symbol(b',')).map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Effects, effects_of};
    use proptest::prelude::*;

    /// A short form: `name=value|value`, `name~` for a local one, `name!` for a reset, `*` for all, `?` for opaque.
    fn of(text: &str) -> String {
        let found = parameters_of(text.as_bytes());
        let value = |values: &Option<Vec<String>>| values.as_ref().map_or("?".to_owned(), |values| values.join("|"));
        let mut short: Vec<String> = found
            .touched
            .iter()
            .map(|touch| match &touch.how {
                How::Set(values) => format!("{}={}", touch.name, value(values)),
                How::Local(values) => format!("{}~{}", touch.name, value(values)),
                How::Reset => format!("{}!", touch.name),
            })
            .collect();
        short.extend(found.resets_all.map(|_| "*".to_owned()));
        short.extend(found.is_opaque.then(|| "?".to_owned()));
        short.join(" ")
    }

    #[test]
    fn every_form_of_set_and_reset_names_its_parameter() {
        for (text, expected) in [
            ("SET search_path = a, \"B c\", 'd'", "search_path=a|B c|d"),
            ("set Session /* x */ work_mem TO '4MB'; SELECT 1", "work_mem=4MB"),
            ("SET x.y = -1", "x.y=-1"),
            ("SET \"X\".y TO on", "x.y=on"),
            ("SET statement_timeout TO DEFAULT", "statement_timeout!"),
            ("SET TIME ZONE 'UTC'", "timezone=UTC"),
            ("SET TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE", "timezone=?"),
            ("SET TIME ZONE LOCAL", "timezone!"),
            ("SET NAMES 'LATIN1'", "client_encoding=LATIN1"),
            ("SET SCHEMA 'a'", "search_path=a"),
            ("SET ROLE bob", "role=bob"),
            ("SET role TO bob", "role=bob"),
            ("SET ROLE NONE", "role=none"),
            ("SET LOCAL a.b = 'c'", "a.b~c"),
            (
                "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
                "default_transaction_isolation=? default_transaction_read_only=? default_transaction_deferrable=?",
            ),
            ("SET TRANSACTION READ ONLY; SET CONSTRAINTS ALL DEFERRED", ""),
            ("RESET ALL", "*"),
            ("RESET a.b; RESET TIME ZONE; RESET ROLE", "a.b! timezone! role!"),
            ("SET SESSION AUTHORIZATION DEFAULT; RESET SESSION AUTHORIZATION", "role! role!"),
            ("DISCARD ALL", "*"),
            ("DISCARD TEMP; DEALLOCATE a", ""),
            ("SELECT set_config('a.b', $1, false)", "a.b=?"),
            ("SELECT pg_catalog.set_config('a.B'::text, f(1, 2), true), set_config('c', $$d$$, false)", "a.b~? c=d"),
            ("SELECT set_config($1, $2, true)", ""),
            ("SELECT 'set_config', $x$ set_config($1) $x$ -- set_config(1)\n", ""),
        ] {
            assert_eq!(of(text), expected, "{text}");
        }
    }

    #[test]
    fn where_everything_is_reset_and_whether_statements_go_is_told() {
        let of = |text: &str| {
            let found = parameters_of(text.as_bytes());
            (found.resets_all, found.forgets_statements)
        };
        assert_eq!(of("SET a = 1; RESET ALL; SET b = 2"), (Some(1), false));
        assert_eq!(of("discard all"), (Some(0), true));
        assert_eq!(of("DEALLOCATE ALL"), (None, true));
        assert_eq!(of("DEALLOCATE PREPARE ALL"), (None, true));
        assert_eq!(of("DEALLOCATE a; DISCARD PLANS"), (None, false));
    }

    #[test]
    fn a_text_of_resets_alone_is_told_from_others() {
        for (text, is_so) in [
            (
                "SET SESSION AUTHORIZATION DEFAULT;RESET ALL;CLOSE ALL;UNLISTEN *;SELECT pg_advisory_unlock_all();DISCARD TEMP;",
                true,
            ),
            ("RESET SESSION AUTHORIZATION", true),
            ("RESET ROLE; SELECT 1", false),
            ("RESET ROLE; SELECT pg_advisory_unlock_all() FROM t", false),
            ("SET ROLE NONE", false),
        ] {
            assert_eq!(parameters_of(text.as_bytes()).only_resets, is_so, "{text}");
        }
    }

    #[test]
    fn a_path_is_a_list_of_names() {
        let list = |text| path(text).map(|names| names.join("|"));
        assert_eq!(list("\"$user\", public").as_deref(), Some("$user|public"));
        assert_eq!(list("A, \"B c\"").as_deref(), Some("a|B c"));
        assert_eq!(list("").as_deref(), Some(""));
        assert_eq!(list("a;b"), None);
        assert_eq!(list("a b"), None);
    }

    #[test]
    fn what_cannot_be_told_is_opaque() {
        for text in [
            "SELECT set_config($1, $2, false)",
            "SELECT set_config(name, setting, $1) FROM t",
            "SELECT set_config",
            "SET SESSION AUTHORIZATION bob",
            "SET seed TO 0.5",
            "SET U&\"a\" = 1",
            "SET a",
            "SET \"a b\" = 1",
            "RESET",
        ] {
            assert!(of(text).contains('?'), "{text}: {}", of(text));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_the_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parameters_of(&bytes);
        }

        #[test]
        fn what_is_found_here_the_first_scan_has_seen(
            text in "(SET|RESET|DISCARD|ALL|set_config|LOCAL|E'|U&\"|\\$[a1]?\\$|--|/\\*|\\*/|[a-c.'\"$(),;=/*\n-]| ){0,20}"
        ) {
            let (read, seen) = (parameters_of(text.as_bytes()), effects_of(text.as_bytes()));
            let may_change = [Effects::PARAMETER, Effects::LOCAL_PARAMETER, Effects::RELEASE, Effects::UNREADABLE];
            let finds = !read.touched.is_empty() || read.resets_all.is_some() || read.forgets_statements;
            prop_assert!(!finds || may_change.iter().any(|effect| seen.has(*effect)), "{read:?} in {seen}");
        }

        #[test]
        fn texts_of_the_grammars_own_pieces_are_read_to_the_end(
            text in "(SET|RESET|set_config|LOCAL|SESSION|ROLE|TIME|ZONE|[a-c.'\"$(),;=/*-]| ){0,20}"
        ) {
            let _ = parameters_of(text.as_bytes());
        }
    }
}
