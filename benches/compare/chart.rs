//! The proxies' CPU as bars, in SVG: no program is needed to look at them but a browser.

use std::fmt::Write;

use crate::report::Report;

const BAR_HEIGHT: f64 = 11.0;
const GROUP_GAP: f64 = 10.0;
const LEFT: f64 = 190.0;
const TOP: f64 = 74.0;
/// Width of a ratio of one.
const UNIT: f64 = 260.0;
const WIDTH: f64 = LEFT + 2.0 * UNIT + 60.0;
/// Longer bars are cut here; their figure is beside them.
const RATIO_MAX: f64 = 2.0;
const COLOURS: [(&str, &str); 6] = [
    ("pgbouncer", "#9aa0a6"),
    ("pgtenant", "#1a73e8"),
    ("pgtenant, epoll", "#12a4af"),
    ("pgtenant, keeping", "#9334e6"),
    ("odyssey", "#f9ab00"),
    ("haproxy", "#d5a6a0"),
];

/// The proxy's CPU seconds for a transaction over PgBouncer's, by workload.
pub(crate) fn draw(report: &Report) -> String {
    let mut bars = String::new();
    let mut y = TOP;
    for (workload, ratios) in report.cpu_ratios() {
        let middle = y + BAR_HEIGHT * ratios.len() as f64 / 2.0 + 4.0;
        text(&mut bars, LEFT - 8.0, middle, "end", &workload);
        for (target, ratio) in ratios {
            let colour = COLOURS.iter().find(|(name, _)| *name == target).map_or("#000000", |(_, colour)| *colour);
            let width = ratio.min(RATIO_MAX) * UNIT;
            let height = BAR_HEIGHT - 1.0;
            rectangle(&mut bars, LEFT, y, width, height, colour);
            text(&mut bars, LEFT + width + 4.0, y + 9.0, "start", &format!("{ratio:.2}"));
            y += BAR_HEIGHT;
        }
        y += GROUP_GAP;
    }
    let mut head = String::new();
    text(
        &mut head,
        8.0,
        16.0,
        "start",
        "CPU of the proxy for a transaction, over PgBouncer\u{2019}s in the same round (median)",
    );
    // Who, then how.
    let (who, how) = report.title().split_once("; ").unwrap_or((report.title(), ""));
    text(&mut head, 8.0, 30.0, "start", who);
    text(&mut head, 8.0, 44.0, "start", how);
    let taking_part = COLOURS.iter().filter(|(name, _)| report.has(name));
    for (index, (name, colour)) in taking_part.enumerate() {
        let x = 8.0 + 120.0 * index as f64;
        rectangle(&mut head, x, 52.0, 10.0, 10.0, colour);
        text(&mut head, x + 14.0, 61.0, "start", name);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{y}\" font-family=\"sans-serif\" font-size=\"10\">\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>{head}{bars}</svg>\n"
    )
}

fn rectangle(svg: &mut String, x: f64, y: f64, width: f64, height: f64, colour: &str) {
    // Writing to a String cannot fail.
    let _ = write!(svg, "<rect x=\"{x}\" y=\"{y}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{colour}\"/>");
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    // As above.
    let _ = write!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>");
}
