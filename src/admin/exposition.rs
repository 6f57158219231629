//! Prometheus' text format (version 0.0.4), for what is counted elsewhere than in the recorder.

use std::fmt::Write as _;

use crate::metrics::Family;
use crate::times::Histogram;

/// The text so far.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    text: String,
}

impl Exposition {
    /// Begins a family; its series follow.
    pub(super) fn family(&mut self, family: &'static Family) -> Series<'_> {
        let Family { name, kind, help } = family;
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
        Series { text: self, name }
    }

    /// A family of one series without labels.
    pub(super) fn value(&mut self, family: &'static Family, value: impl Into<f64>) {
        self.family(family).value(&[], value);
    }

    /// A histogram without labels.
    pub(super) fn histogram(&mut self, family: &'static Family, histogram: &Histogram) {
        let name = family.name;
        self.family(family);
        for (bound, count) in histogram.cumulative() {
            self.line(format_args!("{name}_bucket{{le=\"{bound}\"}} {count}"));
        }
        self.line(format_args!("{name}_bucket{{le=\"+Inf\"}} {}", histogram.count()));
        self.line(format_args!("{name}_sum {}", histogram.sum().as_secs_f64()));
        self.line(format_args!("{name}_count {}", histogram.count()));
    }

    /// All of it.
    pub(super) fn finish(self) -> String {
        self.text
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // A String takes whatever is written.
        let _ = writeln!(self.text, "{line}");
    }
}

/// The series of one family.
pub(super) struct Series<'a> {
    text: &'a mut Exposition,
    name: &'static str,
}

impl Series<'_> {
    /// One series.
    pub(super) fn value(&mut self, labels: &[(&str, &str)], value: impl Into<f64>) {
        let (name, value) = (self.name, value.into());
        if labels.is_empty() {
            return self.text.line(format_args!("{name} {value}"));
        }
        let labels: Vec<_> = labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
        self.text.line(format_args!("{name}{{{}}} {value}", labels.join(",")));
    }
}

/// A label's value between its quotes.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::Kind;
    use crate::times::Times;

    const FAMILY: Family = Family { name: "things_total", kind: Kind::Counter, help: "Things" };

    #[test]
    fn labels_are_escaped_and_each_family_is_declared() {
        let mut text = Exposition::default();
        let mut series = text.family(&FAMILY);
        series.value(&[("a", "q\"b\\c\nd"), ("e", "f")], 2);
        series.value(&[], 0.5);
        let expected = "# HELP things_total Things\n# TYPE things_total counter\n\
                        things_total{a=\"q\\\"b\\\\c\\nd\",e=\"f\"} 2\nthings_total 0.5\n";
        assert_eq!(text.finish(), expected);
    }

    #[test]
    fn buckets_are_cumulative_and_end_with_everything() {
        let times = Times::default();
        for millis in [0, 1, 3, 60_000] {
            times.add(Duration::from_millis(millis));
        }
        let mut text = Exposition::default();
        text.histogram(&FAMILY, &times.histogram());
        let text = text.finish();
        for line in
            ["_bucket{le=\"0.0001\"} 1", "_bucket{le=\"0.001\"} 2", "_bucket{le=\"0.005\"} 3", "_bucket{le=\"30\"} 3"]
        {
            assert!(text.contains(&format!("things_total{line}\n")), "{line}: {text}");
        }
        assert!(text.ends_with("_bucket{le=\"+Inf\"} 4\nthings_total_sum 60.004\nthings_total_count 4\n"), "{text}");
    }
}
