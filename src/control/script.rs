//! The text of a migration file: its statements, what it says of itself, and the name of the place put into it.
//!
//! The lexical rules are those of PostgreSQL's scanner (documentation, 4.1 Lexical Structure) with `standard_conforming_strings = on`;
//! statements end as psql has it: not within parentheses, and not within the body of a `CREATE FUNCTION … BEGIN ATOMIC`.

use std::ops::Range;

use crate::tenant::quote_ident;

/// What stands for the place's schema.
const SCHEMA: &str = "{schema}";
/// How a comment begins that speaks to us.
const DIRECTIVE: &str = "pgtenant:";

/// What is wrong with a file's text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScriptError {
    /// A directive that nobody knows.
    #[error("unknown directive \"{0}\"; known is: -- pgtenant: no-transaction")]
    Directive(String),
    /// A directive that comes too late to count.
    #[error("directive \"{0}\" must stand before the first statement")]
    LateDirective(String),
    /// Transactions are ours to begin and end.
    #[error(
        "it has {0}; a file runs in one transaction (after -- pgtenant: no-transaction each statement in its own), without BEGIN, COMMIT or ROLLBACK"
    )]
    Transaction(String),
    /// Nobody could find what an interrupted run has left of it.
    #[error("CREATE INDEX CONCURRENTLY needs a name for the index, or an interrupted run could not be taken up again")]
    NamelessIndex,
    /// A quote or comment without its end.
    #[error("{0} has no end")]
    Open(&'static str),
}

/// A file's text, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Script {
    /// The whole text.
    pub(super) text: String,
    /// Whether it runs in one transaction; else statement by statement.
    pub(super) transactional: bool,
    statements: Vec<Range<usize>>,
}

impl Script {
    /// Understands a text.
    pub(super) fn parse(text: String) -> Result<Self, ScriptError> {
        let mut splitter = Splitter::default();
        for token in Tokens::new(&text) {
            let (token, range) = token?;
            splitter.take(token, &text[range.clone()], range)?;
        }
        let (transactional, statements) = splitter.finish(text.len());
        let script = Self { text, transactional, statements };
        for (_, statement) in script.statements() {
            check(statement, transactional)?;
        }
        Ok(script)
    }

    /// Its statements, without what ends them, each with the byte at which it begins.
    pub(super) fn statements(&self) -> impl Iterator<Item = (usize, &str)> {
        self.statements.iter().map(|range| (range.start, self.text[range.clone()].trim_end()))
    }
}

/// An index that a statement builds concurrently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ConcurrentIndex {
    /// The index.
    pub(super) name: String,
    /// The table, as it is written.
    pub(super) table: String,
}

/// The index that a statement builds concurrently, if it does; the outer error says that it has no name.
pub(super) fn concurrent_index(statement: &str) -> Result<Option<ConcurrentIndex>, ScriptError> {
    let mut words = words(statement).peekable();
    let mut next_is = |word: &str| words.next_if(|found| found.eq_ignore_ascii_case(word)).is_some();
    if !next_is("create") {
        return Ok(None);
    }
    next_is("unique");
    if !next_is("index") || !next_is("concurrently") {
        return Ok(None);
    }
    if next_is("if") {
        next_is("not");
        next_is("exists");
    }
    if next_is("on") {
        return Err(ScriptError::NamelessIndex);
    }
    let name = words.next().map(unquoted).unwrap_or_default();
    let mut next_is = |word: &str| words.next_if(|found| found.eq_ignore_ascii_case(word)).is_some();
    next_is("on");
    next_is("only");
    let mut table = words.next().unwrap_or_default().to_owned();
    while words.next_if(|word| *word == ".").is_some() {
        table = format!("{table}.{}", words.next().unwrap_or_default());
    }
    Ok(Some(ConcurrentIndex { name, table }))
}

/// Whether a statement says that it works beside others' use of what it changes.
pub(super) fn is_concurrent(statement: &str) -> bool {
    words(statement).any(|word| word.eq_ignore_ascii_case("concurrently"))
}

/// Whether a statement sets a parameter, which a later connection has to do again.
pub(super) fn is_setting(statement: &str) -> bool {
    words(statement).next().is_some_and(|word| ["set", "reset"].iter().any(|set| word.eq_ignore_ascii_case(set)))
}

/// The text with the schema's name wherever `{schema}` stands: as an identifier, and bare within quotes.
pub(super) fn with_schema(text: &str, schema: &str) -> String {
    if !text.contains(SCHEMA) {
        return text.to_owned();
    }
    let mut done = String::with_capacity(text.len() + 64);
    let mut at = 0;
    for token in Tokens::new(text).map_while(Result::ok) {
        let (token, range) = token;
        let name = match token {
            Token::Name => schema.replace('"', "\"\""),
            Token::Text { escapes: false } => schema.replace('\'', "''"),
            Token::Text { escapes: true } => schema.replace('\\', "\\\\").replace('\'', "''"),
            Token::Dollars => quote_ident(schema),
            // A brace is a token by itself, and no other token begins with it.
            Token::Other if text[range.start..].starts_with(SCHEMA) => {
                done.push_str(&text[at..range.start]);
                done.push_str(&quote_ident(schema));
                at = range.start + SCHEMA.len();
                continue;
            }
            Token::Other | Token::Word | Token::Comment => continue,
        };
        done.push_str(&text[at..range.start]);
        done.push_str(&text[range.clone()].replace(SCHEMA, &name));
        at = range.end;
    }
    done.push_str(&text[at..]);
    done
}

/// The words, names and signs of a statement.
fn words(statement: &str) -> impl Iterator<Item = &str> {
    Tokens::new(statement)
        .map_while(Result::ok)
        .filter(|(token, _)| *token != Token::Comment)
        .map(|(_, range)| &statement[range])
}

/// The name that an identifier stands for.
fn unquoted(word: &str) -> String {
    match word.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => word.to_lowercase(),
    }
}

fn check(statement: &str, transactional: bool) -> Result<(), ScriptError> {
    let mut words = words(statement);
    let first = words.next().unwrap_or_default().to_ascii_uppercase();
    let second = words.next().unwrap_or_default().to_ascii_uppercase();
    let controls = match (first.as_str(), second.as_str()) {
        ("BEGIN" | "COMMIT" | "END" | "ABORT", _) | ("START" | "PREPARE", "TRANSACTION") => true,
        ("ROLLBACK", _) => !(transactional && statement_is_rollback_to(statement)),
        ("SAVEPOINT" | "RELEASE", _) => !transactional,
        _ => false,
    };
    if controls {
        return Err(ScriptError::Transaction(first));
    }
    concurrent_index(statement).map(drop)
}

/// `ROLLBACK [WORK | TRANSACTION] TO …`, which stays within the transaction.
fn statement_is_rollback_to(statement: &str) -> bool {
    words(statement).skip(1).take(2).any(|word| word.eq_ignore_ascii_case("to"))
}

/// Finds where statements end.
#[derive(Default)]
struct Splitter {
    statements: Vec<Range<usize>>,
    /// Where the present statement's first token is.
    begun: Option<usize>,
    parentheses: usize,
    /// `BEGIN`s and `CASE`s without their `END` in the body of a function.
    blocks: usize,
    /// The first words of the statement, as far as they make it a function.
    head: Vec<String>,
    one_by_one: bool,
}

impl Splitter {
    fn take(&mut self, token: Token, text: &str, range: Range<usize>) -> Result<(), ScriptError> {
        match token {
            Token::Comment => return self.comment(text),
            Token::Word if self.parentheses == 0 => self.word(text),
            Token::Other => match text {
                "(" => self.parentheses += 1,
                ")" => self.parentheses = self.parentheses.saturating_sub(1),
                ";" if self.parentheses == 0 && self.blocks == 0 => {
                    self.end(range.start);
                    return Ok(());
                }
                _ => {}
            },
            Token::Word | Token::Name | Token::Text { .. } | Token::Dollars => {}
        }
        self.begun.get_or_insert(range.start);
        Ok(())
    }

    fn word(&mut self, word: &str) {
        let word = word.to_ascii_lowercase();
        let makes_function = ["create", "or", "replace", "function", "procedure"];
        if self.head.len() < 4 && makes_function.contains(&word.as_str()) {
            self.head.push(word);
            return;
        }
        let head: Vec<&str> = self.head.iter().map(String::as_str).collect();
        if !matches!(
            head[..],
            ["create", "function" | "procedure"] | ["create", "or", "replace", "function" | "procedure"]
        ) {
            return;
        }
        match word.as_str() {
            "begin" => self.blocks += 1,
            // It has an END, too.
            "case" if self.blocks > 0 => self.blocks += 1,
            "end" => self.blocks = self.blocks.saturating_sub(1),
            _ => {}
        }
    }

    fn comment(&mut self, text: &str) -> Result<(), ScriptError> {
        let directive = text.strip_prefix("--").map(str::trim).and_then(|text| text.strip_prefix(DIRECTIVE));
        let Some(directive) = directive.map(str::trim) else { return Ok(()) };
        if !directive.eq_ignore_ascii_case("no-transaction") {
            return Err(ScriptError::Directive(directive.to_owned()));
        }
        if self.begun.is_some() || !self.statements.is_empty() {
            return Err(ScriptError::LateDirective(directive.to_owned()));
        }
        self.one_by_one = true;
        Ok(())
    }

    fn end(&mut self, at: usize) {
        if let Some(begun) = self.begun.take() {
            self.statements.push(begun..at);
        }
        (self.parentheses, self.blocks) = (0, 0);
        self.head.clear();
    }

    fn finish(mut self, at: usize) -> (bool, Vec<Range<usize>>) {
        self.end(at);
        (!self.one_by_one, self.statements)
    }
}

/// What has no end, for messages.
const TEXT: &str = "a quoted text";

/// What a piece of text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    /// A keyword, an identifier without quotes, or a number.
    Word,
    /// `"…"`.
    Name,
    /// `'…'`, with or without backslash escapes.
    Text { escapes: bool },
    /// `$tag$…$tag$`.
    Dollars,
    /// `-- …` or `/* … */`.
    Comment,
    /// One character of anything else.
    Other,
}

/// The tokens of a text, without the space between them.
struct Tokens<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Tokens<'a> {
    const fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// The length of what is quoted from `from` bytes after here on; a doubled quote stands for itself.
    fn quoted(&self, from: usize, escapes: bool, what: &'static str) -> Result<usize, ScriptError> {
        let rest = &self.text.as_bytes()[self.at..];
        let mut n = from + 1;
        while let Some(&byte) = rest.get(n) {
            match byte {
                b'\\' if escapes => n += 2,
                quote if quote == rest[from] && rest.get(n + 1) != Some(&quote) => return Ok(n + 1),
                quote if quote == rest[from] => n += 2,
                _ => n += 1,
            }
        }
        Err(ScriptError::Open(what))
    }

    fn block_comment(&self) -> Result<usize, ScriptError> {
        let rest = &self.text.as_bytes()[self.at..];
        let (mut depth, mut n) = (0, 0);
        while n + 1 < rest.len() {
            match &rest[n..n + 2] {
                b"/*" => (depth, n) = (depth + 1, n + 2),
                b"*/" if depth == 1 => return Ok(n + 2),
                b"*/" => (depth, n) = (depth - 1, n + 2),
                _ => n += 1,
            }
        }
        Err(ScriptError::Open("a comment"))
    }

    /// The length of `$tag$`, if it is one.
    fn dollar_tag(&self) -> Option<usize> {
        let rest = &self.text[self.at + 1..];
        let tag = &rest[..rest.find('$')?];
        let is_tag = tag.chars().all(is_word) && !tag.starts_with(|c: char| c.is_ascii_digit());
        is_tag.then_some(tag.len() + 2)
    }

    /// The length of what is between this tag and its like.
    fn dollars(&self, tag: usize) -> Result<usize, ScriptError> {
        let (tag, rest) = self.text[self.at..].split_at(tag);
        let body = rest.find(tag).ok_or(ScriptError::Open("a text in dollar quotes"))?;
        Ok(body + 2 * tag.len())
    }

    fn token(&self, first: char) -> Result<(Token, usize), ScriptError> {
        let rest = &self.text[self.at..];
        let second = rest[first.len_utf8()..].chars().next();
        Ok(match (first, second) {
            ('-', Some('-')) => (Token::Comment, rest.find(['\n', '\r']).unwrap_or(rest.len())),
            ('/', Some('*')) => (Token::Comment, self.block_comment()?),
            ('\'', _) => (Token::Text { escapes: false }, self.quoted(0, false, TEXT)?),
            ('e' | 'E', Some('\'')) => (Token::Text { escapes: true }, self.quoted(1, true, TEXT)?),
            ('"', _) => (Token::Name, self.quoted(0, false, "a quoted name")?),
            ('$', _) => match self.dollar_tag() {
                Some(tag) => (Token::Dollars, self.dollars(tag)?),
                None => (Token::Other, 1),
            },
            // A dollar sign within a word begins no quote.
            (first, _) if is_word(first) => {
                let end = rest.find(|c: char| !is_word(c) && c != '$');
                (Token::Word, end.unwrap_or(rest.len()))
            }
            (first, _) => (Token::Other, first.len_utf8()),
        })
    }
}

impl Iterator for Tokens<'_> {
    type Item = Result<(Token, Range<usize>), ScriptError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
        let first = self.text[self.at..].chars().next()?;
        match self.token(first) {
            Ok((token, length)) => {
                let range = self.at..self.at + length;
                self.at = range.end;
                Some(Ok((token, range)))
            }
            Err(error) => {
                self.at = self.text.len();
                Some(Err(error))
            }
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<String> {
        Script::parse(text.to_owned()).unwrap().statements().map(|(_, statement)| statement.to_owned()).collect()
    }

    fn refused(text: &str) -> ScriptError {
        Script::parse(text.to_owned()).unwrap_err()
    }

    #[test]
    fn a_semicolon_ends_a_statement_only_where_it_means_that() {
        for one in [
            "SELECT ';'",
            "SELECT 'it''s;'",
            r"SELECT E'\';'",
            r"SELECT '\' AS a, ';'",
            "SELECT 1 AS \"a;\"\"b\"",
            "DO $$ BEGIN NULL; END $$",
            "DO $a$ BEGIN PERFORM $$;$$; END $a$",
            "SELECT /* ; /* ; */ ; */ 1",
            "SELECT 1 -- ;\n",
            "CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2)",
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END",
            "CREATE OR REPLACE PROCEDURE p() LANGUAGE sql BEGIN ATOMIC INSERT INTO t VALUES (1); END",
            "SELECT a$b$c FROM d$b$e",
        ] {
            let two = format!("{one};\nSELECT 2;");
            let found = split(&two);
            assert_eq!(found.len(), 2, "{one}");
            assert_eq!(found[1], "SELECT 2", "{one}");
        }
    }

    #[test]
    fn what_is_no_statement_is_none() {
        assert_eq!(split(" ; ;\n-- only this\n/* and this */ ;"), Vec::<String>::new());
        assert_eq!(split("SELECT 1"), ["SELECT 1"]);
        assert_eq!(split("CREATE TABLE begins (\"end\" int); SELECT 1").len(), 2);
    }

    #[test]
    fn the_directive_counts_only_where_it_can() {
        let parse = |text: &str| Script::parse(text.to_owned()).map(|script| script.transactional);
        assert_eq!(parse("SELECT 1"), Ok(true));
        assert_eq!(parse("-- About.\n--pgtenant:  No-Transaction \nSELECT 1"), Ok(false));
        assert_eq!(parse("SELECT '\n-- pgtenant: no-transaction\n'"), Ok(true));
        assert!(matches!(parse("-- pgtenant: no-transactoin"), Err(ScriptError::Directive(_))));
        assert!(matches!(parse("SELECT 1; -- pgtenant: no-transaction"), Err(ScriptError::LateDirective(_))));
    }

    #[test]
    fn a_file_neither_begins_nor_ends_transactions() {
        for text in
            ["BEGIN; SELECT 1", "SELECT 1; commit", "ROLLBACK", "START TRANSACTION", "END", "PREPARE TRANSACTION 'x'"]
        {
            assert!(matches!(refused(text), ScriptError::Transaction(_)), "{text}");
        }
        for text in ["SAVEPOINT a; SELECT 1; ROLLBACK TO a", "ROLLBACK WORK TO SAVEPOINT a", "PREPARE x AS SELECT 1"] {
            Script::parse(text.to_owned()).unwrap_or_else(|error| panic!("{text}: {error}"));
            let one_by_one = format!("-- pgtenant: no-transaction\n{text}");
            assert_eq!(Script::parse(one_by_one).is_err(), !text.starts_with("PREPARE"), "{text}");
        }
    }

    #[test]
    fn what_has_no_end_is_refused() {
        for text in ["SELECT 'a", "SELECT \"a", "DO $$ BEGIN", "/* /* */", r"SELECT E'\'"] {
            assert!(matches!(refused(text), ScriptError::Open(_)), "{text}");
        }
    }

    #[test]
    fn an_index_built_concurrently_is_known_by_name_and_table() {
        let index = |statement| concurrent_index(statement).unwrap().map(|index| (index.name, index.table));
        let found = |name: &str, table: &str| Some((name.to_owned(), table.to_owned()));
        assert_eq!(index("CREATE INDEX CONCURRENTLY Orders_N ON orders (n)"), found("orders_n", "orders"));
        assert_eq!(
            index("create unique index /* ! */ concurrently if not exists \"A\"\"b\" on only \"S\" . \"T\"(n)"),
            found("A\"b", "\"S\".\"T\"")
        );
        assert_eq!(index("CREATE INDEX a ON orders (n)"), None);
        assert_eq!(refused("CREATE INDEX CONCURRENTLY ON orders (n)"), ScriptError::NamelessIndex);
    }

    #[test]
    fn the_schemas_name_stands_as_its_surroundings_ask() {
        let put = |text| with_schema(text, "a'b\\");
        assert_eq!(put("SELECT * FROM {schema}.t"), "SELECT * FROM \"a'b\\\".t");
        assert_eq!(put("SELECT '{schema}', E'{schema}'"), "SELECT 'a''b\\', E'a''b\\\\'");
        assert_eq!(put("SELECT \"{schema}\""), "SELECT \"a'b\\\"");
        assert_eq!(put("DO $$ {schema}.f() $$ -- {schema}"), "DO $$ \"a'b\\\".f() $$ -- {schema}");
        assert_eq!(put("SELECT '{}'::text[]"), "SELECT '{}'::text[]");
    }
}
