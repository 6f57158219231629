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
            b'\'' => quoted(rest, b'\'').map_or((rest.len(), Token::Odd), |(n, text)| (n, Token::Literal(text))),
            b'"' => quoted(rest, b'"').map_or((rest.len(), Token::Odd), |(n, text)| (n, Token::Name(text))),
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
            let rest = &self.text[self.at..];
            self.at += match rest {
                [b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c, ..] => 1,
                [b'-', b'-', ..] => memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len()),
                [b'/', b'*', ..] => block_comment(rest),
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
    match text.get(length) {
        // A string with escapes: plain if there are none.
        Some(b'\'') if prefix.eq_ignore_ascii_case(b"e") => match quoted(&text[length..], b'\'') {
            Some((n, literal)) if !text[length..length + n].contains(&b'\\') => (length + n, Token::Literal(literal)),
            _ => (text.len(), Token::Odd),
        },
        // Bits, national characters, code points.
        Some(b'\'') => (text.len(), Token::Odd),
        Some(b'&') if prefix.eq_ignore_ascii_case(b"u") => (text.len(), Token::Odd),
        _ => match std::str::from_utf8(prefix) {
            Ok(word) => (length, Token::Word(word.to_ascii_lowercase())),
            Err(_) => (length, Token::Odd),
        },
    }
}

/// A string or name in quotes, doubled ones made single; its length in the text.
fn quoted(text: &[u8], quote: u8) -> Option<(usize, String)> {
    let (mut content, mut at) = (Vec::new(), 1);
    loop {
        let end = at + memchr::memchr(quote, &text[at..])?;
        content.extend_from_slice(&text[at..end]);
        if text.get(end + 1) != Some(&quote) {
            return Some((end + 1, String::from_utf8(content).ok()?));
        }
        content.push(quote);
        at = end + 2;
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
