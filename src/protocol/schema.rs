//! Statements that change the schema, as far as their text shows.

/// Whether a statement may make, change or drop what other texts name: a false alarm costs parsing them once more.
#[must_use]
pub fn changes_schema(text: &[u8]) -> bool {
    let has = |word: &[u8]| {
        let (lower, upper) = (word[0], word[0].to_ascii_uppercase());
        memchr::memchr2_iter(lower, upper, text)
            .any(|at| text.get(at..at + word.len()).is_some_and(|found| found.eq_ignore_ascii_case(word)))
    };
    let inserts = text.trim_ascii_start().get(..6).is_some_and(|first| first.eq_ignore_ascii_case(b"insert"));
    has(b"create") || has(b"alter") || has(b"drop") || has(b"import") || (has(b"into") && !inserts) || has(b"do ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_changes_or_drops_is_seen_and_what_reads_and_writes_rows_is_not() {
        for text in [
            "CREATE TABLE t ()",
            "alter table t add a int",
            "SELECT 1 INTO t",
            "WITH x AS (SELECT 1) SELECT * INTO t FROM x",
            "DO $$ $$",
        ] {
            assert!(changes_schema(text.as_bytes()), "{text}");
        }
        for text in ["SELECT 1", "INSERT INTO t VALUES (1)", " insert into t select 1", "UPDATE t SET a = 1", "", "c"] {
            assert!(!changes_schema(text.as_bytes()), "{text}");
        }
    }
}
