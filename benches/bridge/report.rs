//! Owns what the bench prints: a table, JSON, and charts.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

/// One figure of one program at one work, in one round.
#[derive(Debug, Clone)]
pub struct Figure {
    pub work: &'static str,
    pub program: &'static str,
    pub what: &'static str,
    pub value: f64,
}

/// All figures of all rounds.
#[derive(Debug, Default)]
pub struct Report {
    figures: Vec<Figure>,
}

/// The figures of one work by one program: medians over the rounds, in the order in which they came.
type Line = (&'static str, &'static str, Vec<(&'static str, Spread)>);

/// Smallest, middle and largest of some rounds.
#[derive(Debug, Clone, Copy)]
struct Spread {
    low: f64,
    median: f64,
    high: f64,
}

impl Report {
    pub fn add(&mut self, work: &'static str, program: &'static str, what: &'static str, value: f64) {
        self.figures.push(Figure { work, program, what, value });
    }

    fn lines(&self) -> Vec<Line> {
        let mut lines: Vec<Line> = Vec::new();
        for figure in &self.figures {
            let known = lines.iter().position(|line| (line.0, line.1) == (figure.work, figure.program));
            let at = known.unwrap_or_else(|| {
                lines.push((figure.work, figure.program, Vec::new()));
                lines.len() - 1
            });
            if !lines[at].2.iter().any(|(what, _)| *what == figure.what) {
                lines[at].2.push((figure.what, self.spread(figure)));
            }
        }
        lines
    }

    fn spread(&self, of: &Figure) -> Spread {
        let same = |figure: &&Figure| (figure.work, figure.program, figure.what) == (of.work, of.program, of.what);
        let mut values: Vec<f64> = self.figures.iter().filter(same).map(|figure| figure.value).collect();
        values.sort_by(f64::total_cmp);
        Spread { low: values[0], median: values[values.len() / 2], high: values[values.len() - 1] }
    }

    /// A table: a line for each work and program, with the CPU per event as a ratio to the straightforward program's.
    pub fn text(&self) -> String {
        let lines = self.lines();
        let cpu = |work: &str, program: &str| {
            let line = lines.iter().find(|line| line.0 == work && line.1 == program)?;
            line.2.iter().find(|(what, _)| *what == CPU).map(|(_, spread)| spread.median)
        };
        let mut text = String::new();
        for (work, program, figures) in &lines {
            let _ = write!(text, "{work:24} {program:16}");
            for (what, spread) in figures {
                let _ = write!(text, "  {what} {}", number(spread.median));
                if spread.low < spread.high {
                    let _ = write!(text, " ({}-{})", number(spread.low), number(spread.high));
                }
            }
            if let (Some(own), Some(base)) = (cpu(work, program), cpu(work, BASELINE))
                && *program != BASELINE
                && base > 0.0
            {
                let _ = write!(text, "  = {:.2} x {BASELINE}", own / base);
            }
            text.push('\n');
        }
        text
    }

    pub fn json(&self) -> Value {
        let lines = self.lines().into_iter().map(|(work, program, figures)| {
            let figures: BTreeMap<_, _> = figures
                .into_iter()
                .map(|(what, spread)| (what, json!({"median": spread.median, "low": spread.low, "high": spread.high})))
                .collect();
            json!({"work": work, "program": program, "figures": figures})
        });
        Value::Array(lines.collect())
    }

    /// A bar chart of the CPU per event, by work and program, as SVG.
    pub fn svg(&self) -> String {
        let bars: Vec<(String, f64)> = self
            .lines()
            .into_iter()
            .filter_map(|(work, program, figures)| {
                let cpu = figures.into_iter().find(|(what, _)| *what == CPU)?;
                Some((format!("{work}, {program}"), cpu.1.median))
            })
            .collect();
        let most = bars.iter().map(|bar| bar.1).fold(1.0, f64::max);
        let height = bars.len() * 24 + 40;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{height}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"760\" height=\"{height}\" fill=\"#ffffff\"/>\n\
             <text x=\"10\" y=\"20\" font-size=\"14\">CPU of the program per event, in µs (medians; shorter is better)</text>\n"
        );
        for (at, (label, value)) in bars.iter().enumerate() {
            let (y, width) = (at * 24 + 32, value / most * 380.0);
            let colour = if label.ends_with("knats") { "#2563eb" } else { "#9ca3af" };
            let _ = writeln!(
                svg,
                "<text x=\"290\" y=\"{}\" text-anchor=\"end\">{label}</text><rect x=\"300\" y=\"{y}\" width=\"{width:.1}\" \
                 height=\"18\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{}\">{}</text>",
                y + 14,
                width + 306.0,
                y + 14,
                number(*value)
            );
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// The figure that programs are compared by.
pub const CPU: &str = "CPU µs/event";
/// The program that they are compared to.
pub const BASELINE: &str = "straightforward";

fn number(value: f64) -> String {
    match value {
        1000.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
