//! What was found, as a table.

use std::fmt;
use std::time::Duration;

/// A figure, what it is compared with, and what it should be.
pub(crate) struct Row {
    what: String,
    figure: String,
    beside: String,
    ratio: String,
    goal: &'static str,
}

impl Row {
    /// A figure alone.
    pub(crate) fn alone(what: impl Into<String>, figure: f64, digits: usize, goal: &'static str) -> Self {
        let none = || "–".to_owned();
        Self { what: what.into(), figure: format!("{figure:.digits$}"), beside: none(), ratio: none(), goal }
    }

    /// A figure beside another, which is said in words.
    pub(crate) fn beside(mut self, name: &str, other: f64, digits: usize) -> Self {
        self.beside = format!("{name}: {other:.digits$}");
        if let Ok(figure) = self.figure.parse::<f64>()
            && other > 0.0
        {
            self.ratio = format!("{:.2}", figure / other);
        }
        self
    }

    /// The figure itself with more words to it.
    pub(crate) fn saying(mut self, words: &str) -> Self {
        self.beside = words.to_owned();
        self
    }
}

/// What one part found.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) rows: Vec<Row>,
    /// What is to be known about them.
    pub(crate) notes: Vec<String>,
}

/// All parts.
pub(crate) struct Report {
    pub(crate) title: String,
    pub(crate) found: Found,
}

impl Report {
    pub(crate) fn add(&mut self, found: Found) {
        self.found.rows.extend(found.rows);
        self.found.notes.extend(found.notes);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.title)?;
        writeln!(f, "| what | figure | beside | ratio | goal |")?;
        writeln!(f, "|---|---|---|---|---|")?;
        for Row { what, figure, beside, ratio, goal } in &self.found.rows {
            writeln!(f, "| {what} | {figure} | {beside} | {ratio} | {goal} |")?;
        }
        for note in &self.found.notes {
            write!(f, "\n- {note}")?;
        }
        Ok(())
    }
}

/// Microseconds of each of so many.
pub(crate) fn micros_each(time: Duration, count: u64) -> f64 {
    time.as_secs_f64() * 1e6 / count.max(1) as f64
}
