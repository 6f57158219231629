//! SQL text in tokens, for the few texts that are read closely. What is not looked into is one token as well.

/// A token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A word without quotes, in lower case.
    Word(String),
    /// A quoted name.
    Name(String),
    Literal(String),
    Number(String),
    Symbol(u8),
    /// Something that is not looked into.
    Odd,
}

/// The tokens of a text, comments and spaces left out.
pub(super) struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Tokens<'a> {
    pub(super) fn of(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }
}

impl Iterator for Tokens<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        self.skip_space();
        let rest = &self.text[self.at..];
        let first = *rest.first()?;
        let (length, token) = match first {
            b'\'' => of_quoted(rest, b'\'', Token::Literal),
            b'"' => of_quoted(rest, b'"', Token::Name),
            b'$' => dollar(rest),
            b'0'..=b'9' => {
                let length = rest.iter().take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_')).count();
                (length, Token::Number(String::from_utf8_lossy(&rest[..length]).into_owned()))
            }
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => word(rest),
            symbol => (1, Token::Symbol(symbol)),
        };
        self.at += length;
        Some(token)
    }
}

impl Tokens<'_> {
    fn skip_space(&mut self) {
        loop {
            self.skip_space_and_line_comments();
            let rest = &self.text[self.at..];
            if !rest.starts_with(b"/*") {
                return;
            }
            self.at += block_comment(rest);
        }
    }

    fn skip_space_and_line_comments(&mut self) {
        loop {
            let rest = &self.text[self.at..];
            self.at += match rest {
                [b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c, ..] => 1,
                [b'-', b'-', ..] => memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len()),
                _ => return,
            };
        }
    }
}

/// The length of a block comment, which may hold others.
fn block_comment(text: &[u8]) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < text.len() {
        match &text[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] if depth == 1 => return at + 2,
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    text.len()
}

fn word(text: &[u8]) -> (usize, Token) {
    let part = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$') || *b >= 0x80;
    let length = text.iter().take_while(|b| part(b)).count();
    let prefix = &text[..length];
    let after = &text[length..];
    match after.first() {
        Some(b'\'') if prefix.eq_ignore_ascii_case(b"e") => {
            let (n, literal) = escaped(after);
            (length + n, literal)
        }
        // Bits, national characters.
        Some(b'\'') => (length + quoted(after, b'\'').0, Token::Odd),
        // Code points.
        Some(b'&') if prefix.eq_ignore_ascii_case(b"u") => match after.get(1) {
            Some(quote @ (b'\'' | b'"')) => (length + 1 + quoted(&after[1..], *quote).0, Token::Odd),
            _ => (length + 1, Token::Odd),
        },
        _ => match std::str::from_utf8(prefix) {
            Ok(word) => (length, Token::Word(word.to_ascii_lowercase())),
            Err(_) => (length, Token::Odd),
        },
    }
}

/// A string or name in quotes; one that has no end or is not UTF-8 is not looked into.
fn of_quoted(text: &[u8], quote: u8, token: fn(String) -> Token) -> (usize, Token) {
    let (length, content) = quoted(text, quote);
    (length, content.map_or(Token::Odd, token))
}

/// The length of a string or name in quotes, and what is in it, doubled quotes made single.
fn quoted(text: &[u8], quote: u8) -> (usize, Option<String>) {
    let (mut content, mut at) = (Vec::new(), 1);
    loop {
        let Some(end) = memchr::memchr(quote, &text[at..]).map(|end| at + end) else { return (text.len(), None) };
        content.extend_from_slice(&text[at..end]);
        if text.get(end + 1) != Some(&quote) {
            return (end + 1, String::from_utf8(content).ok());
        }
        content.push(quote);
        at = end + 2;
    }
}

/// The string with escapes at whose first quote a text begins, further lines of it included: plain if there are no escapes.
fn escaped(text: &[u8]) -> (usize, Token) {
    let (mut content, mut at, mut is_plain) = (Vec::new(), 1, true);
    loop {
        let Some(end) = memchr::memchr2(b'\'', b'\\', &text[at..]).map(|end| at + end) else {
            return (text.len(), Token::Odd);
        };
        content.extend_from_slice(&text[at..end]);
        if text[end] == b'\\' {
            is_plain = false;
            at = (end + 2).min(text.len());
            continue;
        }
        if text.get(end + 1) == Some(&b'\'') {
            content.push(b'\'');
            at = end + 2;
            continue;
        }
        let mut rest = Tokens { text, at: end + 1 };
        rest.skip_space_and_line_comments();
        if text.get(rest.at) != Some(&b'\'') {
            let literal = String::from_utf8(content).ok().filter(|_| is_plain);
            return (end + 1, literal.map_or(Token::Odd, Token::Literal));
        }
        at = rest.at + 1;
    }
}

/// `$1`, or a string in dollar quotes.
fn dollar(text: &[u8]) -> (usize, Token) {
    let tag = text[1..].iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_' || **b >= 0x80).count();
    if text.get(1 + tag) != Some(&b'$') {
        return (1 + tag, Token::Odd);
    }
    let quote = &text[..tag + 2];
    match memchr::memmem::find(&text[quote.len()..], quote) {
        Some(end) => match std::str::from_utf8(&text[quote.len()..quote.len() + end]) {
            Ok(content) => (2 * quote.len() + end, Token::Literal(content.to_owned())),
            Err(_) => (2 * quote.len() + end, Token::Odd),
        },
        None => (text.len(), Token::Odd),
    }
}

/// Whether a string in the text may be one that date and time types read as a moment of their own each time it is parsed: `'now'`,
/// `'today'` and their like. A false alarm is possible where strings are not looked into.
#[must_use]
pub fn names_a_moment(text: &[u8]) -> bool {
    let mut tokens = Tokens::of(text);
    loop {
        let before = tokens.at;
        match tokens.next() {
            None => return false,
            Some(Token::Literal(literal)) if has_moment(literal.as_bytes()) => return true,
            Some(Token::Odd) => {
                let odd = &text[before..tokens.at];
                // An escape may spell what is not seen.
                let has_escapes = odd.contains(&b'\\') || odd.contains(&b'&');
                if has_escapes || has_moment(odd) {
                    return true;
                }
            }
            Some(_) => {}
        }
    }
}

fn has_moment(literal: &[u8]) -> bool {
    const MOMENTS: [&[u8]; 4] = [b"now", b"today", b"tomorrow", b"yesterday"];
    literal
        .split(|byte| !byte.is_ascii_alphabetic())
        .any(|word| MOMENTS.iter().any(|moment| moment.eq_ignore_ascii_case(word)))
}

/// A word without quotes; empty where there is none.
pub(super) fn word_at(tokens: &[Token], at: usize) -> &str {
    match tokens.get(at) {
        Some(Token::Word(word)) => word,
        _ => "",
    }
}

/// The prepared statement that a text gives up, if that is all it does: `DEALLOCATE [PREPARE] name`.
#[must_use]
pub fn deallocated(text: &[u8]) -> Option<String> {
    const COMMAND: &[u8] = b"deallocate";
    if !text.trim_ascii_start().get(..COMMAND.len()).is_some_and(|first| first.eq_ignore_ascii_case(COMMAND)) {
        return None;
    }
    let tokens = Tokens::of(text).collect::<Vec<_>>();
    let tokens = tokens.strip_suffix(&[Token::Symbol(b';')]).unwrap_or(&tokens);
    let name = match tokens {
        [Token::Word(first), name] if first == "deallocate" => name,
        [Token::Word(first), Token::Word(second), name] if first == "deallocate" && second == "prepare" => name,
        _ => return None,
    };
    match name {
        Token::Word(name) if name == "all" => None,
        Token::Word(name) | Token::Name(name) => Some(name.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_looked_into_ends_where_it_ends() {
        let words = |text: &[u8]| {
            let word = |token| if let Token::Word(word) = token { Some(word) } else { None };
            Tokens::of(text).filter_map(word).collect::<Vec<_>>()
        };
        for text in [
            &b"a E'\\'' z"[..],
            b"a E'x'\n'\\'' z",
            b"a E'x' --'\n '' z",
            b"a E'x''\\\\' z",
            b"a B'01' z",
            b"a U&'\\' z",
            b"a u&\"x\"\"\" z",
            b"a '\xe9' z",
            b"a \"\xe9\" z",
            b"a $x$ ' $x$ z",
        ] {
            assert_eq!(words(text), ["a", "z"], "{}", String::from_utf8_lossy(text));
        }
        assert_eq!(Tokens::of(b"E'a'\n'b'").collect::<Vec<_>>(), [Token::Literal("ab".to_owned())]);
        assert_eq!(words(b"a E'\\' z"), ["a"], "it has no end");
    }

    #[test]
    fn a_text_that_deallocates_one_statement_names_it() {
        for (text, name) in [
            ("DEALLOCATE a1", Some("a1")),
            ("deallocate prepare \"A b\" ;", Some("A b")),
            ("DEALLOCATE /* x */ pdo_stmt_00000001", Some("pdo_stmt_00000001")),
            ("DEALLOCATE ALL", None),
            ("DEALLOCATE PREPARE ALL", None),
            ("DEALLOCATE a; SELECT 1", None),
            ("SELECT 1", None),
        ] {
            assert_eq!(deallocated(text.as_bytes()).as_deref(), name, "{text}");
        }
    }
}
